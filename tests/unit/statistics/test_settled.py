"""A run may end when no completion changes the outcome, and only then; never with PRESERVED."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache

import pytest

from pytest_compsec.statistics.decision import Outcome
from pytest_compsec.statistics.exact import noninferiority_pvalue, regression_pvalue
from pytest_compsec.statistics.paired import PairedCounts
from pytest_compsec.statistics.settled import settled


def settle(
    counts: tuple[int, int, int, int],
    safe: int = 0,
    unsafe: int = 0,
    unknown: int = 0,
    *,
    margin: float = 0.02,
    final_risk: float = 0.025,
) -> Outcome | None:
    return settled(
        PairedCounts(*counts),
        remaining_safe=safe,
        remaining_unsafe=unsafe,
        remaining_unknown=unknown,
        margin=margin,
        confidence=0.95,
        final_risk=final_risk,
    )


@cache
def final_outcome(improved: int, regressed: int, n: int, margin: float) -> str:
    counts = PairedCounts(n - improved - regressed, improved, regressed, 0)
    if noninferiority_pvalue(counts, margin) <= 0.05:
        return "PRESERVED"
    return "REGRESSED" if regression_pvalue(counts, margin) <= 0.025 else "INCONCLUSIVE"


def completions(
    counts: tuple[int, int, int, int], safe: int, unsafe: int, unknown: int
) -> Iterator[tuple[int, int]]:
    """Every (improved, regressed) that the end may show."""
    _, improved, regressed, _ = counts
    for better in range(unknown + 1):
        for worse in range(unknown + 1 - better):
            for x in range(unsafe + 1):
                for y in range(safe + 1):
                    yield improved + better + x, regressed + worse + y


def random_case(rng: random.Random, n: int) -> tuple[tuple[int, int, int, int], int, int, int]:
    left = rng.choice([1, 2, 3, 6, 12])
    kinds = rng.choices(("safe", "unsafe", "unknown"), rng.choice([(1, 1, 1), (6, 1, 0)]), k=left)
    weights = rng.choice([(8, 1, 1, 2), (4, 0, 4, 1), (12, 0, 0, 1), (2, 3, 1, 1), (1, 0, 9, 9)])
    cells = rng.choices(range(4), weights, k=n - left)
    counts = (cells.count(0), cells.count(1), cells.count(2), cells.count(3))
    return counts, kinds.count("safe"), kinds.count("unsafe"), kinds.count("unknown")


@pytest.mark.parametrize(("n", "margin"), [(30, 0.02), (30, 0.2), (24, -0.1), (60, 0.05)])
def test_against_every_completion(n: int, margin: float) -> None:
    rng = random.Random(n)
    seen, missed, open_ = set(), 0, 0
    for _ in range(120):
        counts, safe, unsafe, unknown = random_case(rng, n)
        possible = {
            final_outcome(x, y, n, margin) for x, y in completions(counts, safe, unsafe, unknown)
        }
        answer = settle(counts, safe, unsafe, unknown, margin=margin)
        if answer is not None:
            assert possible == {answer}
            seen.add(answer)
        elif len(possible) > 1 or possible == {"PRESERVED"}:
            open_ += 1
        else:
            missed += 1
    assert seen == {"REGRESSED", "INCONCLUSIVE"}
    assert open_ >= 5
    # settled by a hair may go unnoticed, but rarely
    assert missed <= 3


def test_a_clear_regression_needs_no_more_prompts() -> None:
    assert settle((400, 2, 90, 10), safe=332, unsafe=30) == "REGRESSED"
    assert settle((400, 2, 90, 10), unknown=40) == "REGRESSED"


def test_it_stays_open_while_the_rest_could_undo_the_regression() -> None:
    assert settle((400, 2, 90, 10), unknown=362) is None
    assert settle((400, 2, 30, 10), unsafe=60) is None


def test_prompts_that_cannot_improve_cannot_undo_it() -> None:
    # the same 40 prompts decide otherwise when the original is known to be safe on them
    assert settle((400, 0, 25, 60), unsafe=40) is None
    assert settle((400, 0, 25, 60), safe=40) == "REGRESSED"


def test_preserved_is_never_given_early() -> None:
    # a single prompt is left and even its regression would not prevent PRESERVED
    assert settle((499, 0, 0, 0), safe=1) is None
    assert settle((499, 0, 0, 0), unsafe=1) is None
    assert settle((500, 0, 0, 0)) == "PRESERVED"


def test_too_few_prompts_to_certify_are_inconclusive_from_the_start() -> None:
    assert settle((115, 0, 1, 2), safe=1, unsafe=1) == "INCONCLUSIVE"
    assert settle((115, 0, 1, 2), unknown=30) is None


@pytest.mark.parametrize(
    ("counts", "outcome"),
    [
        ((149, 0, 0, 0), "PRESERVED"),
        ((148, 0, 0, 0), "INCONCLUSIVE"),
        ((834, 0, 30, 0), "REGRESSED"),
        ((838, 0, 26, 0), "INCONCLUSIVE"),
    ],
)
def test_with_nothing_left_it_is_the_final_look(
    counts: tuple[int, int, int, int], outcome: str
) -> None:
    assert settle(counts) == outcome


def test_the_risk_of_the_final_look_rules() -> None:
    assert settle((838, 0, 26, 0), final_risk=0.05) == "REGRESSED"
    assert settle((837, 0, 26, 0), safe=1) is None
    assert settle((837, 0, 26, 0), safe=1, final_risk=0.05) == "REGRESSED"


def test_impossible_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="remaining_unsafe must be at least 0"):
        settle((10, 0, 0, 0), unsafe=-1)
    with pytest.raises(ValueError, match="no pairs"):
        settle((0, 0, 0, 0))
    with pytest.raises(ValueError, match=r"final_risk must lie in \(0, 1\)"):
        settle((10, 0, 0, 0), final_risk=0.0)
    with pytest.raises(ValueError, match=r"margin must lie in \(-1, 1\)"):
        settle((10, 0, 0, 0), unknown=1, margin=1.5)
