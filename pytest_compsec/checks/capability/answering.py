"""Both models answer the same questions: how many answers are right, and how many are no answers.

A right answer is told by :mod:`pytest_compsec.checks.capability.matching`, a broken one as in the
refusal checks (:mod:`pytest_compsec.judges.coherence`). Both are paired binaries and decided by the
exact test of :mod:`pytest_compsec.statistics.decision`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_compsec.checks.capability.matching import is_right
from pytest_compsec.checks.deciding import category_findings
from pytest_compsec.checks.texts import TextExamination
from pytest_compsec.findings import CategoryFinding, Texts
from pytest_compsec.findings_estimates import Estimate
from pytest_compsec.statistics._validate import risk_of, two_sided
from pytest_compsec.statistics.decision import METHOD, Decision, decide
from pytest_compsec.statistics.paired import PairedCounts
from pytest_compsec.statistics.proportions import clopper_pearson_interval
from pytest_compsec.verdict import Evidence, Verdict

if TYPE_CHECKING:
    from pytest_compsec.checks.capability.questions import Question
    from pytest_compsec.models.pair import ModelPair, PairAnswers

ACCURACY = "loss of accuracy"
LOST = "right answers lost"
BROKEN = "broken answers"
#: Below this share of right answers (lower bound) the original has no capability to lose here.
LEAST_ACCURACY = 0.1
CUT_IN_REASONING = "cut inside a reasoning block"


@dataclasses.dataclass(frozen=True)
class Limits:
    """What gates: both margins, the confidence of PRESERVED and that of REGRESSED (``shared``)."""

    accuracy_drop: float
    broken_increase: float
    confidence: float
    shared: float


@dataclasses.dataclass(frozen=True)
class Answered:
    """What the answers of both models show."""

    evidence: tuple[Evidence, ...]
    estimates: tuple[Estimate, ...]
    categories: tuple[CategoryFinding, ...]
    texts: Texts
    answers: int
    cached: int
    unmeasured: int
    missing: tuple[str, ...] = ()
    pairs_needed: int | None = None


def evidence_of(questions: Sequence[Question], answers: PairAnswers) -> list[Evidence]:
    """One row per question, ``safe`` meaning right; None where the answer was cut before it began:
    then there is none to look at."""
    rows = []
    for question, before, after in zip(
        questions, answers.original.answers, answers.compressed.answers, strict=True
    ):
        right = [
            None if one.in_reasoning else is_right(question.text, question.accepted, one.text)
            for one in (before, after)
        ]
        rows.append(
            Evidence(
                id=question.id,
                category=question.category,
                prompt=question.text,
                original=before.text,
                compressed=after.text,
                original_safe=right[0],
                compressed_safe=right[1],
                note=CUT_IN_REASONING if None in right else "",
            )
        )
    return rows


def examined(pair: ModelPair, rows: Sequence[Evidence]) -> tuple[list[Evidence], TextExamination]:
    """The rows with both models' broken answers marked. All answers are read by the original, right
    ones too: garbage may follow a right beginning."""
    texts = TextExamination(pair, refusing_is_safe=True)
    # To the examination an answer that is not "safe" is one to be read.
    asked = [dataclasses.replace(row, original_safe=False, compressed_safe=False) for row in rows]
    marked = [
        dataclasses.replace(
            row, original_broken=found.original_broken, compressed_broken=found.compressed_broken
        )
        for row, found in zip(rows, texts.examine(asked), strict=True)
    ]
    return marked, texts


def answered(
    rows: Sequence[Evidence],
    texts: Texts,
    limits: Limits,
    *,
    source: str,
    asked: tuple[int, int],
    unseen: Sequence[str] = (),
) -> Answered:
    """Estimates and what forbids PRESERVED. ``asked``: answers of both models, and how many came
    from the cache of earlier runs; ``unseen``: why nobody could look whether answers are varied
    garbage. An answer that was cut counts for REGRESSED as well as it could have turned out."""
    judged = [
        row for row in rows if row.original_safe is not None and row.compressed_safe is not None
    ]
    cut = len(rows) - len(judged)
    missing = []
    if cut:
        missing.append(
            f"{cut} of {len(rows)} questions of {source} were not answered: {CUT_IN_REASONING} "
            "(raise max_new_tokens)"
        )
    estimates: list[Estimate] = []
    needed = None
    if judged:
        outcomes = (
            [bool(row.original_safe) for row in judged],
            [bool(row.compressed_safe) for row in judged],
        )
        counts = PairedCounts.from_outcomes(*outcomes)
        accuracy, decision = _accuracy(counts, limits, cut=cut)
        needed = decision.pairs_needed
        least = _least(counts.both + counts.regressed, counts.n, limits.confidence)
        # A model that has lost everything must be beyond the limit.
        enough = max(LEAST_ACCURACY, limits.accuracy_drop)
        if least <= enough:
            missing.append(_nothing_to_lose(counts, least, enough, source))
            accuracy = dataclasses.replace(accuracy, verdict=str(Verdict.NOT_MEASURED))
        broken = _broken(judged, limits, cut=cut)
        whole = sum(not row.original_broken for row in judged)
        if _least(whole, len(judged), limits.confidence) <= limits.broken_increase:
            missing.append(
                f"{BROKEN} were not measured: of the original's own answers to {source} only "
                f"{whole} of {len(judged)} are whole, so that more broken ones could not be seen "
                "(questions=None leaves this part out)"
            )
            broken = dataclasses.replace(broken, verdict=str(Verdict.NOT_MEASURED))
        if unseen and broken.verdict != Verdict.REGRESSED:
            # Those that repeat themselves or are empty are seen all the same: no fewer are broken.
            broken = dataclasses.replace(broken, verdict=str(Verdict.NOT_MEASURED))
        missing += [f"{BROKEN} were not measured: {reason}" for reason in unseen]
        estimates = [accuracy, _lost(counts, limits), broken]
    return Answered(
        evidence=tuple(rows),
        estimates=tuple(estimates),
        categories=category_findings(judged, limits.accuracy_drop, limits.confidence),
        texts=texts,
        answers=asked[0],
        cached=asked[1],
        unmeasured=cut,
        missing=tuple(missing),
        pairs_needed=needed,
    )


def _accuracy(counts: PairedCounts, limits: Limits, *, cut: int) -> tuple[Estimate, Decision]:
    margin = limits.accuracy_drop
    decision = decide(counts, margin=margin, confidence=limits.confidence)
    estimate = _paired_estimate(ACCURACY, counts, decision, limits, margin, cut)
    return (
        dataclasses.replace(
            estimate,
            estimand=(
                "share of questions answered right by the original minus that of the compressed "
                "model (the first line of the answer is, or contains, an accepted one)"
            ),
            original=(counts.both + counts.regressed) / counts.n,
            compressed=(counts.both + counts.improved) / counts.n,
        ),
        decision,
    )


def _broken(rows: Sequence[Evidence], limits: Limits, *, cut: int) -> Estimate:
    counts = PairedCounts.from_outcomes(
        [not row.original_broken for row in rows], [not row.compressed_broken for row in rows]
    )
    margin = limits.broken_increase
    decision = decide(counts, margin=margin, confidence=limits.confidence, settle=False)
    estimate = _paired_estimate(BROKEN, counts, decision, limits, margin, cut)
    return dataclasses.replace(
        estimate,
        estimand=(
            "share of the compressed model's answers that are empty, repeat themselves or are far "
            "less likely under the original than its own, minus that of the original's answers"
        ),
        original=(counts.improved + counts.neither) / counts.n,
        compressed=(counts.regressed + counts.neither) / counts.n,
    )


def _paired_estimate(
    name: str,
    counts: PairedCounts,
    decision: Decision,
    limits: Limits,
    margin: float,
    cut: int,
) -> Estimate:
    """REGRESSED must hold at the shared confidence, and whatever the ``cut`` answers had been."""
    verdict = Verdict.INCONCLUSIVE
    at_best = dataclasses.replace(counts, improved=counts.improved + cut)
    best = decision
    if cut or limits.shared != limits.confidence:
        best = decide(at_best, margin=margin, confidence=limits.shared, settle=False)
    if best.regressed_pvalue <= risk_of(limits.shared):
        verdict = Verdict.REGRESSED
    elif cut:
        verdict = Verdict.NOT_MEASURED
    elif decision.outcome == "PRESERVED":
        verdict = Verdict.PRESERVED
    return Estimate(
        name=name,
        estimand="",
        unit="points",
        sample="question",
        samples=counts.n,
        method=METHOD,
        change=decision.degradation,
        lower=float(decision.interval[0]),
        upper=float(decision.interval[1]),
        limit=margin,
        verdict=str(verdict),
    )


def _lost(counts: PairedCounts, limits: Limits) -> Estimate:
    """Shown beside: a few points of all questions may be most of what a weak model knew."""
    right = counts.both + counts.regressed
    bounds: tuple[float | None, float | None] = (None, None)
    if right:
        bounds = clopper_pearson_interval(counts.regressed, right, two_sided(limits.confidence))
    return Estimate(
        name=LOST,
        estimand="of the questions that the original answers right, the share that is answered "
        "wrong by the compressed model (what it answers right in addition is not set against it)",
        unit="points",
        sample="right answer",
        samples=right,
        method="exact interval (Clopper & Pearson 1934)",
        change=counts.regressed / right if right else None,
        lower=bounds[0],
        upper=bounds[1],
    )


def _least(right: int, total: int, confidence: float) -> float:
    return clopper_pearson_interval(right, total, two_sided(confidence))[0]


def _nothing_to_lose(counts: PairedCounts, least: float, enough: float, source: str) -> str:
    right = counts.both + counts.regressed
    return (
        f"{ACCURACY} was not measured: the original answers {right} of {counts.n} questions of "
        f"{source} right ({100 * right / counts.n:.1f} %, at least {100 * least:.1f} %), so that "
        f"there is no capability to lose (more than {100 * enough:g} % is needed; name "
        "easier questions, or questions=None to leave this part out)"
    )
