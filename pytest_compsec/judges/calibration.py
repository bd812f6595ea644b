"""The calibration file: what people's labels say about one judge, arm by arm.

JSON, version 1, written by ``compsec calibrate`` and pinned in the lock. It holds counts, not only
rates: the verdict needs them to carry the uncertainty of the labels. Under ``summary`` each arm
has its rates for the reader; nothing is computed from them and they are not part of the digest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytest_compsec.atomic import write_atomically
from pytest_compsec.errors import CompsecError
from pytest_compsec.judges.json_object import JsonObject, read_text
from pytest_compsec.statistics.misclassification import (
    ArmRates,
    ErrorRates,
    RateInterval,
    Stratum,
    error_rates,
)
from pytest_compsec.verdict import clean_text

SCHEMA = "pytest-compsec/calibration"
VERSION = 1
_COUNTS = ("population", "labelled", "refused")


@dataclasses.dataclass(frozen=True)
class CalibratedJudge:
    """The judge whose errors were measured; ``digest`` is sha256 over all that decides."""

    name: str
    version: str
    digest: str


def answers_digest(answers: Iterable[tuple[str, str, bool]]) -> str:
    """sha256 (hex) over one arm's judged answers, each as prompt, response and whether the judge
    called it a refusal. Their order does not matter; how often each occurs does.

    Texts are taken as they are after a journey through JSON, so that both ends of it agree.
    """
    rows = sorted(
        [clean_text(prompt), clean_text(response), bool(refused)]
        for prompt, response, refused in answers
    )
    text = json.dumps(rows, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The rates of one judge: ``arms[prompts, arm]``. ``labels`` is the sha256 of the labelled
    sheet; ``answers[prompts, arm]`` the :func:`answers_digest` of all answers that the labelled
    ones were drawn from. Raises ValueError unless both are of the same arms."""

    judge: CalibratedJudge
    labels: str
    arms: Mapping[tuple[str, str], ArmRates]
    answers: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.answers.keys() != self.arms.keys():
            raise ValueError("a calibration needs the digest of the answers of each of its arms")

    @property
    def digest(self) -> str:
        """sha256 (hex) over the content; spaces, order of keys and ``summary`` do not matter."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    def for_arm(self, name: str, prompts: str) -> ArmRates | None:
        """What is known about the judge on the answers of arm ``name`` to the prompt set
        ``prompts``; None when they were not labelled."""
        return self.arms.get((prompts, name))

    def answers_of(self, name: str, prompts: str) -> str | None:
        """The :func:`answers_digest` of the answers behind :meth:`for_arm`; None as there."""
        return self.answers.get((prompts, name))

    def require_judge(self, digest: str) -> None:
        """Raises CompsecError when the calibration is of another judge than ``digest``."""
        if digest != self.judge.digest:
            raise CompsecError(
                f"the calibration was made for the judge {self.judge.name} {self.judge.version} "
                f"with digest {self.judge.digest}, but this run judges with {digest}: its errors "
                "are not known. Export labels with this judge (--compsec-export-labels=FILE.csv), "
                "label them and run `compsec calibrate FILE.csv`"
            )

    def to_json(self) -> dict[str, Any]:
        """The content as JSON-safe data, without the summary."""
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "judge": dataclasses.asdict(self.judge),
            "labels": self.labels,
            "arms": [
                {
                    "arm": rates.name,
                    "prompts": prompts,
                    "answers": self.answers[prompts, rates.name],
                    "strata": [dataclasses.asdict(stratum) for stratum in rates.strata],
                }
                for (prompts, _), rates in sorted(self.arms.items())
            ],
        }


def write_calibration(path: Path, calibration: Calibration, confidence: float = 0.95) -> None:
    """Write ``calibration`` with a summary at ``confidence``, atomically. Raises OSError."""
    data = calibration.to_json()
    for arm in data["arms"]:
        rates = calibration.arms[arm["prompts"], arm["arm"]]
        arm["summary"] = _summary(error_rates(rates, confidence), confidence)
    write_atomically(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def read_calibration(path: Path) -> Calibration:
    """The calibration in the file at ``path``.

    Raises:
        ConfigError: no such file, not JSON, another version, an unknown or missing key, or counts
            that cannot be; the message begins with the file and says what is wrong where.
    """
    return parse_calibration(read_text(path), str(path))


def parse_calibration(text: str, label: str) -> Calibration:
    """As :func:`read_calibration`, for text that the user knows as ``label``."""
    top = JsonObject.parse(text, label, SCHEMA, VERSION, "Write it anew with `compsec calibrate`")
    top.allow("schema", "version", "judge", "labels", "arms")
    judge = top.object("judge")
    judge.allow("name", "version", "digest")
    arms: dict[tuple[str, str], ArmRates] = {}
    answers: dict[tuple[str, str], str] = {}
    for item in top.objects("arms"):
        item.allow("arm", "prompts", "answers", "strata", "summary")
        name = item.get("prompts", str), item.get("arm", str)
        if name in arms:
            raise item.error(f"the arm {name[1]!r} on {name[0]!r} is given twice")
        answers[name] = item.sha256("answers")
        strata = tuple(_stratum(part) for part in item.objects("strata"))
        try:
            arms[name] = ArmRates(name[1], strata)
        except ValueError as error:
            raise item.error(str(error)) from None
    return Calibration(
        judge=CalibratedJudge(
            judge.get("name", str), judge.get("version", str), judge.sha256("digest")
        ),
        labels=top.sha256("labels"),
        arms=arms,
        answers=answers,
    )


def _stratum(item: JsonObject) -> Stratum:
    item.allow("judged_refused", "arms_agree", *_COUNTS)
    counts = {name: item.get(name, int) for name in _COUNTS}
    try:
        return Stratum(item.get("judged_refused", bool), item.get("arms_agree", bool), **counts)
    except ValueError as error:
        raise item.error(str(error)) from None


def _summary(rates: ErrorRates, confidence: float) -> dict[str, Any]:
    def plain(interval: RateInterval) -> list[float | None]:
        values = (interval.estimate, interval.lower, interval.upper)
        return [None if value is None else round(value, 4) for value in values]

    return {
        "confidence": confidence,
        "true_positive_rate": plain(rates.true_positive),
        "false_positive_rate": plain(rates.false_positive),
    }
