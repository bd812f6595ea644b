"""The numbers of ``truthfulness_preserved``: estimates of mc1 and mc2, how many questions they
need, and each question with what both models prefer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_compsec.checks.estimates import MOST_QUESTIONS, POINTS, verdict_of_bounds
from pytest_compsec.checks.multiple_choice import guessed_mc1, guessed_mc2, mean, values_of
from pytest_compsec.findings_estimates import Estimate
from pytest_compsec.statistics.decision import METHOD, decide
from pytest_compsec.statistics.mean_bound import paired_mean_bound
from pytest_compsec.statistics.paired import PairedCounts
from pytest_compsec.statistics.power import minimum_pairs
from pytest_compsec.verdict import Evidence, Verdict

if TYPE_CHECKING:
    from pytest_compsec.checks.multiple_choice import QuestionScore
    from pytest_compsec.checks.truthfulness_preserved import TruthfulnessArguments
    from pytest_compsec.data.questions import Question

#: Categories that a result shows, those that lost most.
MOST_CATEGORIES = 12
#: How many times the questions at hand an INCONCLUSIVE is worth estimating for.
MOST_TIMES = 16

_MEANING = {
    "mc1": "mc1 (the best answer is the likeliest of itself and the incorrect ones)",
    "mc2": "mc2 (share of the answers' probability that is on correct ones)",
}


def questions_needed(metric: str, margin: float, confidence: float, at_hand: int = 0) -> int | None:
    """The least number of questions with which two identical models are PRESERVED; None for more
    than :data:`MOST_QUESTIONS` and than those ``at_hand``."""
    if -math.log(1 - confidence) / margin > max(MOST_QUESTIONS, 2 * at_hand):
        return None  # about the least of any test, (1 - margin)**n; to search would take for ever
    if metric == "mc1":
        return minimum_pairs(margin, confidence)

    def enough(count: int) -> bool:
        return paired_mean_bound([0.0] * count, confidence).upper <= margin

    low, high = 0, 1
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def estimate_of(
    metric: str,
    original: Sequence[QuestionScore],
    compressed: Sequence[QuestionScore],
    arguments: TruthfulnessArguments,
    *,
    decides: bool,
    name: str = "",
) -> Estimate:
    """One metric of both models with the bounds of its loss; with a verdict where it decides."""
    before, after = values_of(original, metric), values_of(compressed, metric)
    bounds: tuple[float, float]
    if metric == "mc1":
        decision = decide(
            _counts(original, compressed),
            margin=arguments.margin,
            confidence=arguments.confidence,
            settle=False,
        )
        bounds, verdict = decision.interval, Verdict(decision.outcome)
        method = METHOD
    else:
        bounds = paired_mean_bound(_losses(before, after), arguments.confidence)
        verdict = verdict_of_bounds(*bounds, arguments.margin)
        method = "betting bound of a bounded mean (Waudby-Smith & Ramdas 2024)"
    return Estimate(
        name=name or metric,
        estimand=f"mean loss of {_MEANING[metric]}, original less compressed",
        unit=POINTS,
        sample="question",
        samples=len(before),
        method=method,
        original=mean(before),
        compressed=mean(after),
        change=mean(_losses(before, after)),
        lower=float(bounds[0]),
        upper=float(bounds[1]),
        limit=arguments.margin if decides else None,
        verdict=str(verdict) if decides else "",
    )


def _losses(before: Sequence[float], after: Sequence[float]) -> list[float]:
    return [first - second for first, second in zip(before, after, strict=True)]


def by_category(
    questions: Sequence[Question],
    original: Sequence[QuestionScore],
    compressed: Sequence[QuestionScore],
    arguments: TruthfulnessArguments,
) -> tuple[list[Estimate], int]:
    """The metric in each category, what lost most first, and how many are left out. They decide
    nothing, and their bounds are not corrected for there being many."""
    places: dict[str, list[int]] = {}
    for place, question in enumerate(questions):
        if question.category:
            places.setdefault(question.category, []).append(place)
    if len(places) < 2:
        return [], 0
    found = [
        estimate_of(
            arguments.metric,
            [original[place] for place in of_category],
            [compressed[place] for place in of_category],
            arguments,
            decides=False,
            name=f"{arguments.metric} of {category}",
        )
        for category, of_category in places.items()
    ]
    found.sort(key=lambda one: (-(one.change or 0.0), one.name))
    return found[:MOST_CATEGORIES], max(0, len(found) - MOST_CATEGORIES)


def _counts(original: Sequence[QuestionScore], compressed: Sequence[QuestionScore]) -> PairedCounts:
    return PairedCounts.from_outcomes(
        [score.mc1 for score in original], [score.mc1 for score in compressed]
    )


def levels_note(questions: Sequence[Question], original: Sequence[QuestionScore]) -> str:
    """What a guess, and a preference for few tokens, would score on these questions."""
    guesses = [mean([level(one) for one in questions]) for level in (guessed_mc1, guessed_mc2)]
    lengths = [
        mean([score.length_mc1 for score in original]),
        mean([score.length_mc2 for score in original]),
    ]
    return (
        f"Chance: a guess gets mc1 {100 * guesses[0]:.1f} %, mc2 {100 * guesses[1]:.1f} %; the "
        f"answer of the fewest tokens mc1 {100 * lengths[0]:.1f} %, mc2 {100 * lengths[1]:.1f} %."
    )


def questions_to_settle(
    original: Sequence[QuestionScore],
    compressed: Sequence[QuestionScore],
    arguments: TruthfulnessArguments,
) -> int | None:
    """About how many questions with the same losses would decide; None for more than anybody
    writes."""
    if arguments.metric == "mc1":
        counts = _counts(original, compressed)
        return decide(counts, margin=arguments.margin, confidence=arguments.confidence).pairs_needed
    losses = _losses(values_of(original, "mc2"), values_of(compressed, "mc2"))
    times = 2
    while times <= MOST_TIMES:
        bound = paired_mean_bound(losses * times, arguments.confidence)
        if verdict_of_bounds(*bound, arguments.margin) is not Verdict.INCONCLUSIVE:
            return len(losses) * times
        times += max(1, times // 2)
    return None


def evidence_of(
    questions: Sequence[Question],
    original: Sequence[QuestionScore],
    compressed: Sequence[QuestionScore],
) -> tuple[Evidence, ...]:
    """Each question with the answer that either model finds likeliest among those of mc1."""
    return tuple(
        Evidence(
            id=question.id,
            category=question.category,
            prompt=question.question,
            original=first.chosen,
            compressed=second.chosen,
            original_safe=first.mc1,
            compressed_safe=second.mc1,
            note=f"mc2 {100 * first.mc2:.0f} % -> {100 * second.mc2:.0f} %",
        )
        for question, first, second in zip(questions, original, compressed, strict=True)
    )
