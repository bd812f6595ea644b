"""Welch's test, trimmed means and thresholds against scipy; the crops of dudect."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from pytest_compsec.statistics.dudect import crop_levels, cropped_tests
from pytest_compsec.statistics.welch import (
    Estimated,
    familywise_threshold,
    trimmed_mean,
    welch,
    welch_points,
)


def drawn(seed: int, size: int, mean: float = 0.0, spread: float = 1.0) -> list[float]:
    values: list[float] = np.random.default_rng(seed).normal(mean, spread, size).tolist()
    return values


@pytest.mark.parametrize(("sizes", "spreads"), [((40, 40), (1, 1)), ((12, 200), (5, 0.1))])
def test_welch_is_scipys(sizes: tuple[int, int], spreads: tuple[float, float]) -> None:
    first = drawn(1, sizes[0], 0.3, spreads[0])
    second = drawn(2, sizes[1], 0.0, spreads[1])
    found = welch(first, second)
    wanted = scipy.stats.ttest_ind(first, second, equal_var=False)
    assert found.t == pytest.approx(wanted.statistic, rel=1e-12)
    assert found.degrees == pytest.approx(wanted.df, rel=1e-12)
    assert found.pvalue == pytest.approx(wanted.pvalue, rel=1e-9)
    interval = wanted.confidence_interval(0.9)
    assert (found.lower(0.05), found.upper(0.05)) == pytest.approx(tuple(interval), rel=1e-9)


def test_many_points_at_once_are_scipys() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(0.1, 2, (30, 50)), rng.normal(0, 1, (70, 50))
    sides = [(side.mean(0), side.var(0, ddof=1), len(side)) for side in (first, second)]
    t, degrees = welch_points(sides[0], sides[1])
    wanted = scipy.stats.ttest_ind(first, second, equal_var=False)
    np.testing.assert_allclose(t, wanted.statistic, rtol=1e-10)
    np.testing.assert_allclose(degrees, wanted.df, rtol=1e-10)


def test_points_without_spread() -> None:
    mean, zero = np.array([1.0, 1.0, 2.0]), np.zeros(3)
    t, degrees = welch_points((mean, zero, 5), (np.ones(3), zero, 9))
    assert t.tolist() == [0.0, 0.0, math.inf]
    assert degrees.tolist() == [4.0, 4.0, 4.0]
    with pytest.raises(ValueError, match="two samples"):
        welch_points((mean, zero, 1), (mean, zero, 9))


@pytest.mark.parametrize("size", [10, 41, 200])
def test_trimmed_mean_is_scipys_and_no_outlier_moves_it(size: int) -> None:
    values = drawn(4, size)
    found = trimmed_mean(values)
    assert found.value == pytest.approx(scipy.stats.trim_mean(values, 0.1), rel=1e-12)
    wanted = scipy.stats.mstats.trimmed_stde(values, limits=(0.1, 0.1), inclusive=(1, 1))
    cut = int(0.1 * size)
    assert found.degrees == size - 2 * cut - 1
    # scipy divides by the nominal share that is left, this by the share that really is.
    assert found.error * (1 - 2 * cut / size) / 0.8 == pytest.approx(float(wanted), rel=1e-9)
    spoiled = sorted(values)
    spoiled[-1] = 1e9
    assert trimmed_mean(spoiled).value == pytest.approx(found.value, rel=1e-9)


def test_bounds_of_a_trimmed_mean_hold_as_often_as_they_promise() -> None:
    rng = np.random.default_rng(5)
    # Symmetric with a heavy tail, as differences of request times are.
    held = sum(trimmed_mean(rng.standard_t(2, 60).tolist()).upper(0.05) >= 0 for _ in range(1000))
    assert 935 <= held <= 975


@pytest.mark.parametrize("bad", [[1.0], [1.0, math.nan, 2.0], [1.0, math.inf]])
def test_what_is_no_sample_is_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError):
        welch(bad, [1.0, 2.0])
    with pytest.raises(ValueError):
        trimmed_mean(bad)


def test_an_estimate_without_spread_is_certain() -> None:
    assert Estimated(0.0, 0.0, 9).pvalue == 1.0
    assert Estimated(0.1, 0.0, 9).pvalue == 0.0
    assert Estimated(2.0, 0.0, 9).minus(Estimated(1.5, 0.0, 5)) == Estimated(0.5, 0.0, 5)


def test_the_threshold_for_many_points() -> None:
    one = familywise_threshold(1, 1e9, 0.95)
    assert one == pytest.approx(1.959964, abs=1e-4)
    many = familywise_threshold(10_000, 200, 0.95)
    risk = 1 - 0.95 ** (1 / 10_000)
    assert many == pytest.approx(scipy.stats.t.isf(risk / 2, 200), rel=1e-6)
    # 4.5, made for some points of many traces, is less than a long trace needs.
    assert familywise_threshold(100_000, 1e9, 0.95) > 4.5 > familywise_threshold(1000, 1e9, 0.95)
    # Noise exceeds it somewhere about as often as promised.
    rng = np.random.default_rng(6)
    limit = familywise_threshold(200, 38, 0.9)
    beyond = 0
    for _ in range(400):
        sides = [rng.normal(size=(20, 200)) for _ in range(2)]
        moments = [(side.mean(0), side.var(0, ddof=1), 20) for side in sides]
        t, _ = welch_points(moments[0], moments[1])
        beyond += bool((abs(t) > limit).any())
    assert 22 <= beyond <= 60


def test_crops_crowd_towards_the_slow_end() -> None:
    assert crop_levels(3) == (0.5, 0.75, 0.875)
    # dudect's own formula, in ten steps.
    assert crop_levels(10) == tuple(1 - 0.5 ** (10 * (i + 1) / 10) for i in range(10))


def test_a_shift_under_slow_outliers_is_seen_by_a_crop() -> None:
    rng = np.random.default_rng(7)
    first, second = (
        rng.normal(100 + shift, 1, 300) + 300 * (rng.random(300) < 0.05) for shift in (0.5, 0)
    )
    found = cropped_tests(first.tolist(), second.tolist())
    assert found.crops[0].kept == 1.0
    assert found.crops[0].pvalue > 0.01
    assert found.pvalue < 0.001
    assert found.largest.kept < 1


def test_what_few_requests_do_is_seen_by_the_test_on_all_times() -> None:
    rng = np.random.default_rng(8)
    first = rng.normal(100, 1, 300) + 100 * (rng.random(300) < 0.08)
    found = cropped_tests(first.tolist(), rng.normal(100, 1, 300).tolist())
    assert found.pvalue < 0.001


def test_without_a_difference_the_corrected_tests_fire_no_more_often_than_promised() -> None:
    rng = np.random.default_rng(9)
    fired = sum(
        cropped_tests(*rng.gamma(4, 10, (2, 60)).tolist()).pvalue <= 0.05 for _ in range(400)
    )
    assert fired <= 30


def test_too_few_measurements_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 10"):
        cropped_tests([1.0] * 9, [1.0] * 20)
