"""What the comparison found, as JSON (with every turn) and as a Markdown table (medians)."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.compare.agreement import Noise, differing, refusals
from bench.compare.demo import Demo
from bench.compare.ways import ARMS, Turn, Way
from pytest_compsec.models.identity import installed_versions

COLD, CACHED = "package-cold", "package-cached"
LOOP, EQUAL_LOOP = "loop", "loop-equal"
_SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "tie_word_embeddings",
)


@dataclasses.dataclass(frozen=True)
class Results:
    """All turns of all ways, in the order of the ways; ``left_out`` names those that were asked for
    and could not be taken, with the reason."""

    demo: Demo
    command: str
    prompts: Sequence[str]
    ways: Sequence[Way]
    turns: Mapping[str, Sequence[Turn]]
    noise: Noise | None
    load: tuple[float, float]
    left_out: tuple[str, ...] = ()

    def seconds(self, key: str) -> list[float]:
        return [turn.seconds for turn in self.turns[key]]

    def ratios(self, key: str, base: str) -> list[float]:
        """Turn by turn, so that a busy machine slows both sides of a ratio."""
        pairs = zip(self.seconds(key), self.seconds(base), strict=True)
        return [own / other for own, other in pairs]

    def refused(self, key: str, arm: str) -> tuple[bool, ...]:
        return refusals(self.prompts, self.turns[key][-1].texts(arm))

    def flips(self, key: str, base: str) -> dict[str, int]:
        """By arm, how many prompts one way calls refused and the other does not."""
        return {arm: differing(self.refused(key, arm), self.refused(base, arm)) for arm in ARMS}

    def same_texts(self, key: str, base: str) -> dict[str, int]:
        found = {}
        for arm in ARMS:
            own, other = (self.turns[name][-1].texts(arm) for name in (key, base))
            found[arm] = len(self.prompts) - differing(own, other)
        return found


def as_json(results: Results) -> dict[str, Any]:
    """Everything, for ``bench.cost.machine --paths`` and for whoever doubts the table."""
    demo = results.demo
    config = demo.arm("original", demo.dtype).module.config
    return {
        "command": results.command,
        "pair": demo.pair,
        "device": demo.device,
        "machine": machine(),
        "versions": {**installed_versions(), "lm_eval": _version("lm_eval")},
        "left_out": list(results.left_out),
        "load_average": list(results.load),
        "prompts": len(results.prompts),
        "model": {key: getattr(config, key, None) for key in _SIZES},
        "noise": None if results.noise is None else dataclasses.asdict(results.noise),
        "paths": [_path(results, way) for way in results.ways],
    }


def _path(results: Results, way: Way) -> dict[str, Any]:
    turns = results.turns[way.key]
    bases = [base for base in (LOOP, EQUAL_LOOP) if base in results.turns]
    return {
        "key": way.key,
        "name": way.title,
        "dtype": way.dtype,
        "new_tokens": way.new_tokens,
        "seconds": [turn.seconds for turn in turns],
        "beside": [turn.beside for turn in turns],
        "refused": {arm: sum(results.refused(way.key, arm)) for arm in ARMS},
        "flips": {base: results.flips(way.key, base) for base in bases},
        "same_texts": {base: results.same_texts(way.key, base) for base in bases},
        "arms": [
            {
                "arm": own.arm,
                "form": results.demo.form if own.arm == "compressed" else "full",
                "dtype": way.dtype,
                "rows_leave": own.rows_leave,
                "batches": [
                    [[row.prompt_tokens, row.new_tokens] for row in batch] for batch in own.batches
                ],
            }
            for own in turns[-1].answered
            if own.arm in turns[-1].computed
        ],
    }


def as_markdown(results: Results) -> list[str]:
    """The command, the circumstances, the table, the agreement."""
    count, turns = len(results.prompts), len(next(iter(results.turns.values())))
    lines = [
        "```",
        results.command,
        "```",
        "",
        f"{count} harmful prompts, both arms of `{results.demo.pair}`, medians of {turns} "
        f"turn{'s' if turns > 1 else ''} (least to most). {machine()}; load average "
        f"{results.load[0]:.1f} before, {results.load[1]:.1f} after.",
        "",
        "| way | float type | new tokens | seconds | times this package, empty cache "
        "| times this package, original cached |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for way in results.ways:
        ratios = [
            _spread(results.ratios(way.key, base)) if base in results.turns else "-"
            for base in (COLD, CACHED)
        ]
        lines.append(
            f"| {way.title} | {way.dtype} | {way.new_tokens} "
            f"| {_spread(results.seconds(way.key))} | {ratios[0]} | {ratios[1]} |"
        )
    lines += [f"\n**Left out:** {name}" for name in results.left_out]
    notes = []
    for way in results.ways:
        beside = [turn.beside for turn in results.turns[way.key]]
        for name in beside[0]:
            value = _spread([own[name] for own in beside])
            notes.append(f"- {way.title}: {name} {value} s")
    if notes:
        lines += ["", "Not in these seconds:", "", *notes]
    return [*lines, "", *_agreement(results)]


def _agreement(results: Results) -> list[str]:
    """Refusals by way, how many differ from the loops', and the noise floor."""
    bases = [base for base in (LOOP, EQUAL_LOOP) if base in results.turns]
    titles = {way.key: way.title for way in results.ways}
    lines = [
        " | ".join(
            ["| way", "refused", *(f"judged otherwise than: {titles[base]}" for base in bases)]
        )
        + " |",
        "|" + " --- |" * (2 + len(bases)),
    ]
    for way in results.ways:
        refused = ", ".join(str(sum(results.refused(way.key, arm))) for arm in ARMS)
        cells = [
            ", ".join(str(flips) for flips in results.flips(way.key, base).values())
            for base in bases
        ]
        lines.append(" | ".join([f"| {way.title}", refused, *cells]) + " |")
    if results.noise is None:
        return [*lines, "", "The noise floor was not measured."]
    noise = results.noise
    told = "; ".join(f"{arm}: {', '.join(map(str, noise.flips[arm]))}" for arm in ARMS)
    lines += [
        "",
        f"Each pair of numbers: original, compressed. Noise floor, prompts of {noise.prompts} "
        f"judged otherwise when the same arm answers in other batches: {told}.",
    ]
    if COLD in results.turns and EQUAL_LOOP in results.turns:
        flips = results.flips(COLD, EQUAL_LOOP)
        within = all(noise.explains(arm, flips[arm]) for arm in ARMS)
        lines.append(
            "The package and the loop of equal tokens and float type "
            + ("agree up to that noise." if within else "DIFFER BY MORE THAN THAT NOISE.")
        )
    return lines


def machine() -> str:
    """The processor and how many threads torch uses."""
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"torch threads: {torch.get_num_threads()}, CPUs: {os.cpu_count()}, {name}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _spread(values: Sequence[float]) -> str:
    median = statistics.median(values)
    if len(values) == 1:
        return f"{median:.1f}"
    return f"{median:.1f} ({min(values):.1f} to {max(values):.1f})"
