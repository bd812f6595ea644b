"""Intervals of one proportion against published values and their own definition."""

from __future__ import annotations

from typing import Any

import pytest
from scipy.stats import binom

from pytest_compsec.statistics.proportions import clopper_pearson_interval, wilson_interval

# Newcombe, Statistics in Medicine 17 (1998) 857-872, table I: 95 % intervals.
PUBLISHED = [
    (81, 263, (0.2553, 0.3662), (0.2527, 0.3676)),
    (15, 148, (0.0624, 0.1605), (0.0578, 0.1617)),
    (0, 20, (0.0000, 0.1611), (0.0000, 0.1684)),
    (1, 29, (0.0061, 0.1718), (0.0009, 0.1776)),
]


@pytest.mark.parametrize(("successes", "n", "wilson", "exact"), PUBLISHED)
def test_agrees_with_published_intervals(
    successes: int, n: int, wilson: tuple[float, float], exact: tuple[float, float]
) -> None:
    assert wilson_interval(successes, n, 0.95) == pytest.approx(wilson, abs=6e-5)
    assert clopper_pearson_interval(successes, n, 0.95) == pytest.approx(exact, abs=6e-5)


@pytest.mark.parametrize("successes", [0, 1, 3, 7, 11, 12])
def test_the_exact_limits_leave_half_the_error_on_each_side(successes: int) -> None:
    low, high = clopper_pearson_interval(successes, 12, 0.9)
    if successes > 0:
        assert binom.sf(successes - 1, 12, low) == pytest.approx(0.05)
    if successes < 12:
        assert binom.cdf(successes, 12, high) == pytest.approx(0.05)


@pytest.mark.parametrize("interval", [wilson_interval, clopper_pearson_interval])
@pytest.mark.parametrize("n", [1, 20, 100_000])
def test_none_and_all_reach_the_ends(interval: Any, n: int) -> None:
    low, high = interval(0, n, 0.95)
    assert low == 0.0 < high < 1.0
    assert interval(n, n, 0.95) == pytest.approx((1 - high, 1.0))
    assert interval(n, n, 0.95)[1] == 1.0


@pytest.mark.parametrize("interval", [wilson_interval, clopper_pearson_interval])
@pytest.mark.parametrize(
    ("successes", "n", "confidence", "message"),
    [
        (3, 2, 0.95, r"successes \(3\) must not exceed n \(2\)"),
        (-1, 2, 0.95, "successes must be at least 0"),
        (0, 0, 0.95, "n must be at least 1"),
        (1.5, 3, 0.95, "successes must be a whole number"),
        (1, 3, 1.0, "confidence must lie in"),
    ],
)
def test_impossible_input_is_named(
    interval: Any, successes: Any, n: int, confidence: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        interval(successes, n, confidence)
