"""The betting bound of a mean: its coverage by simulation, its width, its edges."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from pytest_compsec.statistics.mean_bound import MeanBound, _bets, paired_mean_bound

CONFIDENCE, RISK = 0.95, 0.05
RUNS = 2000
# Three standard errors of a share of RISK seen in RUNS runs.
NOISE = 3 * math.sqrt(RISK * (1 - RISK) / RUNS)

Draw = Callable[[np.random.Generator, int], "np.ndarray[tuple[int], np.dtype[np.float64]]"]
Bound = Callable[[Sequence[float], float], tuple[float, float]]

# name: (draw, true mean)
POPULATIONS: dict[str, tuple[Draw, float]] = {
    "near-constant": (lambda g, n: 0.01 + 0.02 * g.uniform(-1, 1, n), 0.01),
    "skewed": (lambda g, n: g.beta(0.2, 4.0, n), 0.2 / 4.2),
    "two points": (lambda g, n: (g.random(n) < 0.05).astype(np.float64), 0.05),
    "mostly zero": (lambda g, n: np.where(g.random(n) < 0.9, 0.0, g.uniform(-1, 1, n)), 0.0),
    "both ends": (lambda g, n: np.where(g.random(n) < 0.6, 1.0, -1.0), 0.2),
}


def misses(bound: Bound, population: str, n: int, runs: int = RUNS) -> tuple[float, float]:
    """Share of runs whose lower (upper) bound lies on the wrong side of the true mean."""
    draw, mean = POPULATIONS[population]
    generator = np.random.default_rng(20260101)
    above = below = 0
    for _ in range(runs):
        lower, upper = bound(draw(generator, n).tolist(), CONFIDENCE)
        above += lower > mean
        below += upper < mean
    return above / runs, below / runs


def normal_bound(differences: Sequence[float], confidence: float) -> tuple[float, float]:
    mean, spread = float(np.mean(differences)), float(np.std(differences, ddof=1))
    assert confidence == CONFIDENCE
    reach = 1.6449 * spread / math.sqrt(len(differences))
    return mean - reach, mean + reach


@pytest.mark.parametrize(
    ("population", "n"), [*((name, 60) for name in POPULATIONS), ("two points", 20)]
)
def test_each_end_misses_the_mean_no_more_often_than_promised(population: str, n: int) -> None:
    above, below = misses(paired_mean_bound, population, n)
    assert above <= RISK + NOISE
    assert below <= RISK + NOISE


def test_the_normal_approximation_breaks_the_promise_in_the_same_harness() -> None:
    # 1 - 0.95^20 = 36 % of the runs see no 1 at all and call the mean 0
    assert misses(normal_bound, "two points", 20)[1] > 0.3
    assert misses(normal_bound, "skewed", 20)[1] > 3 * RISK


def test_no_bet_knows_the_score_that_it_is_placed_on() -> None:
    scores = np.random.default_rng(8).random((2, 30))
    changed = scores.copy()
    changed[:, 20] = 1.0 - changed[:, 20]
    before, after = _bets(scores, RISK), _bets(changed, RISK)
    assert (before[:, :21] == after[:, :21]).all()
    assert (before[:, 21:] != after[:, 21:]).all()


def hoeffding_reach(n: int) -> float:
    """Hoeffding 1963 for a range of 2, one-sided at RISK."""
    return 2.0 * math.sqrt(math.log(1.0 / RISK) / (2 * n))


@pytest.mark.parametrize("n", [50, 200, 800])
@pytest.mark.parametrize(
    ("population", "share"), [("near-constant", 0.3), ("skewed", 0.4), ("mostly zero", 0.6)]
)
def test_low_variance_makes_it_far_narrower_than_hoeffding(
    population: str, share: float, n: int
) -> None:
    draw, mean = POPULATIONS[population]
    generator = np.random.default_rng(3)
    bounds = [paired_mean_bound(draw(generator, n).tolist(), CONFIDENCE) for _ in range(20)]
    assert np.mean([bound.upper - mean for bound in bounds]) < share * hoeffding_reach(n)
    assert np.mean([mean - bound.lower for bound in bounds]) < share * hoeffding_reach(n)


def test_with_the_largest_variance_there_is_it_stays_near_hoeffding() -> None:
    draw, mean = POPULATIONS["both ends"]
    generator = np.random.default_rng(4)
    bounds = [paired_mean_bound(draw(generator, 400).tolist(), CONFIDENCE) for _ in range(20)]
    assert np.mean([bound.upper - mean for bound in bounds]) < 1.1 * hoeffding_reach(400)


def test_more_prompts_and_less_confidence_tighten_it() -> None:
    values = [0.1, -0.1, 0.0, 0.05] * 20
    wide = paired_mean_bound(values, 0.99)
    usual = paired_mean_bound(values, 0.95)
    more = paired_mean_bound(values * 4, 0.95)
    assert wide.lower < usual.lower < more.lower < 0.0125 < more.upper < usual.upper < wide.upper


def test_reversing_the_arms_mirrors_the_bounds() -> None:
    values = np.random.default_rng(5).uniform(-0.2, 0.6, 90).tolist()
    forward = paired_mean_bound(values, CONFIDENCE)
    backward = paired_mean_bound([-value for value in values], CONFIDENCE)
    assert backward == pytest.approx((-forward.upper, -forward.lower), abs=1e-6)


def test_a_rerun_gives_the_same_bounds() -> None:
    values = np.random.default_rng(6).uniform(-1, 1, 70).tolist()
    assert paired_mean_bound(values, CONFIDENCE) == paired_mean_bound(values, CONFIDENCE)


def test_hardly_anything_is_to_be_gained_by_arranging_the_prompts() -> None:
    values = np.array([0.0] * 50 + [1.0] * 10)
    generator = np.random.default_rng(7)
    arrangements = [values, values[::-1], *(generator.permutation(values) for _ in range(30))]
    bounds = [paired_mean_bound(arranged.tolist(), CONFIDENCE) for arranged in arrangements]
    width = bounds[0].upper - bounds[0].lower
    assert np.ptp([bound.upper for bound in bounds]) < 0.15 * width
    assert np.ptp([bound.lower for bound in bounds]) < 0.15 * width


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("n", [1, 2, 500])
def test_equal_differences_lie_inside_and_within_the_range(value: float, n: int) -> None:
    lower, upper = paired_mean_bound([value] * n, CONFIDENCE)
    assert -1.0 <= lower <= value <= upper <= 1.0
    assert upper - lower > 0.0


def test_numbers_of_numpy_and_tuples_are_welcome() -> None:
    values = [0.25, -0.5, 0.0]
    expected = paired_mean_bound(values, 0.9)
    assert isinstance(expected, MeanBound)
    assert paired_mean_bound(tuple(np.array(values)), 0.9) == expected


@pytest.mark.parametrize(
    ("values", "confidence", "message"),
    [
        ([], 0.95, "no differences"),
        ([0.0, 1.5], 0.95, r"difference 1 must lie in \[-1, 1\]"),
        ([float("nan")], 0.95, "difference 0 must lie in"),
        ([0.0], 0.5, "confidence must lie in"),
        ([0.0], 1.0, "confidence must lie in"),
    ],
)
def test_impossible_input_is_named(values: list[float], confidence: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_mean_bound(values, confidence)
