"""Growth of the size of a signal: right whichever way the signals point, and honest about it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pytest_compsec.side_channels.timing import effect_increase
from pytest_compsec.statistics.welch import Estimated


def estimated(value: float, error: float = 0.01) -> Estimated:
    return Estimated(value, error, 100)


@pytest.mark.parametrize(
    ("original", "compressed", "increase"),
    [(0, 3, 3), (0, -3, 3), (2, 3, 1), (2, -3, 1), (-2, 3, 1), (3, 1, -2), (-3, 1, -2), (2, 2, 0)],
)
def test_the_increase_is_that_of_the_size(
    original: float, compressed: float, increase: float
) -> None:
    found = effect_increase(estimated(original), estimated(compressed), 0.05)
    assert found.change == pytest.approx(increase)
    assert found.lower < increase < found.upper
    assert found.upper - found.lower < 0.1


def test_an_original_without_an_effect_gives_no_credit_and_costs_little() -> None:
    # Its noise is as large as the compressed model's: the bound rests on the latter alone.
    found = effect_increase(estimated(0.0, 1.0), estimated(0.0, 1.0), 0.05)
    assert found.upper < 2.3


@pytest.mark.parametrize(("original", "compressed"), [(0.0, 2.0), (1.0, 3.0), (0.5, -2.5)])
def test_an_increase_as_large_as_the_margin_is_within_it_seldom(
    original: float, compressed: float
) -> None:
    rng = np.random.default_rng(0)
    within = beyond = 0
    for one, other in rng.normal([original, compressed], 1.0, (2000, 2)):
        found = effect_increase(Estimated(one, 1, 1e6), Estimated(other, 1, 1e6), 0.05)
        within += found.upper <= 2.0
        beyond += found.lower > 2.0
    assert within <= 0.06 * 2000
    assert beyond <= 0.06 * 2000


def test_what_is_no_number_bounds_nothing() -> None:
    found = effect_increase(estimated(math.nan), estimated(1.0), 0.05)
    assert math.isnan(found.lower)
    assert math.isnan(found.upper)
