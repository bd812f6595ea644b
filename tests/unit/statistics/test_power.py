"""How many prompts a margin needs, checked against the test that decides."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multinomial

from pytest_compsec.statistics.paired import PairedCounts, noninferiority_pvalue
from pytest_compsec.statistics.power import least_margin, minimum_pairs, pairs_for_power, power


def identical(n: int, margin: float) -> float:
    return noninferiority_pvalue(PairedCounts(n, 0, 0, 0), margin)


@pytest.mark.parametrize(
    ("margin", "confidence", "pairs"),
    [(0.02, 0.95, 149), (0.02, 0.975, 183), (0.02, 0.99, 228), (0.05, 0.95, 59), (0.01, 0.95, 299)],
)
def test_minimum_pairs_of_usual_margins(margin: float, confidence: float, pairs: int) -> None:
    assert minimum_pairs(margin, confidence) == pairs


@pytest.mark.parametrize("margin", [0.001, 0.013, 0.02, 0.1, 0.5, 0.95])
@pytest.mark.parametrize("confidence", [0.6, 0.9, 0.95, 0.999])
def test_minimum_pairs_is_where_the_test_starts_to_certify(
    margin: float, confidence: float
) -> None:
    n = minimum_pairs(margin, confidence)
    assert identical(n, margin) <= 1 - confidence
    if n > 1:
        assert identical(n - 1, margin) > 1 - confidence


@pytest.mark.parametrize("n", [1, 10, 149, 1000])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_least_margin_is_the_smallest_that_n_pairs_certify(n: int, confidence: float) -> None:
    margin = least_margin(n, confidence)
    assert identical(n, margin) <= 1 - confidence
    assert identical(n, margin * 0.9999) > 1 - confidence
    assert minimum_pairs(margin, confidence) <= n


@pytest.mark.parametrize(
    ("n", "margin", "discordance", "confidence"),
    [(25, 0.2, 0.1, 0.95), (25, 0.2, 0.6, 0.9), (18, 0.5, 1.0, 0.95), (30, 0.1, 0.02, 0.8)],
)
def test_power_is_the_probability_of_certified_samples(
    n: int, margin: float, discordance: float, confidence: float
) -> None:
    samples = [
        (x, y, n - x - y)
        for x in range(n + 1)
        for y in range(n + 1 - x)
        if noninferiority_pvalue(PairedCounts(n - x - y, x, y, 0), margin) <= 1 - confidence
    ]
    half = discordance / 2
    expected = np.sum(multinomial.pmf(samples, n, [half, half, 1 - discordance]))
    assert power(n, margin, discordance, confidence) == pytest.approx(float(expected), abs=1e-9)


def test_power_without_discordance_is_certainty_or_nothing() -> None:
    assert power(149, 0.02, 0.0, 0.95) == pytest.approx(1.0)
    assert power(148, 0.02, 0.0, 0.95) == 0.0
    assert pairs_for_power(0.02, 0.0, 0.95, 0.8) == 149


@pytest.mark.parametrize(
    ("margin", "discordance", "confidence", "target"),
    [(0.1, 0.05, 0.95, 0.8), (0.2, 0.2, 0.9, 0.9), (0.3, 0.5, 0.95, 0.8), (0.2, 1.0, 0.95, 0.5)],
)
def test_pairs_for_power_is_the_least_that_reaches_it(
    margin: float, discordance: float, confidence: float, target: float
) -> None:
    n = pairs_for_power(margin, discordance, confidence, target)
    assert power(n, margin, discordance, confidence) >= target
    for fewer in range(max(1, n - 12), n):
        assert power(fewer, margin, discordance, confidence) < target
    assert power(max(1, n // 2), margin, discordance, confidence) < target


def test_more_discordance_and_more_power_need_more_pairs() -> None:
    few = pairs_for_power(0.1, 0.02, 0.95, 0.8)
    assert few < pairs_for_power(0.1, 0.08, 0.95, 0.8) < pairs_for_power(0.1, 0.08, 0.95, 0.9)
    assert few < pairs_for_power(0.05, 0.02, 0.95, 0.8)


def test_many_pairs_still_reach_the_power() -> None:
    n = pairs_for_power(0.02, 0.06, 0.95, 0.8)
    assert 700 < n < 1200
    assert power(n, 0.02, 0.06, 0.95) >= 0.8
    assert power(n - 1, 0.02, 0.06, 0.95) < 0.8


def test_beyond_ten_thousand_pairs_the_normal_approximation_answers() -> None:
    # (1.645 + 0.842)² · 0.1 / 0.001² = 618,256
    assert pairs_for_power(0.001, 0.1, 0.95, 0.8) == pytest.approx(618_256, rel=1e-3)


@pytest.mark.parametrize("margin", [0.0, -0.1, 1.0])
def test_a_margin_that_nothing_certifies_is_named(margin: float) -> None:
    for call in (
        lambda: minimum_pairs(margin, 0.95),
        lambda: pairs_for_power(margin, 0.1, 0.95, 0.8),
        lambda: power(100, margin, 0.1, 0.95),
    ):
        with pytest.raises(ValueError, match=r"margin must lie in \(0, 1\)"):
            call()


def test_other_impossible_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"confidence must lie in \(0.5, 1\)"):
        minimum_pairs(0.02, 95)
    with pytest.raises(ValueError, match="discordance must lie in"):
        pairs_for_power(0.02, 1.2, 0.95, 0.8)
    with pytest.raises(ValueError, match="power must lie in"):
        pairs_for_power(0.02, 0.1, 0.95, 1.0)
    with pytest.raises(ValueError, match="n must be at least 1"):
        least_margin(0, 0.95)
