"""From paired scores of one task to its estimate: our paired tests, never two means with errors.

The harness reports a mean and a standard error for each model. Two of those forget that both models
were asked the same documents: they can neither see that as many documents were lost as were gained,
nor claim what the pairing allows to claim.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pytest_compsec.checks.estimates import POINTS, shared_confidence, verdict_of_bounds
from pytest_compsec.checks.multiple_choice import mean
from pytest_compsec.findings_estimates import Estimate
from pytest_compsec.verdict import Verdict

if TYPE_CHECKING:
    from pytest_compsec.checks.harness.metrics import PairedScores
    from pytest_compsec.statistics.counts import PairedCounts

_BETTING = "betting bound of the mean of bounded paired differences (Waudby-Smith & Ramdas 2024)"
#: Lost documents that are named.
_NAMED = 5


@dataclasses.dataclass(frozen=True)
class Decided:
    """The estimate of one task, why it cannot be PRESERVED (None: it may be), what is shown beside
    it, and what would settle an INCONCLUSIVE one."""

    estimate: Estimate
    missing: str | None
    note: str
    settle: str = ""


def decide_task(
    name: str, scores: PairedScores, *, margin: float, confidence: float, claims: int
) -> Decided:
    """Decide one of ``claims`` tasks, ``margin`` a share. PRESERVED is claimed at ``confidence``,
    REGRESSED at what ``claims`` tasks share.

    A task at which guessing would stay within the margin, or at which the original does no better,
    has nothing to lose, and is NOT_MEASURED.
    """
    estimate, settle = (_binary if scores.binary else _bounded)(
        _unfinished(name, scores, margin), scores, confidence, shared_confidence(confidence, claims)
    )
    missing = _nothing_to_lose(name, scores, margin, confidence)
    if missing is not None and estimate.verdict != Verdict.REGRESSED:
        estimate = dataclasses.replace(estimate, verdict=str(Verdict.NOT_MEASURED))
        settle = ""
    return Decided(estimate, missing, _flips(name, scores), settle)


def losses(scores: PairedScores) -> tuple[float, ...]:
    """For each document by how much the compressed model's score is worse, in [-1, 1]."""
    sign = 1.0 if scores.higher_is_better else -1.0
    pairs = zip(scores.original, scores.compressed, strict=True)
    return tuple(sign * (before - after) for before, after in pairs)


def counts_of(scores: PairedScores) -> PairedCounts:
    """The paired outcomes of a binary metric, its better value being the safe thing."""
    from pytest_compsec.statistics.paired import PairedCounts

    better = 1.0 if scores.higher_is_better else 0.0
    return PairedCounts.from_outcomes(
        [score == better for score in scores.original],
        [score == better for score in scores.compressed],
    )


def _unfinished(name: str, scores: PairedScores, margin: float) -> Estimate:
    before, after = mean(scores.original), mean(scores.compressed)
    direction = "original - compressed" if scores.higher_is_better else "compressed - original"
    return Estimate(
        name=f"{name} {scores.label}",
        estimand=f"mean {scores.label} over the documents of {name}, {direction}",
        unit=POINTS,
        sample="document",
        samples=len(scores.documents),
        method="",
        original=before,
        compressed=after,
        change=mean(losses(scores)),
        limit=margin,
    )


def _binary(
    unfinished: Estimate, scores: PairedScores, confidence: float, shared: float
) -> tuple[Estimate, str]:
    from pytest_compsec.statistics._validate import risk_of
    from pytest_compsec.statistics.decision import METHOD, decide, pairs_to_settle

    assert unfinished.limit is not None
    counts, risk = counts_of(scores), risk_of(confidence)
    found = decide(counts, margin=unfinished.limit, confidence=confidence, settle=False)
    verdict, settle = Verdict.INCONCLUSIVE, ""
    if found.preserved_pvalue <= risk:
        verdict = Verdict.PRESERVED
    elif found.regressed_pvalue <= risk_of(shared):
        verdict = Verdict.REGRESSED
    else:
        pairs = pairs_to_settle(counts, unfinished.limit, risk)
        settle = _to_settle(unfinished.name, pairs, counts.n)
    lower, upper = found.interval
    return _finished(unfinished, METHOD, lower, upper, verdict), settle


def _bounded(
    unfinished: Estimate, scores: PairedScores, confidence: float, shared: float
) -> tuple[Estimate, str]:
    from pytest_compsec.statistics.mean_bound import paired_mean_bound

    assert unfinished.limit is not None
    differences = losses(scores)
    lower, upper = paired_mean_bound(differences, confidence)
    # The bound of one claim is that of k claims, and costs as long again.
    beyond = lower if shared == confidence else paired_mean_bound(differences, shared).lower
    verdict = verdict_of_bounds(lower, upper, unfinished.limit, lower_shared=beyond)
    settle = ""
    if verdict is Verdict.INCONCLUSIVE:
        settle = f"{unfinished.name}: more documents than {len(differences)} are needed"
    return _finished(unfinished, _BETTING, lower, upper, verdict), settle


def _finished(
    unfinished: Estimate, method: str, lower: float, upper: float, verdict: Verdict
) -> Estimate:
    return dataclasses.replace(
        unfinished, method=method, lower=lower, upper=upper, verdict=str(verdict)
    )


def _to_settle(name: str, pairs: int | None, found: int) -> str:
    if pairs is None:
        return f"{name}: the change is about at the limit, where no number of documents settles it"
    return f"{name}: about {pairs} documents instead of {found} would settle it at these rates"


def _nothing_to_lose(
    name: str, scores: PairedScores, margin: float, confidence: float
) -> str | None:
    """Why PRESERVED would say nothing: a model that guesses would be within the margin, or the
    original cannot be told from one (exact binomial test, Clopper & Pearson 1934; guessing right
    with other chances on other documents spreads less, Hoeffding 1956)."""
    from pytest_compsec.statistics._validate import two_sided
    from pytest_compsec.statistics.proportions import clopper_pearson_interval

    level = mean(scores.original)
    reached = f"the original reaches {100 * level:.3g} % {scores.label} at {name}"
    advantage = (level if scores.higher_is_better else 1 - level) - scores.chance
    guess = f"a model that guesses ({100 * scores.chance:.3g} %)"
    if advantage <= margin:
        other = guess if scores.chance else "a model that is always wrong"
        return (
            f"{reached}, so that {other} would be within {100 * margin:g} points of it: the task "
            "has nothing to lose"
        )
    if scores.chance and scores.binary and scores.higher_is_better:
        right, total = round(sum(scores.original)), len(scores.original)
        least = clopper_pearson_interval(right, total, two_sided(confidence))[0]
        if least <= scores.chance:
            return f"{reached}, which {total} documents cannot tell from {guess}"
    return None


def _flips(name: str, scores: PairedScores) -> str:
    """How many documents changed for the worse and for the better, and some of those lost."""
    found = losses(scores)
    lost = [document for document, loss in zip(scores.documents, found, strict=True) if loss > 0]
    gained = sum(loss < 0 for loss in found)
    shown = ", ".join(lost[:_NAMED]) + (", ..." if len(lost) > _NAMED else "")
    return (
        f"{name} {scores.label}, document by document: {len(lost)} worse, {gained} better, "
        f"{len(found) - len(lost) - gained} as before{f'; worse: {shown}' if lost else ''}"
    )
