"""Holm's correction: tables worked out by hand, and its promise by simulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy.special import ndtr

from pytest_compsec.statistics.multiplicity import holm, holm_threshold


@pytest.mark.parametrize(
    ("pvalues", "adjusted"),
    [
        ([], ()),
        ([0.04], (0.04,)),
        # 3 x .01, then 2 x .03, then 1 x .04 lifted to its predecessor
        ([0.01, 0.04, 0.03], (0.03, 0.06, 0.06)),
        ([0.04, 0.03, 0.01], (0.06, 0.06, 0.03)),
        # 4 x .01, 3 x .02, 2 x .03 = .06, .2
        ([0.2, 0.03, 0.01, 0.02], (0.2, 0.06, 0.04, 0.06)),
        # ties share the larger multiple; nothing exceeds 1
        ([0.02, 0.02, 0.9], (0.06, 0.06, 0.9)),
        ([0.5, 0.6, 0.7], (1.0, 1.0, 1.0)),
        ([0.0, 1.0], (0.0, 1.0)),
    ],
)
def test_hand_computed_tables(pvalues: list[float], adjusted: tuple[float, ...]) -> None:
    assert holm(pvalues) == pytest.approx(adjusted)


def test_it_agrees_with_the_stepwise_rule_of_the_paper() -> None:
    generator = np.random.default_rng(7)
    for _ in range(200):
        pvalues = (generator.random(int(generator.integers(1, 9))) ** 3).tolist()
        rejected: set[int] = set()
        for position in sorted(range(len(pvalues)), key=pvalues.__getitem__):
            if pvalues[position] > 0.05 / (len(pvalues) - len(rejected)):
                break
            rejected.add(position)
        assert {k for k, p in enumerate(holm(pvalues)) if p <= 0.05} == rejected


def test_adjusting_never_lowers_a_pvalue_nor_swaps_two() -> None:
    pvalues = [0.9, 0.001, 0.03, 0.02, 0.03, 0.5]
    adjusted = holm(pvalues)
    assert all(after >= before for before, after in zip(pvalues, adjusted, strict=True))
    order = sorted(range(6), key=pvalues.__getitem__)
    assert [adjusted[k] for k in order] == sorted(adjusted)


def unadjusted(pvalues: Sequence[float]) -> tuple[float, ...]:
    return tuple(pvalues)


def family_error(
    adjust: Callable[[Sequence[float]], tuple[float, ...]], correlation: float, false: int = 0
) -> float:
    """Share of runs in which any of 6 true hypotheses (beside ``false`` false ones) is rejected.

    The z scores share one common part: their pairwise correlation is ``correlation``, as for
    variants of one original tested on the same prompts.
    """
    generator = np.random.default_rng(8)
    runs, wrong = 6000, 0
    common = generator.standard_normal((runs, 1))
    own = generator.standard_normal((runs, 6 + false))
    z = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own
    z[:, 6:] += 3.5
    for row in ndtr(-z):
        wrong += min(adjust(row.tolist())[:6]) <= 0.05
    return wrong / runs


@pytest.mark.parametrize("false", [0, 3])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95])
def test_the_family_error_stays_within_its_risk_however_dependent(
    correlation: float, false: int
) -> None:
    # three standard errors of 6,000 runs
    assert family_error(holm, correlation, false) <= 0.05 + 0.0085


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95])
def test_unadjusted_pvalues_break_the_promise(correlation: float) -> None:
    assert family_error(unadjusted, correlation) > 0.07


def test_holm_rejects_more_than_bonferroni() -> None:
    assert [p <= 0.05 for p in holm([0.012, 0.016, 0.02, 0.04])] == [True] * 4
    assert 4 * 0.02 > 0.05


def test_the_first_threshold_is_the_one_of_the_smallest_pvalue() -> None:
    assert holm_threshold(1, 0.05) == 0.05
    assert holm_threshold(4, 0.05) == pytest.approx(0.0125)
    at, above = holm_threshold(4, 0.05), holm_threshold(4, 0.05) * 1.001
    assert holm([at, 0.9, 0.9, 0.9])[0] <= 0.05 < holm([above, 0.9, 0.9, 0.9])[0]


@pytest.mark.parametrize("bad", [-0.01, 1.01, float("nan")])
def test_an_impossible_pvalue_is_named(bad: float) -> None:
    with pytest.raises(ValueError, match=r"p-value 1 must lie in \[0, 1\]"):
        holm([0.5, bad])


@pytest.mark.parametrize(("count", "risk"), [(0, 0.05), (2, 0.0), (2, 1.0)])
def test_an_impossible_family_is_refused(count: int, risk: float) -> None:
    with pytest.raises(ValueError, match="must"):
        holm_threshold(count, risk)
