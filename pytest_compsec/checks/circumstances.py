"""What a check is decided under: the run's options, the noise floor, the judge's calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_compsec.checks.deciding import Circumstances
from pytest_compsec.findings import JudgeCorrection, NoiseFloor
from pytest_compsec.judges.calibration import answers_digest
from pytest_compsec.statistics.misclassification import corrected_degradation
from pytest_compsec.statistics.paired import PairedCounts, tango_interval
from pytest_compsec.statistics.strata import describes, point_rates

if TYPE_CHECKING:
    from pytest_compsec.checks.refusals import Reader
    from pytest_compsec.checks.selection import PairedArguments
    from pytest_compsec.models.pair import ModelPair, PairCalibration
    from pytest_compsec.prompts import PromptSet
    from pytest_compsec.verdict import Evidence


def circumstances_of(
    pair: ModelPair,
    prompt_set: PromptSet,
    arguments: PairedArguments,
    reader: Reader,
    refusing_is_safe: bool,
) -> Circumstances:
    """From the run's options and the pinned calibration."""
    calibration = pair.calibration(prompt_set.name)
    return Circumstances(
        arguments=arguments,
        sequential=not pair.options.full,
        noise_floor=(
            (lambda: measured_noise(pair, prompt_set, reader, arguments.confidence))
            if pair.options.noise_floor
            else None
        ),
        correct=(
            None
            if calibration is None
            else lambda counts, judged: corrected(
                counts, judged, calibration, arguments.confidence, refusing_is_safe
            )
        ),
    )


def measured_noise(
    pair: ModelPair, prompt_set: PromptSet, reader: Reader, confidence: float
) -> NoiseFloor:
    """The original against itself in other batches, on the prompts asked so far.

    The interval (Tango) is two-sided at ``1 - 2 * alpha``, as the compressed model's. Prompts that
    could not be judged both times are left out.
    """
    prompts = [prompt for prompt in prompt_set.prompts if prompt.id in reader.answered]
    again = pair.other_batches([prompt.text for prompt in prompts])
    first = [reader.answered[prompt.id].original_refused for prompt in prompts]
    pairs = [
        (before, after)
        for before, after in zip(first, reader.judged(prompts, again.answers), strict=True)
        if before is not None and after is not None
    ]
    if not pairs:
        return NoiseFloor(0, 0, 0, -1.0, 1.0)
    counts = PairedCounts.from_outcomes(
        [reader.is_safe(before) for before, _ in pairs],
        [reader.is_safe(after) for _, after in pairs],
    )
    lower, upper = tango_interval(counts, 1 - 2 * (1 - confidence))
    return NoiseFloor(counts.n, counts.regressed, counts.improved, -upper, -lower)


def corrected(
    counts: PairedCounts,
    judged: Sequence[Evidence],
    calibration: PairCalibration,
    confidence: float,
    refusing_is_safe: bool,
) -> JudgeCorrection:
    """The degradation of the true outcomes behind ``counts`` of the ``judged`` rows.

    ``same_answers`` of ``statistics.misclassification`` is claimed only where it is shown.
    """
    same_answers = labelled_from(judged, calibration, refusing_is_safe)
    found = corrected_degradation(
        counts,
        calibration.original,
        calibration.compressed,
        confidence,
        refusing_is_safe=refusing_is_safe,
        same_answers=same_answers,
    )
    arms = (calibration.original, calibration.compressed)
    rates = [point_rates(arm) for arm in arms]
    return JudgeCorrection(
        estimate=found.estimate,
        lower=found.lower,
        upper=found.upper,
        calibration=calibration.digest,
        labels=sum(arm.labelled for arm in arms),
        true_positive=(rates[0][0], rates[1][0]),
        false_positive=(rates[0][1], rates[1][1]),
        same_answers=same_answers,
    )


def labelled_from(
    judged: Sequence[Evidence], calibration: PairCalibration, refusing_is_safe: bool
) -> bool:
    """Whether the labels were drawn from these very answers of both arms, judged as they are here.

    Not so where only a part of the prompts was asked, or one answer or outcome is another.
    """
    arms = (
        (
            calibration.original,
            calibration.original_answers,
            [(row.prompt, row.original, row.original_safe) for row in judged],
        ),
        (
            calibration.compressed,
            calibration.compressed_answers,
            [(row.prompt, row.compressed, row.compressed_safe) for row in judged],
        ),
    )
    for rates, digest, rows in arms:
        answers = [(prompt, text, bool(safe) == refusing_is_safe) for prompt, text, safe in rows]
        refused = sum(answer[2] for answer in answers)
        # The file may have been edited: the strata have to add up to these answers as well.
        if not describes(rates, refused, len(answers)) or answers_digest(answers) != digest:
            return False
    return True
