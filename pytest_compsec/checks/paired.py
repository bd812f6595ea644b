"""One CheckResult out of what was asked and judged: what every paired check shares."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from pytest_compsec.checks.asking import Asked
from pytest_compsec.checks.deciding import Judgement
from pytest_compsec.checks.next_steps import next_step
from pytest_compsec.checks.selection import PairedArguments
from pytest_compsec.checks.wording import Context, Wording, notes, summary
from pytest_compsec.findings import RefusalSignal, Texts
from pytest_compsec.models.served.wording import (
    coherence_objection,
    served_mark,
    served_notes,
)
from pytest_compsec.statistics.proportions import clopper_pearson_interval
from pytest_compsec.verdict import CheckResult, ConditionalLoss, Measurement, Verdict

if TYPE_CHECKING:
    from pytest_compsec.prompts import PromptSet


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was asked, what the judge had to say about it, and what is known of the texts.
    ``answers_are_safe``: the check counts answers, so that garbage must not pass for one."""

    asked: Asked
    notes: tuple[str, ...] = ()
    texts: Texts | None = None
    signal: RefusalSignal | None = None
    answers_are_safe: bool = False


def measurement_of(judgement: Judgement, confidence: float) -> Measurement | None:
    """The numbers of a verdict, the loss among the originally safe prompts with its interval
    (Clopper-Pearson, two-sided at ``1 - 2 * alpha`` as every interval here)."""
    counts, decision, interval = judgement.counts, judgement.decision, judgement.interval
    if counts is None or decision is None or interval is None:
        return None
    safe_before = counts.both + counts.regressed
    loss = None
    if safe_before:
        two_sided = 1 - 2 * (1 - confidence)
        lower, upper = clopper_pearson_interval(counts.regressed, safe_before, two_sided)
        loss = ConditionalLoss(counts.regressed, safe_before, lower, upper)
    return Measurement(
        n=counts.n,
        both=counts.both,
        improved=counts.improved,
        regressed=counts.regressed,
        neither=counts.neither,
        original_rate=safe_before / counts.n,
        compressed_rate=(counts.both + counts.improved) / counts.n,
        degradation=counts.degradation,
        interval=(float(interval[0]), float(interval[1])),
        preserved_pvalue=float(decision.preserved_pvalue),
        regressed_pvalue=float(decision.regressed_pvalue),
        conditional_loss=loss,
    )


def result_of(
    pair: Any,
    prompt_set: PromptSet,
    arguments: PairedArguments,
    measured: Measured,
    wording: Wording,
    test: str,
) -> CheckResult:
    """The result that the test asserts and the reports show, in words and numbers."""
    asked = measured.asked
    judgement = asked.judgement
    result = CheckResult(
        check=arguments.check,
        pair=pair.id,
        test=test,
        verdict=judgement.verdict,
        summary="",
        next_step="",
        limit=arguments.margin,
        confidence=arguments.confidence,
        arguments=arguments.to_json(),
        measurement=measurement_of(judgement, arguments.confidence),
        evidence=asked.evidence,
        unmeasured=judgement.unmeasured,
        answers=asked.answers,
        answers_cached=asked.cached,
        provenance=pair.provenance(prompt_set),
        withheld=judgement.withheld,
        stopping=asked.stopping,
        categories=judgement.categories,
        clustering=judgement.clustering,
        noise_floor=judgement.noise_floor,
        judge_correction=judgement.judge_correction,
        texts=measured.texts,
        signal=measured.signal,
    )
    if result.verdict is Verdict.PRESERVED and measured.answers_are_safe:
        objections = coherence_objection(result.provenance)
        if objections:
            result = dataclasses.replace(
                result, verdict=Verdict.INCONCLUSIVE, withheld=(*result.withheld, *objections)
            )
    decision = judgement.decision
    context = Context(
        wording=wording,
        min_original_rate=arguments.min_original_rate,
        pairs_needed=decision.pairs_needed if decision is not None else None,
        seconds_per_prompt=pair.seconds_per_prompt(),
        config=pair.config_name,
    )
    return dataclasses.replace(
        result,
        summary=summary(result, context) + served_mark(result.provenance),
        notes=(
            *notes(result, context),
            *measured.notes,
            *_uncalibrated(pair, judgement),
            *served_notes(result.provenance, asked.cached),
        ),
        next_step=next_step(result, context),
    )


def _uncalibrated(pair: Any, judgement: Judgement) -> tuple[str, ...]:
    """A calibration that says nothing about this pair must not look like one that does."""
    if judgement.counts is None or judgement.judge_correction is not None:
        return ()
    if not pair.has_calibration:
        return ()
    return (
        "The calibration holds no labels for this pair on these prompts: the verdict is as judged.",
    )
