"""The table per category, the claim about all categories, and the share of flips."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from pytest_compsec.statistics.categories import (
    CategoryCounts,
    all_preserved,
    by_category,
    regressed_share_bound,
)
from pytest_compsec.statistics.paired import (
    PairedCounts,
    noninferiority_pvalue,
    regression_pvalue,
    tango_interval,
)

MARGIN, CONFIDENCE = 0.05, 0.95


def rows(**regressed_and_n: tuple[int, int]) -> tuple[CategoryCounts, ...]:
    """Categories with ``regressed`` of n prompts regressed, their prompts interleaved."""
    entries = sorted(
        (position, name, position < regressed)
        for name, (regressed, n) in regressed_and_n.items()
        for position in range(n)
    )
    return by_category(
        [name for _, name, _ in entries],
        [True] * len(entries),
        [not flipped for _, _, flipped in entries],
        MARGIN,
        CONFIDENCE,
    )


def test_each_row_holds_what_its_own_prompts_say() -> None:
    fraud, drugs = by_category(
        ["drugs", "fraud", "drugs", "fraud", "fraud", "drugs", "drugs"],
        [True, True, False, True, False, True, False],
        [True, False, True, True, False, True, False],
        MARGIN,
        CONFIDENCE,
    )
    assert (fraud.category, fraud.counts) == ("fraud", PairedCounts(1, 0, 1, 1))
    assert (drugs.category, drugs.counts) == ("drugs", PairedCounts(2, 1, 0, 1))
    for row in (fraud, drugs):
        lower, upper = tango_interval(row.counts, 0.9)
        assert row.interval == pytest.approx((-upper, -lower))
        assert row.interval[0] <= row.degradation <= row.interval[1]
        assert row.preserved_pvalue == noninferiority_pvalue(row.counts, MARGIN)
        assert row.regressed_pvalue == regression_pvalue(row.counts, MARGIN)


def test_the_most_degraded_category_stands_first_and_ties_by_name() -> None:
    table = rows(privacy=(0, 20), fraud=(5, 20), drugs=(0, 30), cyber=(3, 30))
    assert [row.category for row in table] == ["fraud", "cyber", "drugs", "privacy"]


def test_one_bad_category_is_not_made_up_for_by_the_others() -> None:
    good = rows(a=(0, 80), b=(0, 80), c=(0, 80))
    one_bad = rows(a=(0, 80), b=(0, 80), c=(6, 80))
    assert all_preserved(good, CONFIDENCE)
    assert not all_preserved(one_bad, CONFIDENCE)
    # pooled, the same outcomes would pass
    assert noninferiority_pvalue(PairedCounts(234, 0, 6, 0), MARGIN) <= 0.05


def test_a_category_too_small_to_certify_withholds_the_claim() -> None:
    assert not all_preserved(rows(a=(0, 200), tiny=(0, 20)), CONFIDENCE)


def test_every_category_passes_at_the_full_risk() -> None:
    # 59 pairs are the least for 5 % at 95 %: with a correction for three tests they would not do
    assert all_preserved(rows(a=(0, 59), b=(0, 59), c=(0, 59)), CONFIDENCE)
    assert not all_preserved(rows(a=(0, 59), b=(0, 58), c=(0, 59)), CONFIDENCE)


def test_the_claim_about_all_is_wrong_no_more_often_than_one_test() -> None:
    """One category at the margin, the others unharmed: the worst case of the union."""
    generator = np.random.default_rng(9)
    n, runs, wrong = 59, 3000, 0
    passing = {
        k: noninferiority_pvalue(PairedCounts(n - k, 0, k, 0), MARGIN) <= 0.05 for k in range(20)
    }
    for at_margin in generator.binomial(n, MARGIN, runs):
        wrong += passing[int(at_margin)] and passing[0]
    assert wrong / runs <= 0.05 + 0.012
    # the same harness convicts "any of three categories passed" as the rule
    any_passed = [
        any(passing[int(k)] for k in draws) for draws in generator.binomial(n, MARGIN, (runs, 3))
    ]
    assert np.mean(any_passed) > 0.1


def test_nothing_measured_is_not_a_claim_about_all() -> None:
    assert by_category([], [], [], MARGIN, CONFIDENCE) == ()
    with pytest.raises(ValueError, match="no categories: nothing was measured"):
        all_preserved((), CONFIDENCE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a"], [True, True], [True, True], 0.02, 0.95), "1 categories, 2 outcomes"),
        ((["a", "b"], [True, True], [True], 0.02, 0.95), "1 of the compressed"),
        ((["a"], [None], [True], 0.02, 0.95), "must be True or False"),
        ((["a"], [True], [True], 1.0, 0.95), "margin must lie in"),
        ((["a"], [True], [True], 0.02, 0.4), "confidence must lie in"),
    ],
)
def test_impossible_input_is_named(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        by_category(*arguments)


# --- flips for the worse -----------------------------------------------------------------------


@pytest.mark.parametrize(("regressed", "n"), [(1, 20), (30, 480), (480, 480)])
@pytest.mark.parametrize("confidence", [0.95, 0.975])
def test_at_the_bound_so_many_flips_have_exactly_the_risk(
    regressed: int, n: int, confidence: float
) -> None:
    bound = regressed_share_bound(regressed, n, confidence)
    assert binom.sf(regressed - 1, n, bound) == pytest.approx(1 - confidence)


def test_the_share_of_flips_is_overstated_no_more_often_than_its_risk() -> None:
    for share in (0.005, 0.02, 0.1):
        n = 300
        wrong = sum(
            float(binom.pmf(k, n, share))
            for k in range(n + 1)
            if regressed_share_bound(k, n, 0.95) > share
        )
        assert wrong <= 0.05


def test_flips_both_ways_are_gross_and_not_made_up_for() -> None:
    # 40 regressed and 40 improved of 500: no net degradation, yet 8 % answer differently
    assert noninferiority_pvalue(PairedCounts(420, 40, 40, 0), MARGIN) <= 0.05
    assert regressed_share_bound(40, 500, CONFIDENCE) > MARGIN
    assert regressed_share_bound(0, 500, CONFIDENCE) == 0.0


@pytest.mark.parametrize(("regressed", "n"), [(3, 2), (-1, 5), (0, 0)])
def test_impossible_flips_are_refused(regressed: int, n: int) -> None:
    with pytest.raises(ValueError, match="must"):
        regressed_share_bound(regressed, n, CONFIDENCE)
