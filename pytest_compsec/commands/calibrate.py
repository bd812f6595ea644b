"""``compsec calibrate``: from labelled answers to the judge's error rates and their file."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_compsec.errors import CompsecError, ConfigError

if TYPE_CHECKING:
    from pytest_compsec.commands.labelled import Key, KeyStratum, Labels
    from pytest_compsec.judges.calibration import Calibration
    from pytest_compsec.statistics.misclassification import ArmRates, RateInterval

#: A stratum with empty rows needs this many labels, and this share of its rows.
LEAST_LABELS = 5
LEAST_SHARE = 0.8
_SHOWN = 10


def run_calibrate(arguments: argparse.Namespace) -> int:
    """Read the sheet and its key, write the calibration, print each arm's rates. Exit code 0.

    ``arguments``: ``responses``, ``key`` (None: ``FILE.key.json`` beside it), ``output`` (None:
    ``compsec.calibration.json`` beside it), ``confidence`` of the intervals printed. Raises
    CompsecError for everything that is the user's to fix.
    """
    from pytest_compsec.commands.labelled import read_key, read_labels
    from pytest_compsec.judges.calibration import write_calibration
    from pytest_compsec.reports.labels import key_path_of

    sheet = Path(arguments.responses)
    if not sheet.is_file():
        raise ConfigError(f"{sheet}: no such file. Name the labelled .csv sheet.")
    key_path = Path(arguments.key) if arguments.key else key_path_of(sheet)
    default = sheet.with_name("compsec.calibration.json")
    output = Path(arguments.output) if arguments.output else default
    confidence = _confidence(arguments.confidence)
    key = read_key(key_path)
    labels = read_labels(sheet, key)
    calibration = _calibration(sheet, key, labels)
    try:
        write_calibration(output, calibration, confidence)
    except OSError as error:
        raise CompsecError(f"{output}: cannot be written ({error.strerror})") from error
    for line in _report(calibration, labels, confidence):
        print(line)
    print(f"\nWrote {output}: name it in compsec.yaml, run `compsec pin` and commit both.")
    print(f"sha256 of the calibration: {calibration.digest}")
    return 0


def _confidence(value: object) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = 0.0
    if not 0.5 < number < 1:
        raise ConfigError(f"--confidence {value!r} must be a number between 0.5 and 1, like 0.95")
    return number


def _calibration(sheet: Path, key: Key, labels: Labels) -> Calibration:
    from pytest_compsec.judges.calibration import Calibration
    from pytest_compsec.statistics.misclassification import ArmRates, Stratum

    labelled = [stratum.settled for stratum in key.strata]
    # an answer that is settled without a person counts as not answered
    refused = [stratum.settled for stratum in key.strata]
    for row, answer in labels.refused.items():
        for place in key.rows[row]:
            labelled[place] += 1
            refused[place] += answer
    for place, stratum in enumerate(key.strata):
        _require_labels(sheet, key, labels, place, labelled[place], stratum)
    parts: dict[tuple[str, str], list[Stratum]] = {}
    for stratum, number, yes in zip(key.strata, labelled, refused, strict=True):
        part = parts.setdefault((stratum.prompts, stratum.arm), [])
        kind = stratum.judged_refused, stratum.arms_agree
        # Rows left empty may be the hard ones: what they stand for is unknown, not like the rest.
        missing = stratum.sampled - number
        unknown = -(-stratum.population * missing // stratum.sampled) if missing else 0
        part.append(Stratum(*kind, stratum.population - unknown, number, yes))
        if unknown:
            part.append(Stratum(*kind, unknown, 0, 0))
    arms: dict[tuple[str, str], ArmRates] = {}
    for name, strata in parts.items():
        try:
            arms[name] = ArmRates(name[1], tuple(strata))
        except ValueError as error:
            raise ConfigError(f"{sheet}: the key is damaged: {error}") from None
    digest = hashlib.sha256(sheet.read_bytes()).hexdigest()
    return Calibration(key.judge, digest, arms, key.answers)


def _require_labels(
    sheet: Path, key: Key, labels: Labels, place: int, labelled: int, stratum: KeyStratum
) -> None:
    if labelled == stratum.sampled and (labelled or not stratum.population):
        return
    if labelled >= LEAST_LABELS and labelled >= LEAST_SHARE * stratum.sampled:
        return
    empty = [line for row, line in labels.empty.items() if place in key.rows[row]]
    raise ConfigError(
        f"{sheet}: {labelled} of {stratum.sampled} sampled answers are labelled ({stratum}); at "
        f"least {LEAST_LABELS} and {LEAST_SHARE:.0%} are needed. Label {_lines(empty)}."
    )


def _lines(lines: Sequence[int | None]) -> str:
    present = sorted(line for line in lines if line is not None)
    parts = []
    if present:
        more = f" and {len(present) - _SHOWN} more" if len(present) > _SHOWN else ""
        parts.append(f"the rows at line {', '.join(map(str, present[:_SHOWN]))}{more}")
    if len(present) < len(lines):
        parts.append(f"{len(lines) - len(present)} row(s) that were removed from the sheet")
    return ", and ".join(parts) or "more answers"


def _report(calibration: Calibration, labels: Labels, confidence: float) -> list[str]:
    from pytest_compsec.statistics.misclassification import error_rates

    judge = calibration.judge
    lines = [f"Judge {judge.name} {judge.version}, {len(labels.refused)} rows labelled"]
    if labels.empty:
        lines.append(
            f"note: {len(labels.empty)} row(s) without a label: "
            f"{_lines(list(labels.empty.values()))}. What they stand for counts as unknown, "
            "which widens every interval."
        )
    for (prompts, arm), rates in sorted(calibration.arms.items()):
        errors = error_rates(rates, confidence)
        lines += [
            "",
            f"{arm} on {prompts}: {rates.labelled} of {rates.population} answers labelled",
            f"  true positive rate   {_rate(errors.true_positive)} of its refusals are seen",
            f"  false positive rate  {_rate(errors.false_positive)} of its other answers are taken "
            "for refusals",
        ]
        if errors.difference.lower <= 0:
            lines.append(
                f"  warning: at {confidence:.0%} confidence the labels cannot tell this judge from "
                "a coin on this arm: only a verdict on these very answers can be corrected. Label "
                "more answers, above all where the judge's outcome is rare, or use another judge."
            )
    lines += [
        "",
        f"Intervals are two-sided at {confidence:.0%}, weighted back to all answers. Where two "
        "arms have other rates, the degradation as judged is biased; verdicts use the corrected "
        "bound once this file is pinned.",
    ]
    return lines


def _rate(rate: RateInterval) -> str:
    estimate = "unknown" if rate.estimate is None else f"{rate.estimate:.3f}"
    return f"{estimate} ({rate.lower:.3f} to {rate.upper:.3f})"
