"""The search for the worst nuisance value: it must not miss a peak, and its bases must hold."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_compsec.statistics.probability import region_probability
from pytest_compsec.statistics.score import Region, region_at_least, tango_score
from pytest_compsec.statistics.supremum import relative_tolerance, supremum_bounds

CASES = [
    (60, 0.02, 1.2),
    (149, 0.02, 1.7438),
    (200, -0.05, 1.5),
    (300, 0.0, 2.0),
    (400, 0.3, 1.0),
    (520, 0.02, 1.6915),
]


@pytest.mark.parametrize(("n", "degradation", "threshold"), CASES)
def test_no_nuisance_value_of_a_dense_grid_exceeds_the_ceiling(
    n: int, degradation: float, threshold: float
) -> None:
    region = region_at_least(threshold, n, degradation, n)
    edge = (1 - abs(degradation)) / 2
    worst = supremum_bounds(region, degradation, (0.0, edge))
    u = edge * np.sin(np.linspace(0, np.pi / 2, 4001)) ** 2
    dense = region_probability(region, u + max(0, -degradation), u + max(0, degradation))
    assert dense.max() <= worst.ceiling
    assert worst.ceiling <= worst.attained * (1 + 2 * relative_tolerance(n))
    at_worst = region_probability(
        region, worst.where + max(0, -degradation), worst.where + max(0, degradation)
    )
    assert at_worst[0] == pytest.approx(worst.attained, rel=1e-9)


def test_a_peak_narrower_than_the_first_grid_is_found() -> None:
    # 1,500 or more improved and at most 1,495 regressed of 4,000: probable only near 37 % each, a
    # peak narrower than the first cells are wide.
    n = 4000
    limit = np.where(np.arange(n + 1) >= 1500, 1495, -1)
    region = Region(n, limit)
    worst = supremum_bounds(region, 0.0, (0.0, 0.5))
    u = np.linspace(0.36, 0.39, 3001)
    dense = region_probability(region, u, u)
    assert worst.ceiling >= dense.max() >= worst.attained * (1 - 1e-4)
    assert 0.36 < worst.where < 0.39


@pytest.mark.parametrize("n", [1, 2, 7, 23])
@pytest.mark.parametrize("degradation", [-0.9, -0.2, -0.01, 0.0, 0.02, 0.35, 0.8])
def test_the_score_rises_with_improved_and_falls_with_regressed(n: int, degradation: float) -> None:
    x, y = (grid.astype(float) for grid in np.indices((n + 1, n + 1)))
    score = np.where(x + y <= n, tango_score(x, y, n, degradation), np.nan)
    down = np.diff(score, axis=1)
    up = np.diff(score, axis=0)
    assert (down[~np.isnan(down)] < 0).all()
    assert (up[~np.isnan(up)] > 0).all()


def test_the_region_probability_is_the_sum_over_its_samples() -> None:
    from scipy.stats import multinomial

    limit = np.array([0, 2, 2, 5])
    for p_improved, p_regressed in [(0.1, 0.3), (0.0, 0.2), (0.5, 0.5), (0.25, 0.0)]:
        samples = [(x, y, 8 - x - y) for x in range(4) for y in range(min(limit[x], 8 - x) + 1)]
        rest = 1 - p_improved - p_regressed
        expected = multinomial.pmf(samples, 8, [p_improved, p_regressed, rest]).sum()
        found = region_probability(Region(8, limit), p_improved, p_regressed)[0]
        assert found == pytest.approx(expected, abs=1e-12)
