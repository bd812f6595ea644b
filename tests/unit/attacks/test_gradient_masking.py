"""When a weaker attack does better than the one that knows the model."""

from __future__ import annotations

import math

import pytest

from pytest_compsec.attacks.gradient.masking import mcnemar_one_sided, signs_of_masking


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (6, 0), (7, 0), (9, 3), (3, 9)])
def test_the_test_is_the_binomial_tail(first: int, second: int) -> None:
    n = first + second
    tail = sum(math.comb(n, k) for k in range(first, n + 1)) / 2**n
    assert mcnemar_one_sided(first, second) == pytest.approx(tail)


def signs(white: int, other: int, both: int = 50, missing: int = 0) -> tuple[str, ...]:
    """Attacks named; so many samples fooled by one attack alone."""
    fooled = {
        "white-box": [True] * (both + white) + [False] * (other + 100),
        "transfer": [True] * both + [False] * white + [True] * other + [False] * 100,
        "query": [False] * (both + white + other + 100),
    }
    n = both + white + other + 100
    without = [True] * missing + [False] * (n - missing)
    found = signs_of_masking("compressed", fooled, without, allowed_without=4.0)
    return tuple(sign.attack for sign in found)


def test_seven_samples_that_only_transfer_fools_are_a_sign_and_six_are_none() -> None:
    assert signs(white=0, other=7) == ("transfer",)
    assert signs(white=0, other=6) == ()
    assert signs(white=10, other=12) == ()
    assert signs(white=40, other=0) == ()


def test_samples_without_any_gradient_are_a_sign_beyond_what_is_allowed() -> None:
    assert signs(white=0, other=0, missing=4) == ()
    assert signs(white=0, other=0, missing=5) == ("",)
