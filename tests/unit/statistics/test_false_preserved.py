"""The promise at the sizes that people use: the computed chance of a false PRESERVED.

``test_exact_test`` asks the p-value itself for every sample up to 313 pairs. Here the region of
certified samples comes from ``RejectionLimits``, is held against the p-value along its border,
and its probability at a true degradation of exactly the margin is summed with scipy's binomial,
not with the package's own sums. Nothing is simulated.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom

from pytest_compsec.statistics.paired import PairedCounts, noninferiority_pvalue, tango_interval
from pytest_compsec.statistics.probability import largest_improved
from pytest_compsec.statistics.rejection import RejectionLimits
from pytest_compsec.statistics.supremum import supremum_bounds

Limit = npt.NDArray[np.int64]

PAIRS = (149, 150, 183, 200, 300, 313, 480, 520, 864, 1000, 1500)
USUAL_NUISANCE = 0.1


@cache
def certified(n: int, margin: float, risk: float, nuisance: float) -> Limit:
    """The most regressed certified, for each improved count that ``nuisance`` makes likely."""
    last = largest_improved(n, nuisance)
    return RejectionLimits(n, margin, risk).region(0, last, n).limit


def grid(largest: float, points: int = 240) -> npt.NDArray[np.float64]:
    """Improved probabilities from 0 to ``largest``, dense where counts are small."""
    return largest * np.sin(np.linspace(0.0, np.pi / 2, points)) ** 2


def probabilities(
    limit: Limit, n: int, improved: npt.NDArray[np.float64], degradation: float
) -> npt.NDArray[np.float64]:
    """P(regressed <= limit[improved]) for each improved probability; counts past the table: all in.

    The improved counts past the table have a probability below 1e-11; counted as certified, they
    can only raise the result.
    """
    x = np.arange(len(limit))
    result = np.empty(len(improved))
    for position, p_improved in enumerate(improved):
        share = min(1.0, (p_improved + degradation) / (1.0 - p_improved))
        inside = binom.pmf(x, n, p_improved) @ binom.cdf(limit, n - x, share)
        result[position] = inside + binom.sf(len(limit) - 1, n, p_improved)
    return result


def check(n: int, margin: float, confidence: float, nuisance: float) -> None:
    risk = round(1.0 - confidence, 12)
    limit = certified(n, margin, risk, nuisance)
    assert len(limit) > 1
    found = probabilities(limit, n, grid(nuisance), margin)
    assert found.max() <= risk
    # not bought by hardly ever certifying
    assert found.max() > 0.9 * risk


@pytest.mark.parametrize("margin", [0.02, 0.05])
@pytest.mark.parametrize("n", PAIRS)
def test_a_false_preserved_is_never_likelier_than_its_risk(n: int, margin: float) -> None:
    check(n, margin, 0.95, USUAL_NUISANCE)


@pytest.mark.parametrize("n", [183, 480, 1500])
def test_the_same_at_a_higher_confidence(n: int) -> None:
    check(n, 0.02, 0.975, USUAL_NUISANCE)


@pytest.mark.parametrize("n", [149, 480])
def test_the_same_for_every_discordance_there_is(n: int) -> None:
    check(n, 0.02, 0.95, 0.49)


WHOLE_GRID = [
    (n, margin, confidence)
    for n in PAIRS
    for margin in (0.02, 0.05)
    for confidence in (0.95, 0.975, 0.99)
    # with fewer pairs nothing is certified even without a regression
    if (1.0 - margin) ** n <= 1.0 - confidence
]


@pytest.mark.heavy
@pytest.mark.parametrize(("n", "margin", "confidence"), WHOLE_GRID)
def test_the_whole_grid_of_sizes_margins_and_discordances(
    n: int, margin: float, confidence: float
) -> None:
    risk, largest = round(1.0 - confidence, 12), (1.0 - margin) / 2
    limit = certified(n, margin, risk, largest)
    assert risk / 2 < probabilities(limit, n, grid(largest, 600), margin).max() <= risk


@pytest.mark.parametrize("n", [149, 864, 1500])
def test_no_peak_hides_between_the_points_of_the_grid(n: int) -> None:
    limits = RejectionLimits(n, 0.02, 0.05)
    region = limits.region(0, largest_improved(n, USUAL_NUISANCE), n)
    proven = supremum_bounds(region, 0.02, (0.0, USUAL_NUISANCE)).ceiling
    on_the_grid = probabilities(region.limit, n, grid(USUAL_NUISANCE), 0.02).max()
    assert on_the_grid - 1e-9 <= proven <= 0.05


@pytest.mark.parametrize("n", [200, 864, 1500])
def test_a_degradation_beyond_the_margin_is_certified_more_rarely_still(n: int) -> None:
    limit = certified(n, 0.02, 0.05, USUAL_NUISANCE)
    worst = [
        probabilities(limit, n, grid(USUAL_NUISANCE), degradation).max()
        for degradation in (0.02, 0.022, 0.025, 0.03, 0.05, 0.1)
    ]
    assert all(later < earlier for earlier, later in pairwise(worst))


@pytest.mark.parametrize(
    ("n", "margin", "confidence", "last", "step"),
    [
        (149, 0.02, 0.95, 20, 1),
        (200, 0.05, 0.95, 20, 2),
        (480, 0.02, 0.975, 40, 4),
        (864, 0.02, 0.95, 60, 10),
        (1500, 0.02, 0.95, 80, 20),
        (1500, 0.05, 0.975, 60, 30),
    ],
)
def test_the_certified_region_is_the_one_of_the_pvalue_itself(
    n: int, margin: float, confidence: float, last: int, step: int
) -> None:
    risk = round(1.0 - confidence, 12)
    limit = certified(n, margin, risk, USUAL_NUISANCE)
    for improved in range(0, last + 1, step):
        most = int(limit[improved])
        for regressed, expected in ((most, True), (most + 1, False)):
            if regressed >= 0:
                table = PairedCounts(n - improved - regressed, improved, regressed, 0)
                assert (noninferiority_pvalue(table, margin) <= risk) == expected


# --- the same computation convicts the interval that this test replaces ------------------------


def certified_by_interval(n: int, margin: float, risk: float, last: int) -> Limit:
    """Like ``certified``, deciding by the upper end of Tango's interval at 1 − 2α."""

    def passes(improved: int, regressed: int) -> bool:
        table = PairedCounts(n - improved - regressed, improved, regressed, 0)
        return -tango_interval(table, 1.0 - 2.0 * risk)[0] <= margin

    found, regressed = [], -1
    for improved in range(last + 1):
        while passes(improved, regressed + 1):
            regressed += 1
        found.append(regressed)
    return np.array(found)


# Not at every size: the asymptotic rule errs to either side, as the sawtooth in n has it.
@pytest.mark.parametrize(
    ("n", "at_least"), [(133, 0.068), (229, 0.055), (302, 0.058), (448, 0.054), (1500, 0.052)]
)
def test_the_asymptotic_interval_as_the_rule_breaks_the_promise(n: int, at_least: float) -> None:
    limit = certified_by_interval(n, 0.02, 0.05, largest_improved(n, 0.03))
    assert probabilities(limit, n, grid(0.03), 0.02).max() > at_least
