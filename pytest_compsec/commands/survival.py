"""``compsec survival``: which compressions a configured backdoor survives, in one table."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import ConfigError, MeasurementError

if TYPE_CHECKING:
    from pytest_compsec.findings_backdoors import ArmBackdoor
    from pytest_compsec.models.arm import Arm
    from pytest_compsec.models.pair import ModelPair
    from pytest_compsec.suite import Suite
    from pytest_compsec.verdict import CheckResult

HEADINGS = (
    "variant",
    "method",
    "ASR before",
    "after",
    "delta ASR before",
    "after",
    "accuracy before",
    "after",
    "robust before",
    "after",
    "backdoor_removed",
)
_LEFT = (0, 1, len(HEADINGS) - 1)
#: Options of a recipe that say how much it compresses, in the order in which they are shown.
_TELLING = ("bits", "type", "sparsity", "share", "dtype", "temperature")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command, ``--config`` apart."""
    parser.add_argument("--model", metavar="NAME", help="only this model (default: all with one)")
    parser.add_argument(
        "--variant", metavar="NAME", action="append", help="only this variant; may be repeated"
    )
    parser.add_argument("--max-asr", type=float, default=0.05, help="default: 0.05")
    parser.add_argument("--max-accuracy-drop", type=float, default=0.02, help="default: 0.02")
    parser.add_argument(
        "--invert",
        action="store_true",
        help="look for triggers without knowing one, in every arm (image classifiers; slow)",
    )
    parser.add_argument("--json", metavar="PATH", help="write the figures to PATH")


@dataclasses.dataclass(frozen=True)
class Row:
    """One variant: what it was made with, and what ``backdoor_removed`` found of it."""

    pair: str
    method: str
    result: CheckResult

    def to_json(self) -> dict[str, Any]:
        return {"pair": self.pair, "method": self.method, "result": self.result.to_json()}


def run_survival(arguments: argparse.Namespace) -> int:
    """Measure every chosen variant and print the table. Exit code 0: it reports, it does not judge;
    tests do. Raises ConfigError where nothing has a backdoor, or evaluation data are missing."""
    from pytest_compsec.checks.backdoor_removed import backdoor_removed_arguments
    from pytest_compsec.commands.matrix import require_writable
    from pytest_compsec.suite import open_suite

    try:
        checked = backdoor_removed_arguments(
            max_asr=arguments.max_asr, max_accuracy_drop=arguments.max_accuracy_drop
        )
    except ValueError as error:
        raise ConfigError(f"compsec survival: {error}") from None
    require_writable("json", arguments.json)
    with open_suite(arguments.config) as suite:
        pairs = chosen_pairs(suite, arguments.model, arguments.variant)
        if arguments.invert:
            _require_images(pairs)
        asked = checked.with_defaults(suite.confidence)
        inversions: dict[str, dict[str, Any]] = {}
        rows = []
        for pair in pairs:
            rows.append(_row(pair, asked))
            if arguments.invert:
                _invert(pair, inversions)
        print("\n".join(report_lines(rows)))
        for name, found in inversions.items():
            print(f"\n{name}: {found['lines'][0]}")
            print("\n".join(found["lines"][1:]))
        if arguments.json is not None:
            record = {
                "lock_digest": suite.lock_digest(),
                "max_asr": arguments.max_asr,
                "max_accuracy_drop": arguments.max_accuracy_drop,
                "confidence": asked.confidence,
                "rows": [row.to_json() for row in rows],
                "inversions": {name: found["report"] for name, found in inversions.items()},
            }
            _write(arguments.json, record)
    return 0


def chosen_pairs(suite: Suite, model: str | None, variants: Sequence[str] | None) -> list[Any]:
    """The pairs of models with a trigger, or those asked for. Raises ConfigError when there is
    none, for unknown names, and for a model that is named and has no trigger."""
    names = suite.pairs
    _require_known("--model", [model] if model else [], sorted({name.model for name in names}))
    if model is not None:
        names = tuple(name for name in names if name.model == model)
    _require_known("--variant", variants or [], sorted({name.variant for name in names}))
    if variants:
        names = tuple(name for name in names if name.variant in variants)
    pairs = [suite.pair(name.id) for name in names]
    chosen = [pair for pair in pairs if pair.backdoor.trigger is not None]
    if not chosen:
        whose = f"{model!r} has" if model is not None else "no model has"
        what = "no section 'backdoor:'" if model is not None else "a section 'backdoor:'"
        raise ConfigError(
            f"{suite.path}: {whose} {what}, so there is no trigger whose survival could be "
            "measured. Add one, such as `backdoor: {patch: {size: 3, position: bottom-right}, "
            "target: 0}`, and run `compsec pin`"
        )
    return chosen


def _require_known(option: str, asked: Sequence[str], known: Sequence[str]) -> None:
    for name in asked:
        if name not in known:
            raise ConfigError(f"{option} {name!r}: there is none; there are: {', '.join(known)}")


def _row(pair: ModelPair, arguments: Any) -> Row:
    from pytest_compsec.checks.backdoor_removed import measure_removal

    _notify(f"measuring {pair.id}")
    result = measure_removal(pair, arguments)
    _notify(f"{pair.id}: {result.verdict}")
    return Row(pair.id, method_of(pair.compressed_arm), result)


def method_of(arm: Arm) -> str:
    """``quantize bitsandbytes, bits 4, type nf4``; of a variant with a source of its own
    ``files``."""
    if arm.recipe is None:
        return "files" if arm.dtype is None else f"files, {arm.dtype}"
    options = arm.recipe.options
    told = [f"{name} {options[name]}" for name in _TELLING if options.get(name) is not None]
    return ", ".join([f"{arm.recipe.section} {arm.recipe.method}", *told])


def report_lines(rows: Sequence[Row]) -> Iterator[str]:
    """The table, and below it which trigger and how to read it."""
    yield from table_lines(rows)
    yield ""
    triggers = {
        f"{row.result.backdoor.trigger} -> {row.result.backdoor.target}": row.result.backdoor
        for row in rows
        if row.result.backdoor is not None
    }
    for name, found in triggers.items():
        yield f"trigger: {name} (sha256 {found.trigger_digest[:12]}...)"
    yield (
        "ASR: how often the target comes out under the trigger, of samples that are not of it; "
        "delta: less how often it does without; robust: true class in spite of the trigger. "
        "PRESERVED means removed."
    )
    for row in rows:
        if row.result.verdict != "PRESERVED":
            yield row.result.summary


def table_lines(rows: Sequence[Row]) -> Iterator[str]:
    """Aligned columns, one line a variant."""
    cells = [HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    for line in cells:
        texts = [
            text.ljust(width) if column in _LEFT else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  ".join(texts).rstrip()


def _cells(row: Row) -> tuple[str, ...]:
    found = row.result.backdoor
    arms = (found.original, found.compressed) if found is not None else (None, None)
    return (
        row.pair,
        row.method,
        *(_share(None if arm is None else arm.asr) for arm in arms),
        *(_delta(arm) for arm in arms),
        *(_share(None if arm is None else arm.clean_accuracy) for arm in arms),
        *(_share(None if arm is None else arm.robust_accuracy) for arm in arms),
        str(row.result.verdict),
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _delta(arm: ArmBackdoor | None) -> str:
    if arm is None:
        return "-"
    return f"{100 * arm.delta_asr:+.1f} [{100 * arm.lower:+.1f}, {100 * arm.upper:+.1f}]"


def _invert(pair: ModelPair, known: dict[str, dict[str, Any]]) -> None:
    """Trigger inversion of both arms, each arm once."""
    from pytest_compsec.attacks.inversion import find_triggers

    data = pair.evaluation_data
    original, compressed = pair.classifiers
    for arm, model in ((pair.original_arm, original), (pair.compressed_arm, compressed)):
        if arm.name in known:
            continue
        _notify(f"inverting triggers of {arm.name}")
        try:
            report = find_triggers(model, data, notify=_notify)
        except MeasurementError as error:
            known[arm.name] = {"lines": (f"not measured: {error}",), "report": None}
            continue
        known[arm.name] = {"lines": report.lines(), "report": dataclasses.asdict(report)}


def _require_images(pairs: Sequence[ModelPair]) -> None:
    for pair in pairs:
        if pair.task != "image-classification":
            raise ConfigError(
                f"{pair.id}: --invert looks for triggers of image classifiers, and its task is "
                f"{pair.task}; choose others with --model"
            )


def _write(value: str, record: dict[str, Any]) -> None:
    from pytest_compsec.atomic import write_atomically

    text = json.dumps(_finite(record), indent=1, allow_nan=False) + "\n"
    try:
        write_atomically(Path(value), text)
    except OSError as error:
        raise ConfigError(f"--json {value!r}: cannot be written ({error.strerror})") from None


def _finite(value: Any) -> Any:
    """JSON has no infinity: what is not finite is null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def _notify(text: str) -> None:
    print(f"... {text}", file=sys.stderr, flush=True)
