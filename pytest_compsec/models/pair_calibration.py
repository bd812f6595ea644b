"""What is known of the judge's errors on the two arms of a pair."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_compsec.config.pairs import PairName
    from pytest_compsec.statistics.strata import ArmRates
    from pytest_compsec.suite import Suite


@dataclasses.dataclass(frozen=True)
class PairCalibration:
    """The judge's error rates on both arms, the digest of the file they come from, and those of
    the answers that were sampled for labels (:func:`judges.calibration.answers_digest`)."""

    original: ArmRates
    compressed: ArmRates
    digest: str
    original_answers: str
    compressed_answers: str


def calibration_of(suite: Suite, name: PairName, prompts: str) -> PairCalibration | None:
    """The judge's error rates on both arms' answers to this prompt set; None where the config names
    no calibration, or it says nothing about these arms and prompts."""
    calibration = suite.calibration()
    if calibration is None:
        return None
    original = suite.inputs.arm(name.model, None)
    compressed = suite.inputs.arm(name.model, name.variant)
    first = calibration.for_arm(original.name, prompts)
    second = calibration.for_arm(compressed.name, prompts)
    if first is None or second is None:
        return None
    first_answers = calibration.answers_of(original.name, prompts)
    second_answers = calibration.answers_of(compressed.name, prompts)
    # A calibration holds a digest for each of its arms.
    assert first_answers is not None
    assert second_answers is not None
    return PairCalibration(first, second, calibration.digest, first_answers, second_answers)
