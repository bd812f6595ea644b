"""Bounds of a ratio of sums over documents: coverage, degenerate samples, reproducibility."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pytest_compsec.statistics.ratio_bootstrap import (
    LEAST_DOCUMENTS,
    bootstrap_ratio,
    unseen_share,
)

#: Mean and spread (of the logarithm) of a document's increase in nats per token: skewed, as damage
#: is that hits some documents much harder than others.
SCALE, SPREAD = 0.02, 1.0


def documents(generator: Any, count: int) -> tuple[Any, Any]:
    """Differences (nats) and tokens of ``count`` documents of unequal length."""
    tokens = np.round(np.exp(generator.normal(5.0, 0.4, count)))
    return tokens * SCALE * np.exp(generator.normal(0.0, SPREAD, count)), tokens


def true_ratio() -> float:
    """Increase and length are independent: the mean of a log-normal."""
    return SCALE * math.exp(SPREAD**2 / 2)


def missed(count: int, runs: int) -> dict[str, tuple[float, float]]:
    """How often each method's lower and upper 95 % bounds miss the truth."""
    from scipy import stats

    generator = np.random.default_rng(11)
    truth = true_ratio()
    misses = {"studentized": [0, 0], "BCa": [0, 0]}
    for _ in range(runs):
        above, below = documents(generator, count)
        studentized = bootstrap_ratio(above.tolist(), below.tolist(), resamples=399)
        accelerated = stats.bootstrap(
            (above, below),
            lambda first, second, axis=-1: first.sum(axis) / second.sum(axis),
            paired=True,
            n_resamples=399,
            confidence_level=0.9,
            method="BCa",
            vectorized=True,
            rng=generator,
        ).confidence_interval
        for name, (low, high) in (
            ("studentized", studentized.bounds(0.95)),
            ("BCa", tuple(accelerated)),
        ):
            misses[name][0] += low > truth
            misses[name][1] += high < truth
    return {name: (low / runs, high / runs) for name, (low, high) in misses.items()}


def test_coverage_is_nearer_to_the_promise_than_that_of_bca() -> None:
    found = missed(40, 1000)
    low, high = found["studentized"]
    # An upper bound below the truth is a false PRESERVED. The skew costs some of the 5 % promised.
    assert high < 0.1
    assert 0.015 < low < 0.07
    assert high < found["BCa"][1] - 0.02


def test_the_same_numbers_every_time_and_whatever_the_caller_drew() -> None:
    above, below = documents(np.random.default_rng(3), 50)
    first = bootstrap_ratio(above.tolist(), below.tolist()).bounds(0.95)
    np.random.default_rng(4).normal(size=10)
    again = bootstrap_ratio(above.tolist(), below.tolist()).bounds(0.95)
    assert first == again
    assert first[0] < above.sum() / below.sum() < first[1]


def test_more_confidence_gives_wider_bounds() -> None:
    above, below = documents(np.random.default_rng(3), 50)
    found = bootstrap_ratio(above.tolist(), below.tolist())
    low, high = found.bounds(0.95)
    lower, higher = found.bounds(0.99)
    assert lower < low < high < higher


def test_it_agrees_with_the_normal_approximation_on_many_even_documents() -> None:
    generator = np.random.default_rng(8)
    above = 100 * generator.normal(0.05, 0.02, 2000)
    found = bootstrap_ratio(above.tolist(), [100.0] * 2000, resamples=999)
    half = 1.645 * (above / 100).std(ddof=1) / math.sqrt(2000)
    low, high = found.bounds(0.95)
    assert found.estimate == pytest.approx(above.mean() / 100)
    assert low == pytest.approx(found.estimate - half, abs=0.15 * half)
    assert high == pytest.approx(found.estimate + half, abs=0.15 * half)


def test_long_documents_weigh_by_their_tokens() -> None:
    # Half the documents are nine times as long and ten times as damaged.
    above = [1.0, 90.0] * 30
    below = [10.0, 90.0] * 30
    found = bootstrap_ratio(above, below)
    assert found.estimate == pytest.approx(91 / 100)


def test_identical_models_have_a_ratio_of_exactly_nothing() -> None:
    found = bootstrap_ratio([0.0] * 30, [float(n) for n in range(5, 35)])
    assert found.bounds(0.95) == (0.0, 0.0)
    assert found.standard_error == 0.0
    # The same ratio throughout, within rounding: no bounds narrower than rounding, none wider.
    tokens = [float(n) for n in range(5, 35)]
    even = bootstrap_ratio([0.1 * n for n in tokens], tokens).bounds(0.95)
    assert even == pytest.approx((0.1, 0.1))


def test_one_damaged_document_among_many_widens_the_upper_bound() -> None:
    """One document of 40 that is hit hard must not vanish between resamples without it."""
    sound = bootstrap_ratio([0.001 * (n % 3) for n in range(40)], [1.0] * 40).bounds(0.95)[1]
    one = [0.001 * (n % 3) for n in range(39)] + [2.0]
    found = bootstrap_ratio(one, [1.0] * 40)
    assert found.bounds(0.95)[1] > 3 * found.estimate > sound


def test_too_few_documents_are_refused() -> None:
    with pytest.raises(ValueError, match=f"29 documents .* at least {LEAST_DOCUMENTS}"):
        bootstrap_ratio([0.0] * 29, [1.0] * 29)


@pytest.mark.parametrize(
    ("above", "below", "message"),
    [
        ([math.inf] + [0.0] * 29, [1.0] * 30, "numerator 0"),
        ([math.nan] + [0.0] * 29, [1.0] * 30, "numerator 0"),
        ([0.0] * 30, [1.0] * 29 + [0.0], "denominator 29"),
        ([0.0] * 30, [1.0] * 31, "30 numerators but 31"),
    ],
)
def test_what_is_no_ratio_is_refused(above: list[float], below: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_ratio(above, below)


def test_the_share_that_may_be_unseen() -> None:
    # 0.9**30 = 0.042: of a tenth of all documents 30 draws hold one at 95 %.
    assert unseen_share(LEAST_DOCUMENTS, 0.95) < 0.1
    assert (1 - unseen_share(160, 0.95)) ** 160 == pytest.approx(0.05)
    with pytest.raises(ValueError, match="no documents"):
        unseen_share(0, 0.95)
