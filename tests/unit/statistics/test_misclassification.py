"""The corrected bound keeps its promise where the bound as judged breaks it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from pytest_compsec.statistics.misclassification import (
    ArmRates,
    Stratum,
    corrected_degradation,
    describes,
    error_rates,
)
from pytest_compsec.statistics.paired import PairedCounts, tango_interval

# 1,000 answers, 920 truly refused; the judge sees 900 of them and takes 16 of the 80 others.
EXACT = ArmRates("exact", (Stratum(True, True, 916, 916, 900), Stratum(False, True, 84, 84, 20)))


def perfect(refused: int, answered: int) -> ArmRates:
    return ArmRates(
        "arm",
        (
            Stratum(True, True, refused, refused, refused),
            Stratum(False, True, answered, answered, 0),
        ),
    )


def test_rates_come_back_from_a_fully_labelled_population() -> None:
    rates = error_rates(EXACT)
    assert rates.true_positive.estimate == pytest.approx(900 / 920)
    assert rates.false_positive.estimate == pytest.approx(16 / 80)
    assert rates.difference.estimate == pytest.approx(900 / 920 - 16 / 80)


def test_labels_are_weighted_back_to_the_strata_they_stand_for() -> None:
    # The same population, with half of one stratum's labels and all of the other's.
    thinned = ArmRates("a", (Stratum(True, True, 916, 229, 225), Stratum(False, True, 84, 84, 20)))
    assert error_rates(thinned).true_positive.estimate == pytest.approx(900 / 920)
    # Unweighted, the labels would say 225 of 245.
    assert error_rates(thinned).true_positive.estimate != pytest.approx(225 / 245, abs=0.03)


def test_fewer_labels_give_wider_intervals_around_the_estimate() -> None:
    few = ArmRates("a", (Stratum(True, True, 1000, 20, 19), Stratum(False, True, 500, 20, 2)))
    many = ArmRates("a", (Stratum(True, True, 1000, 400, 380), Stratum(False, True, 500, 400, 40)))
    for name in ("true_positive", "false_positive", "difference"):
        one, other = getattr(error_rates(few), name), getattr(error_rates(many), name)
        assert one.lower < other.lower < other.estimate < other.upper < one.upper


def test_a_part_without_labels_widens_the_bound() -> None:
    # Five in a hundred left empty, against the same labels standing for all.
    whole = ArmRates("a", (Stratum(True, True, 900, 90, 90), Stratum(False, True, 100, 50, 5)))
    torn = ArmRates(
        "a", (Stratum(True, True, 855, 90, 90), Stratum(True, True, 45, 0, 0), whole.strata[1])
    )
    counts = PairedCounts(880, 20, 20, 80)
    upper = [corrected_degradation(counts, whole, c, 0.95).upper for c in (whole, torn)]
    assert upper[1] > upper[0] + 0.03


def test_a_stratum_without_labels_says_nothing() -> None:
    blind = ArmRates("a", (Stratum(True, True, 90, 0, 0), Stratum(False, True, 10, 0, 0)))
    rates = error_rates(blind)
    assert (rates.true_positive.lower, rates.true_positive.upper) == (0.0, 1.0)
    assert (rates.difference.lower, rates.difference.upper) == (-1.0, 1.0)


@pytest.mark.parametrize("same_answers", [False, True])
def test_a_judge_known_to_be_perfect_leaves_the_exact_zero_event_bound(same_answers: bool) -> None:
    n = 149
    judge = perfect(100_000, 100_000)
    if same_answers:
        judge = perfect(140, 9)
    result = corrected_degradation(
        PairedCounts(140, 0, 0, 9), judge, judge, 0.95, same_answers=same_answers
    )
    assert result.estimate == pytest.approx(0.0, abs=1e-9)
    if same_answers:
        # Nine and 140 labels leave room for errors that they did not show.
        assert result.upper > 1 - 0.05 ** (1 / n)
    else:
        assert result.upper == pytest.approx(1 - 0.05 ** (1 / n), abs=5e-4)
        assert result.lower == pytest.approx(-(1 - 0.05 ** (1 / n)), abs=5e-4)


def test_rogan_and_gladen_with_rates_that_are_known() -> None:
    # TPR .8 and FPR .1 for the original, .95 and .03 for the compressed; truth .9 and .8
    def known(tpr: float, fpr: float) -> ArmRates:
        big, refusals, answers = 10**7, tpr * 0.5e7, fpr * 0.5e7
        seen = round(refusals + answers)
        return ArmRates(
            "a",
            (
                Stratum(True, True, seen, seen, round(refusals)),
                Stratum(False, True, big - seen, big - seen, round(0.5e7 - refusals)),
            ),
        )

    before, after = known(0.8, 0.1), known(0.95, 0.03)
    judged_before, judged_after = 0.9 * 0.8 + 0.1 * 0.1, 0.8 * 0.95 + 0.2 * 0.03
    n = 10**6
    both = round(0.7 * n)
    counts = PairedCounts(
        both,
        round(judged_after * n) - both,
        round(judged_before * n) - both,
        n + both - round(judged_after * n) - round(judged_before * n),
    )
    assert counts.degradation < 0
    result = corrected_degradation(counts, before, after, 0.95)
    assert result.estimate == pytest.approx(0.1, abs=1e-4)
    assert 0.09 < result.lower < 0.1 < result.upper < 0.11


def test_where_answering_is_safe_the_same_answers_count_the_other_way() -> None:
    after = ArmRates("c", (Stratum(True, True, 900, 90, 85), Stratum(False, True, 100, 50, 6)))
    harmful = corrected_degradation(PairedCounts(880, 20, 36, 64), EXACT, after, 0.95)
    benign = corrected_degradation(
        PairedCounts(64, 36, 20, 880), EXACT, after, 0.95, refusing_is_safe=False
    )
    assert harmful.estimate is not None
    assert benign.estimate == pytest.approx(-harmful.estimate)
    assert (benign.lower, benign.upper) == (-harmful.upper, -harmful.lower)
    assert harmful.lower < harmful.estimate < harmful.upper


USELESS = {
    "a coin": ArmRates(
        "a", (Stratum(True, True, 500, 100, 60), Stratum(False, True, 500, 100, 60))
    ),
    "too few labels": ArmRates(
        "a", (Stratum(True, True, 500, 3, 3), Stratum(False, True, 500, 3, 1))
    ),
    "upside down": ArmRates(
        "a", (Stratum(True, True, 500, 99, 5), Stratum(False, True, 500, 99, 90))
    ),
    "only refusals seen": ArmRates("a", (Stratum(True, True, 1000, 500, 500),)),
    "no labels": ArmRates("a", (Stratum(True, True, 500, 0, 0), Stratum(False, True, 500, 0, 0))),
}


@pytest.mark.parametrize("judge", USELESS.values(), ids=USELESS)
@pytest.mark.parametrize("swapped", [False, True])
def test_a_judge_that_may_know_nothing_bounds_nothing(judge: ArmRates, swapped: bool) -> None:
    arms = (EXACT, judge) if swapped else (judge, EXACT)
    result = corrected_degradation(PairedCounts(900, 0, 0, 100), *arms, 0.95)
    assert (result.lower, result.upper) == (-1.0, 1.0)


def test_draws_in_which_the_judge_knows_nothing_count_against_the_claim() -> None:
    # In 2 % of the draws TPR <= FPR, in each arm: too few to give up, too many to leave out.
    judge = ArmRates("a", (Stratum(True, True, 500, 12, 12), Stratum(False, True, 500, 12, 8)))
    result = corrected_degradation(PairedCounts(450, 50, 50, 450), judge, judge, 0.95)
    assert result.upper > 0.40
    assert result.lower < -0.40


def test_refusals_and_answers_are_treated_alike() -> None:
    # An outcome that the judge never gave may hold anything, whichever outcome it is.
    refused = ArmRates("a", (Stratum(True, True, 864, 864, 864),))
    answered = ArmRates("a", (Stratum(False, True, 864, 864, 0),))
    one = corrected_degradation(
        PairedCounts(864, 0, 0, 0), refused, refused, 0.95, same_answers=True
    )
    other = corrected_degradation(
        PairedCounts(0, 0, 0, 864), answered, answered, 0.95, same_answers=True
    )
    assert other.upper == pytest.approx(one.upper, rel=0.05)
    assert other.lower == pytest.approx(one.lower, rel=0.05)


def test_labels_of_the_same_answers_need_no_answer_judged_unsafe() -> None:
    arm = ArmRates("a", (Stratum(True, True, 864, 200, 200),))
    counts = PairedCounts(864, 0, 0, 0)
    result = corrected_degradation(counts, arm, arm, 0.95, same_answers=True)
    assert result.estimate == 0.0
    # What 200 labels without an error leave possible in one arm bounds it from below.
    assert 1 - 0.05 ** (1 / 200) <= result.upper < 0.04


def test_answers_of_another_run_do_not_pass_for_the_same() -> None:
    counts = PairedCounts(900, 0, 0, 100)
    assert not describes(EXACT, 900, 1000)
    assert describes(EXACT, 916, 1000)
    with pytest.raises(ValueError, match="same_answers"):
        corrected_degradation(counts, EXACT, EXACT, 0.95, same_answers=True)


def test_the_bounds_are_the_same_in_every_run() -> None:
    counts = PairedCounts(900, 10, 16, 74)
    first, second = (corrected_degradation(counts, EXACT, EXACT, 0.95) for _ in range(2))
    assert dataclasses.astuple(first) == dataclasses.astuple(second)


def test_more_confidence_is_wider() -> None:
    counts = PairedCounts(900, 10, 16, 74)
    mild, strict = (corrected_degradation(counts, EXACT, EXACT, c) for c in (0.9, 0.99))
    assert strict.lower < mild.lower < mild.upper < strict.upper


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stratum(True, True, 5, 6, 1), "refused <= labelled <= population"),
        (lambda: Stratum(True, True, 5, 2, 3), "refused <= labelled <= population"),
        (lambda: Stratum(True, True, 5, -1, 0), "labelled must be at least 0"),
        (lambda: ArmRates("a", ()), "hold no answers"),
        (lambda: ArmRates("a", (Stratum(True, True, 5, 2, 1),) * 2), "given twice"),
        (lambda: error_rates(EXACT, 1.0), "confidence"),
        (
            lambda: corrected_degradation(PairedCounts(0, 0, 0, 0), EXACT, EXACT, 0.95),
            "no pairs",
        ),
        (
            lambda: corrected_degradation(PairedCounts(9, 0, 0, 0), EXACT, EXACT, 0.5),
            "confidence",
        ),
    ],
)
def test_impossible_input_is_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# ---- coverage: the truth at the margin; a bound at or below it is a false PRESERVED

MARGIN = 0.05
N = 864
RUNS = 300
TPR_FPR = {"misses less": ((0.80, 0.10), (0.95, 0.03)), "misses more": ((0.95, 0.03), (0.80, 0.10))}


def _run(random: np.random.Generator, judge: Any) -> tuple[Any, Any]:
    """True and judged refusals of both arms, shape (N,) each; the original refuses .9."""
    cell = random.choice(4, size=N, p=[0.84, 0.06, 0.01, 0.09])
    truth = (cell <= 1, (cell == 0) | (cell == 2))
    judged = tuple(
        random.random(N) < np.where(true, tpr, fpr)
        for true, (tpr, fpr) in zip(truth, judge, strict=True)
    )
    return truth, judged


def _label(random: np.random.Generator, truth: Any, judged: Any, total: int) -> list[ArmRates]:
    """About ``total`` labels over both arms: strata by outcome and agreement, an equal number in
    each as far as it goes."""
    order = random.permutation(N)
    same = judged[0] == judged[1]
    arms = []
    for true, seen in zip(truth, judged, strict=True):
        strata = []
        for outcome in (True, False):
            for agree in (True, False):
                rows = order[(seen[order] == outcome) & (same[order] == agree)]
                sample = rows[: total // 8]
                yes = int(true[sample].sum())
                strata.append(Stratum(outcome, agree, len(rows), len(sample), yes))
        arms.append(ArmRates("a", tuple(strata)))
    return arms


def _too_low(judge: Any, total: int, earlier: bool, seed: int) -> dict[str, float]:
    """How often each bound on the degradation is at or below the truth."""
    random = np.random.default_rng(seed)
    found: dict[str, list[bool]] = {"as judged": [], "corrected": [], "lower": [], "same": []}
    for _ in range(RUNS):
        truth, judged = _run(random, judge)
        labelled = _run(random, judge) if earlier else (truth, judged)
        arms = _label(random, *labelled, total)
        counts = PairedCounts.from_outcomes(judged[0].tolist(), judged[1].tolist())
        result = corrected_degradation(counts, arms[0], arms[1], 0.95, draws=1000)
        found["as judged"].append(-tango_interval(counts, 0.9)[0] <= MARGIN)
        found["corrected"].append(result.upper <= MARGIN)
        found["lower"].append(result.lower >= MARGIN)
        if not earlier:
            same = corrected_degradation(
                counts, arms[0], arms[1], 0.95, same_answers=True, draws=1000
            )
            found["same"].append(same.upper <= MARGIN)
    return {name: float(np.mean(values or [False])) for name, values in found.items()}


@pytest.mark.parametrize("earlier", [False, True], ids=["same-run", "earlier-run"])
@pytest.mark.parametrize("total", [100, 400])
@pytest.mark.parametrize("name", TPR_FPR)
def test_the_corrected_bound_covers_and_the_bound_as_judged_does_not(
    name: str, total: int, earlier: bool
) -> None:
    rates = _too_low(TPR_FPR[name], total, earlier, seed=total)
    allowed = 0.05 + 3 * math.sqrt(0.05 * 0.95 / RUNS)
    assert rates["corrected"] <= allowed
    assert rates["same"] <= allowed
    assert rates["lower"] <= allowed
    if name == "misses less":
        # The fault that the correction is for: most of the runs would be a false PRESERVED.
        assert rates["as judged"] > 0.9


def test_the_corrected_bound_still_sees_something() -> None:
    # A bound of (-1, 1) would cover too.
    random = np.random.default_rng(3)
    truth, judged = _run(random, TPR_FPR["misses more"])
    before, after = _label(random, truth, judged, 1600)
    counts = PairedCounts.from_outcomes(judged[0].tolist(), judged[1].tolist())
    wide = corrected_degradation(counts, before, after, 0.95)
    narrow = corrected_degradation(counts, before, after, 0.95, same_answers=True)
    assert -0.2 < wide.lower < narrow.lower < narrow.upper < wide.upper < 0.2
