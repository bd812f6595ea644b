"""The exact test: known values, its promise computed (not simulated), and its edges."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from scipy.stats import beta, binom, multinomial, norm

from pytest_compsec.statistics.exact import NUISANCE_RISK
from pytest_compsec.statistics.paired import PairedCounts, noninferiority_pvalue, regression_pvalue
from pytest_compsec.statistics.score import tango_score

MARGIN, RISK = 0.02, 0.05


def counts(n: int, improved: int, regressed: int) -> PairedCounts:
    return PairedCounts(n - improved - regressed, improved, regressed, 0)


@pytest.mark.parametrize(
    ("improved", "regressed", "n", "pvalue"),
    [
        (0, 0, 148, 0.0503),
        (0, 0, 149, 0.0493),
        (0, 2, 313, 0.0497),
        (0, 5, 520, 0.0517),
        (0, 0, 182, 0.98**182),
        (0, 0, 183, 0.98**183),
    ],
)
def test_known_values(improved: int, regressed: int, n: int, pvalue: float) -> None:
    computed = noninferiority_pvalue(counts(n, improved, regressed), MARGIN)
    assert computed == pytest.approx(pvalue, abs=6e-5)


def test_149_pairs_certify_two_percent_and_148_do_not() -> None:
    assert noninferiority_pvalue(counts(149, 0, 0), MARGIN) <= RISK
    assert noninferiority_pvalue(counts(148, 0, 0), MARGIN) > RISK


# --- the promise -------------------------------------------------------------------------------

Decides = Callable[[int, int, int], bool]


def preserved(n: int, improved: int, regressed: int) -> bool:
    return noninferiority_pvalue(counts(n, improved, regressed), MARGIN) <= RISK


def regressed_(n: int, improved: int, regressed: int) -> bool:
    # counted from the other arm, so that both decisions have the same shape
    return regression_pvalue(counts(n, regressed, improved), MARGIN) <= RISK


def score_alone(n: int, improved: int, regressed: int) -> bool:
    return float(tango_score(improved, regressed, n, MARGIN)) >= float(norm.isf(RISK))


@cache
def limits(decides: Decides, n: int) -> tuple[int, ...]:
    """For each improved count the largest regressed count still decided for (−1: none)."""
    found, y = [], -1
    for x in range(n + 1):
        y = min(y, n - x)
        while y >= 0 and not decides(n, x, y):
            y -= 1
        while y + 1 <= n - x and decides(n, x, y + 1):
            y += 1
        found.append(y)
    return tuple(found)


def probability(n: int, limit: tuple[int, ...], p_improved: float, p_regressed: float) -> float:
    x = np.arange(n + 1)
    share = min(1.0, p_regressed / (1 - p_improved))
    return float(binom.pmf(x, n, p_improved) @ binom.cdf(np.array(limit), n - x, share))


def worst_error(decides: Decides, n: int, effect: float) -> float:
    """Largest probability of the decision when p_regressed − p_improved is ``effect``."""
    edge = (1 - abs(effect)) / 2
    grid = edge * np.sin(np.linspace(0, np.pi / 2, 250)[:-1]) ** 2
    limit = limits(decides, n)
    extra_i, extra_r = max(0.0, -effect), max(0.0, effect)
    return max(probability(n, limit, u + extra_i, u + extra_r) for u in grid)


@pytest.mark.parametrize("n", [148, 149, 200, 313])
def test_false_preserved_stays_within_its_risk_whatever_the_discordance(n: int) -> None:
    worst = worst_error(preserved, n, MARGIN)
    assert worst <= RISK
    # and it is not bought by never certifying
    assert worst > RISK / 2


@pytest.mark.parametrize("n", [149, 200])
def test_false_preserved_is_rarer_still_beyond_the_margin(n: int) -> None:
    at_margin = worst_error(preserved, n, MARGIN)
    for effect in (0.021, 0.03, 0.1, 0.5):
        assert worst_error(preserved, n, effect) < at_margin


@pytest.mark.parametrize("n", [148, 149, 200])
def test_false_regressed_stays_within_its_risk_whatever_the_discordance(n: int) -> None:
    worst = worst_error(regressed_, n, -MARGIN)
    assert RISK / 2 < worst <= RISK
    assert worst_error(regressed_, n, 0.0) < worst


def test_the_asymptotic_score_would_break_the_promise() -> None:
    # the check above has teeth: the same computation convicts the test that it replaces
    assert worst_error(score_alone, 133, MARGIN) > 0.065


# --- the p-value itself ------------------------------------------------------------------------


def plain_pvalue(n: int, improved: int, regressed: int, margin: float) -> float:
    """The definition written out: every sample, a dense grid of the compatible nuisance values."""
    x, y = np.array([(x, y) for x in range(n + 1) for y in range(n + 1 - x)]).T
    order = tango_score(x, y, n, margin)
    if margin > 0:
        order = np.maximum(order, norm.isf(binom.cdf(y, n, margin)))
    extreme = order >= order[(x == improved) & (y == regressed)] - 1e-9
    cells = np.stack([x, y, n - x - y], axis=1)[extreme]
    tail = NUISANCE_RISK / 2
    low = beta.ppf(tail, improved, n - improved + 1) if improved else 0.0
    high = beta.isf(tail, improved + 1, n - improved) if improved < n else 1.0
    extra_i, extra_r = max(0.0, -margin), max(0.0, margin)
    edge = (1 - abs(margin)) / 2
    first, last = (min(max(0.0, float(end) - extra_i), edge) for end in (low, high))
    best = 0.0
    for u in np.linspace(first, last, 1001):
        rest = max(0.0, 1 - 2 * u - extra_i - extra_r)
        at = multinomial.pmf(cells, n, [u + extra_i, u + extra_r, rest])
        best = max(best, float(np.sum(at)))
    return min(1.0, best + NUISANCE_RISK)


@pytest.mark.parametrize("n", [1, 2, 6])
@pytest.mark.parametrize("margin", [-0.2, -0.02, 0.0, 0.05, 0.3])
def test_agrees_with_the_definition_on_every_sample_of_few_pairs(n: int, margin: float) -> None:
    for improved in range(n + 1):
        for regressed in range(n + 1 - improved):
            plain = plain_pvalue(n, improved, regressed, margin)
            exact = noninferiority_pvalue(counts(n, improved, regressed), margin)
            # the grid can only miss a little of the maximum, the search only exceed it a little
            assert plain - 1e-9 <= exact <= plain * (1 + 2e-4)


@pytest.mark.parametrize("margin", [-0.3, -0.02, 0.0, 0.02, 0.4])
def test_fewer_regressions_or_more_improvements_are_more_evidence(margin: float) -> None:
    generator = np.random.default_rng(20250101)
    for _ in range(25):
        n = int(generator.integers(5, 250))
        improved, regressed = (int(k) for k in generator.integers(0, n // 2, size=2))
        here = noninferiority_pvalue(counts(n, improved, regressed), margin)
        slack = 1e-4 * here + 2 * NUISANCE_RISK
        if regressed:
            assert noninferiority_pvalue(counts(n, improved, regressed - 1), margin) <= here + slack
        larger = min(0.99, margin + 0.05)
        assert noninferiority_pvalue(counts(n, improved, regressed), larger) <= here + slack


@pytest.mark.parametrize("margin", [-0.3, 0.0, 0.02])
def test_regression_is_the_mirror_image(margin: float) -> None:
    table = PairedCounts(90, 3, 12, 20)
    assert regression_pvalue(table, margin) == noninferiority_pvalue(table.swapped(), -margin)


def test_both_sides_cannot_be_shown_at_once() -> None:
    for improved in range(0, 30, 3):
        for regressed in range(0, 30, 3):
            table = counts(60, improved, regressed)
            both = noninferiority_pvalue(table, 0.1) + regression_pvalue(table, 0.1)
            assert both >= 1.0 - 1e-5


def test_only_the_discordant_counts_and_n_matter() -> None:
    one = noninferiority_pvalue(PairedCounts(100, 2, 3, 40), MARGIN)
    assert noninferiority_pvalue(PairedCounts(0, 2, 3, 140), MARGIN) == one


@pytest.mark.parametrize(
    ("table", "margin", "low", "high"),
    [
        (PairedCounts(1, 0, 0, 0), 0.5, 0.5, 0.5001),
        (PairedCounts(0, 0, 1, 0), 0.5, 1.0, 1.0),
        (PairedCounts(0, 0, 0, 50), 0.0, 1.0, 1.0),
        (PairedCounts(0, 1400, 0, 0), 0.02, 0.0, 1e-5),
        (PairedCounts(0, 0, 1400, 0), 0.02, 1.0, 1.0),
        (PairedCounts(0, 700, 700, 0), 0.02, 0.2, 0.3),
        (PairedCounts(0, 40, 0, 0), -0.5, 0.0, 1e-3),
        (PairedCounts(1, 1, 1, 1), 0.999, 0.0, 1e-5),
        (PairedCounts(1, 1, 1, 1), -0.999, 1.0, 1.0),
    ],
    ids=str,
)
def test_extreme_tables(table: PairedCounts, margin: float, low: float, high: float) -> None:
    assert low <= noninferiority_pvalue(table, margin) <= high


@pytest.mark.parametrize(
    ("n", "improved", "regressed"),
    [(30_000, 200, 500), (30_000, 14_000, 14_350), (1_000_000, 1_000, 20_750)],
)
def test_very_many_pairs_agree_with_the_normal_approximation(
    n: int, improved: int, regressed: int
) -> None:
    pvalue = noninferiority_pvalue(counts(n, improved, regressed), MARGIN)
    normal = norm.sf(float(tango_score(improved, regressed, n, MARGIN)))
    assert pvalue == pytest.approx(normal, rel=0.05, abs=2 * NUISANCE_RISK)


def test_is_deterministic() -> None:
    table = PairedCounts(300, 7, 9, 100)
    assert noninferiority_pvalue(table, MARGIN) == noninferiority_pvalue(table, MARGIN)


@pytest.mark.parametrize("pvalue", [noninferiority_pvalue, regression_pvalue])
@pytest.mark.parametrize("margin", [1.0, -1.0, 2, float("nan")])
def test_an_impossible_margin_is_named(
    pvalue: Callable[[PairedCounts, float], float], margin: float
) -> None:
    with pytest.raises(ValueError, match=r"margin must lie in \(-1, 1\)"):
        pvalue(PairedCounts(10, 0, 0, 0), margin)
    with pytest.raises(ValueError, match="no pairs"):
        pvalue(PairedCounts(0, 0, 0, 0), 0.02)
