"""From counts to a verdict."""

from __future__ import annotations

import pytest

from pytest_compsec.statistics.decision import Decision, decide
from pytest_compsec.statistics.paired import PairedCounts, mcnemar_midp, tango_interval


def decided(*cells: int, margin: float = 0.02, confidence: float = 0.95) -> Decision:
    return decide(PairedCounts(*cells), margin=margin, confidence=confidence)


@pytest.mark.parametrize(
    ("cells", "outcome"),
    [
        ((149, 0, 0, 0), "PRESERVED"),
        ((148, 0, 0, 0), "INCONCLUSIVE"),
        ((311, 0, 2, 0), "PRESERVED"),
        ((515, 0, 5, 0), "INCONCLUSIVE"),
        ((200, 30, 2, 20), "PRESERVED"),
        ((200, 2, 30, 20), "REGRESSED"),
        ((0, 0, 12, 0), "REGRESSED"),
        ((150, 1, 8, 41), "INCONCLUSIVE"),
        ((1, 0, 0, 0), "INCONCLUSIVE"),
        ((0, 0, 1, 0), "INCONCLUSIVE"),
    ],
)
def test_outcomes(cells: tuple[int, int, int, int], outcome: str) -> None:
    assert decided(*cells).outcome == outcome


def test_the_exact_test_rules_over_the_interval() -> None:
    # the score interval ends inside the margin at 140 identical pairs; the certificate waits
    result = decided(140, 0, 0, 0)
    assert result.interval[1] < 0.02
    assert result.outcome == "INCONCLUSIVE"


def test_the_numbers_are_those_of_the_degradation() -> None:
    table = PairedCounts(150, 1, 8, 41)
    result = decide(table, margin=0.02, confidence=0.95)
    lower, upper = tango_interval(table, 0.9)
    assert result.degradation == pytest.approx(0.035)
    assert result.interval == pytest.approx((-upper, -lower))
    assert result.interval[0] < result.degradation < result.interval[1]
    assert result.mcnemar_pvalue == mcnemar_midp(table)
    assert result.regressed_pvalue < result.preserved_pvalue


def test_a_confidence_of_975_needs_183_identical_pairs() -> None:
    assert decided(182, 0, 0, 0, confidence=0.975).outcome == "INCONCLUSIVE"
    assert decided(183, 0, 0, 0, confidence=0.975).outcome == "PRESERVED"


@pytest.mark.parametrize("cells", [(149, 0, 0, 0), (0, 0, 12, 0)])
def test_what_is_settled_needs_no_more_prompts(cells: tuple[int, int, int, int]) -> None:
    assert decided(*cells).pairs_needed is None


def test_identical_models_are_told_the_least_certifying_number() -> None:
    assert decided(100, 0, 0, 0).pairs_needed == 149
    assert decided(1, 0, 0, 0).pairs_needed == 149


@pytest.mark.parametrize(
    ("cells", "expected"),
    [((190, 1, 2, 7), "PRESERVED"), ((150, 1, 8, 41), "REGRESSED"), ((80, 2, 6, 12), "REGRESSED")],
)
def test_the_estimated_number_settles_when_the_rates_hold(
    cells: tuple[int, int, int, int], expected: str
) -> None:
    n, needed = sum(cells), decided(*cells).pairs_needed
    assert needed is not None
    assert needed > n
    improved, regressed = (round(cell * needed / n) for cell in cells[1:3])
    same = needed - improved - regressed
    assert decided(same, improved, regressed, 0).outcome == expected
    fewer = (n + needed) // 2
    improved, regressed = (round(cell * fewer / n) for cell in cells[1:3])
    assert decided(fewer - improved - regressed, improved, regressed, 0).outcome == "INCONCLUSIVE"


def test_a_degradation_at_the_margin_cannot_be_settled() -> None:
    result = decided(96, 0, 2, 2)
    assert (result.outcome, result.pairs_needed) == ("INCONCLUSIVE", None)
    assert decided(100, 0, 0, 0, margin=0.0).pairs_needed is None


def test_a_margin_of_zero_and_a_negative_margin_ask_for_improvement() -> None:
    assert decided(100, 20, 0, 0, margin=0.0).outcome == "PRESERVED"
    assert decided(100, 20, 0, 0, margin=-0.05).outcome == "PRESERVED"
    assert decided(300, 0, 0, 0, margin=-0.05).outcome == "REGRESSED"


@pytest.mark.parametrize("confidence", [0.5, 1.0, 95, 0.05])
def test_an_impossible_confidence_is_named(confidence: float) -> None:
    with pytest.raises(ValueError, match=r"confidence must lie in \(0.5, 1\)"):
        decided(149, 0, 0, 0, confidence=confidence)


def test_an_impossible_margin_and_missing_pairs_are_named() -> None:
    with pytest.raises(ValueError, match=r"margin must lie in \(-1, 1\)"):
        decided(149, 0, 0, 0, margin=2)
    with pytest.raises(ValueError, match="no pairs"):
        decided(0, 0, 0, 0)
