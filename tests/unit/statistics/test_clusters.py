"""The bound clustered by category: when it widens, when it must not, and what it reaches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from pytest_compsec.statistics.clusters import ClusteredBound, bound_of_tables, clustered_bound
from pytest_compsec.statistics.paired import PairedCounts, noninferiority_pvalue, tango_interval
from pytest_compsec.statistics.rejection import RejectionLimits

MARGIN, CONFIDENCE, RISK = 0.02, 0.95, 0.05


def bound(
    regressed: Sequence[int],
    size: int,
    improved: Sequence[int] | None = None,
    unsafe: Sequence[int] | None = None,
    confidence: float = CONFIDENCE,
) -> ClusteredBound:
    """The bound for clusters of one size, by how many prompts of each flipped or were unsafe."""
    none = [0] * len(regressed)
    tables = [
        PairedCounts(size - r - i - u, i, r, u)
        for r, i, u in zip(regressed, improved or none, unsafe or none, strict=True)
    ]
    result = bound_of_tables(tables, confidence)
    assert result is not None
    return result


# --- without clustering it is the bound of independent prompts ---------------------------------


def test_prompts_that_are_clusters_of_their_own_give_tangos_limits() -> None:
    original = [True] * 300
    compressed = [k not in (5, 50, 150, 250) for k in range(300)]
    original[7] = original[70] = False
    result = clustered_bound([str(k) for k in range(300)], original, compressed, CONFIDENCE)
    counts = PairedCounts.from_outcomes(original, compressed)
    lower, upper = tango_interval(counts, 0.9)
    assert result is not None
    assert result.design_effect == pytest.approx(1.0)
    # with 300 clusters Student's t is nearly normal
    assert (result.lower, result.upper) == pytest.approx((-upper, -lower), rel=0.01)


def test_evenly_spread_flips_cost_nothing() -> None:
    even = bound([1] * 12, 72, improved=[1] * 12)
    lower, upper = tango_interval(PairedCounts(840, 12, 12, 0), 0.9)
    assert even.design_effect == 1.0
    assert even.intraclass_correlation == 0.0
    assert even.effective_n == 864
    assert (even.lower, even.upper) == pytest.approx((-upper, -lower), abs=1e-6)


# --- with clustering ---------------------------------------------------------------------------


def test_the_same_flips_in_one_category_withhold_preserved() -> None:
    spread = bound([1, 1, 1, 1, 1, 1] + [0] * 10, 54)
    together = bound([6] + [0] * 15, 54)
    assert noninferiority_pvalue(PairedCounts(858, 0, 6, 0), MARGIN) <= RISK
    assert spread.upper <= MARGIN < together.upper
    assert together.design_effect > 5
    assert together.effective_n < 864 / 5


def test_prompts_repeated_many_times_count_once() -> None:
    # 40 different prompts, 3 of them regressed, each asked 10 times
    flips = [10, 10, 10] + [0] * 37
    repeated = bound(flips, 10)
    once = -tango_interval(PairedCounts(37, 0, 3, 0), 0.9)[0]
    assert repeated.effective_n == pytest.approx(40, rel=0.05)
    assert repeated.intraclass_correlation == pytest.approx(1.0, abs=0.05)
    assert repeated.upper == pytest.approx(once, rel=0.1)
    # the exact test, told that these are 400 independent prompts, is far surer
    assert -tango_interval(PairedCounts(370, 0, 30, 0), 0.9)[0] < 0.6 * repeated.upper


def test_few_clusters_know_less_about_their_own_variance() -> None:
    few, many = bound([6, 2], 400), bound([3, 2, 2, 1] + [0] * 12, 50)
    assert few.design_effect == pytest.approx(many.design_effect, rel=0.1)
    assert few.upper > 3 * many.upper


def test_flips_for_the_better_that_cluster_widen_it_too() -> None:
    scattered = bound([1] * 8, 60, improved=[1] * 8)
    clumped = bound([1] * 8, 60, improved=[8] + [0] * 7)
    assert clumped.lower < scattered.lower
    assert clumped.upper > scattered.upper


# --- hardly any flips --------------------------------------------------------------------------


@pytest.mark.parametrize("unsafe", [None, [54] + [0] * 15, [3] * 16, [0, 20] * 8])
@pytest.mark.parametrize("confidence", [0.95, 0.975])
def test_without_a_flip_the_bound_is_that_of_the_effective_number(
    unsafe: list[int] | None, confidence: float
) -> None:
    result = bound([0] * 16, 54, unsafe=unsafe, confidence=confidence)
    expected = 1.0 - (1.0 - confidence) ** (1.0 / result.effective_n)
    assert result.upper == pytest.approx(expected)
    assert result.lower == pytest.approx(-expected)
    assert expected > 0.003


def test_a_cluster_bootstrap_would_have_returned_nothing_to_fear() -> None:
    generator = np.random.default_rng(11)
    degradation = np.zeros(16)
    resampled = degradation[generator.integers(0, 16, (200, 16))].mean(axis=1)
    assert np.quantile(resampled, [0.05, 0.95]).tolist() == [0.0, 0.0]
    assert bound([0] * 16, 54).upper > 0.003


def test_without_a_flip_unsafe_answers_that_cluster_tell_of_clusters() -> None:
    even = bound([0] * 8, 60, unsafe=[6] * 8)
    uneven = bound([0] * 8, 60, unsafe=[24, 18, 6, 0, 0, 0, 0, 0])
    assert even.design_effect == 1.0
    assert uneven.design_effect > 1.2
    assert uneven.upper > 1.2 * even.upper


def test_149_alike_prompts_do_and_149_clustered_ones_do_not() -> None:
    tables = [PairedCounts(10 - u, 0, 0, u) for u in [1] * 14] + [PairedCounts(8, 0, 0, 1)]
    clumped = [PairedCounts(10, 0, 0, 0)] * 13 + [
        PairedCounts(2, 0, 0, 8),
        PairedCounts(3, 0, 0, 6),
    ]
    alike, uneven = bound_of_tables(tables, CONFIDENCE), bound_of_tables(clumped, CONFIDENCE)
    assert alike is not None
    assert uneven is not None
    assert alike.upper <= MARGIN < uneven.upper


def test_one_flip_says_as_little_about_clustering_as_none() -> None:
    unsafe = [24, 18, 6, 0, 0, 0, 0, 0]
    none, one = bound([0] * 8, 60, unsafe=unsafe), bound([0] * 7 + [1], 60, unsafe=unsafe)
    assert one.design_effect == pytest.approx(none.design_effect, rel=0.1)
    assert one.upper > none.upper


def test_a_single_flip_is_not_taken_for_a_cluster() -> None:
    independent = -tango_interval(PairedCounts(479, 0, 1, 0), 0.9)[0]
    alone = bound([0] * 7 + [1], 60)
    assert alone.design_effect == pytest.approx(1.0)
    assert alone.upper == pytest.approx(independent, rel=0.02)


def test_at_high_confidence_one_flip_does_not_overrule_the_exact_test() -> None:
    # the score limit alone would: it is too wide for rare events far out in the tail
    counts = PairedCounts(329, 0, 1, 0)
    assert noninferiority_pvalue(counts, MARGIN) <= 0.01
    assert -tango_interval(counts, 0.98)[0] > MARGIN
    assert bound([1] + [0] * 9, 33, confidence=0.99).upper <= MARGIN


# --- its form ----------------------------------------------------------------------------------


def outcomes() -> tuple[list[str], list[bool], list[bool]]:
    generator = np.random.default_rng(12)
    clusters = [f"category {k}" for k in generator.integers(0, 9, 400)]
    original = (generator.random(400) < 0.9).tolist()
    flips = generator.random(400) < 0.04
    return clusters, original, [bool(o != f) for o, f in zip(original, flips, strict=True)]


def test_neither_names_nor_order_matter() -> None:
    clusters, original, compressed = outcomes()
    result = clustered_bound(clusters, original, compressed, CONFIDENCE)
    renamed = clustered_bound([c[::-1] for c in clusters], original, compressed, CONFIDENCE)
    reverse = clustered_bound(clusters[::-1], original[::-1], compressed[::-1], CONFIDENCE)
    assert result is not None
    assert renamed == result
    assert reverse is not None
    assert reverse.upper == pytest.approx(result.upper)
    assert result.clusters == 9


def test_reversing_the_arms_mirrors_the_bounds() -> None:
    clusters, original, compressed = outcomes()
    forward = clustered_bound(clusters, original, compressed, CONFIDENCE)
    backward = clustered_bound(clusters, compressed, original, CONFIDENCE)
    assert forward is not None
    assert backward is not None
    assert (backward.lower, backward.upper) == pytest.approx((-forward.upper, -forward.lower))


@pytest.mark.parametrize(
    ("regressed", "improved"),
    [([60, 60], [0, 0]), ([0, 0], [60, 60]), ([60, 0], [0, 60]), ([60, 0], [0, 0])],
)
def test_extreme_tables_stay_within_the_range(regressed: list[int], improved: list[int]) -> None:
    result = bound(regressed, 60, improved=improved)
    degradation = (sum(regressed) - sum(improved)) / 120
    assert -1.0 <= result.lower <= degradation <= result.upper <= 1.0
    assert result.effective_n <= 120
    assert 0.0 <= result.intraclass_correlation <= 1.0


def test_one_cluster_says_nothing_about_clustering() -> None:
    assert clustered_bound(["only"] * 3, [True] * 3, [True] * 3, CONFIDENCE) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a"], [True, True], [True, True], 0.95), "1 clusters for 2 outcomes"),
        ((["a", "b"], [True, True], [True], 0.95), "not paired"),
        ((["a", "b"], [True, True], [True, None], 0.95), "outcome 1 must be True or False"),
        (([], [], [], 0.95), "no pairs"),
        ((["a", "b"], [True, True], [True, True], 1.0), "confidence must lie in"),
    ],
)
def test_impossible_input_is_named(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clustered_bound(*arguments)


# --- what it reaches, by simulation ------------------------------------------------------------


class Rates(NamedTuple):
    exact: float
    both: float


def preserved_rates(
    groups: int, size: int, degradation: float, flips: float, correlation: float, runs: int
) -> Rates:
    """Share of runs that are PRESERVED by the exact test alone, and by it and the bound.

    Regressed rates of the clusters: beta distributed with this intraclass correlation and mean
    ``degradation + flips / 2``; improved: ``flips / 2`` everywhere; unsafe otherwise: 15 % on
    average with an intraclass correlation of .1.
    """
    generator = np.random.default_rng(13)
    n = groups * size
    limit = RejectionLimits(n, MARGIN, RISK).region(0, n // 10, n).limit
    exact = both = 0

    def rates(mean: float, correlation: float) -> Any:
        if correlation == 0.0:
            return np.full(groups, mean)
        total = (1 - correlation) / correlation
        return generator.beta(mean * total, (1 - mean) * total, groups)

    for _ in range(runs):
        p_regressed = rates(degradation + flips / 2, correlation)
        regressed = generator.binomial(size, p_regressed)
        improved = generator.binomial(
            size - regressed, np.minimum(1.0, flips / 2 / (1 - p_regressed))
        )
        unsafe = generator.binomial(size - regressed - improved, rates(0.15, 0.1))
        if regressed.sum() > limit[improved.sum()]:
            continue
        exact += 1
        both += bound(regressed, size, improved.tolist(), unsafe.tolist()).upper <= MARGIN
    return Rates(exact / runs, both / runs)


@pytest.mark.parametrize(("groups", "size"), [(16, 54), (8, 60)])
@pytest.mark.parametrize("correlation", [0.05, 0.1])
def test_clustered_flips_are_certified_falsely_much_more_rarely(
    groups: int, size: int, correlation: float
) -> None:
    found = preserved_rates(groups, size, MARGIN, 0.02, correlation, 2000)
    # the exact test alone, which takes prompts for independent, is convicted here
    assert found.exact > 3 * RISK
    assert found.both < 0.7 * found.exact


@pytest.mark.parametrize(("groups", "size"), [(16, 54), (8, 60)])
def test_the_promise_holds_without_clustering(groups: int, size: int) -> None:
    found = preserved_rates(groups, size, MARGIN, 0.02, 0.0, 2000)
    assert found.both <= found.exact <= RISK + 3 * math.sqrt(RISK * (1 - RISK) / 2000)


@pytest.mark.parametrize(
    ("groups", "size", "flips", "most"),
    [(16, 54, 0.0, 0.0), (16, 54, 0.02, 0.04), (16, 54, 0.03, 0.07), (8, 60, 0.02, 0.17)],
)
def test_independent_prompts_lose_little_certification(
    groups: int, size: int, flips: float, most: float
) -> None:
    found = preserved_rates(groups, size, 0.0, flips, 0.0, 800)
    assert found.exact > 0.8
    assert found.exact - found.both <= most
