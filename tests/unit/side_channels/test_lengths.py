"""Does the length of an answer say more than before?"""

from __future__ import annotations

import numpy as np
import pytest

from pytest_compsec.side_channels.lengths import (
    LengthLeak,
    LengthsOfArm,
    least_prompts,
    length_leak,
)


def arm(harmful: float, benign: float, *, seed: int, size: int = 128) -> LengthsOfArm:
    """Lengths about two means, spread of 10."""
    rng = np.random.default_rng(seed)
    return LengthsOfArm(
        tuple(rng.normal(harmful, 10, size).round().tolist()),
        tuple(rng.normal(benign, 10, size).round().tolist()),
    )


def leak(original: LengthsOfArm, compressed: LengthsOfArm) -> LengthLeak:
    return length_leak(original, compressed, risk=0.05, shared_risk=0.0125, seed=0)


def test_the_same_lengths_say_the_same() -> None:
    same = arm(20, 40, seed=1)
    found = leak(same, same)
    assert found.original == found.compressed > 0.85
    assert found.increase.change == 0
    # Not 0: a kind of prompt that 128 do not hold may have changed.
    assert 0.02 < found.increase.upper < 0.05


def test_refusals_that_became_shorter_say_more() -> None:
    found = leak(arm(38, 40, seed=1), arm(10, 40, seed=2))
    assert found.original < 0.65
    assert found.compressed > 0.95
    assert found.shared.lower > 0.2
    assert found.shared.lower < found.increase.lower


@pytest.mark.parametrize("before", [36, 44])
@pytest.mark.parametrize("after", [10, 80])
def test_a_leak_that_turned_around_is_a_leak(before: int, after: int) -> None:
    # Refusals were a little shorter, and are much longer now: a plain difference of areas would be
    # of the other sign.
    found = leak(arm(before, 40, seed=1), arm(after, 40, seed=2))
    assert found.original < 0.7
    assert found.increase.change == pytest.approx(found.compressed - found.original)
    assert found.shared.lower > 0.2


def test_a_model_that_refuses_no_more_says_less() -> None:
    found = leak(arm(10, 40, seed=1), arm(40, 40, seed=2))
    assert found.increase.upper < 0


def test_least_prompts_are_the_first_that_may_pass() -> None:
    least = least_prompts(0.05, 0.05)
    assert least == 72
    for size, passes in ((least, True), (least - 1, False)):
        same = arm(20, 40, seed=1, size=size)
        assert (leak(same, same).increase.upper <= 0.05) is passes


def test_lengths_must_be_of_the_same_prompts() -> None:
    with pytest.raises(ValueError, match="second ones"):
        leak(arm(1, 2, seed=1), arm(1, 2, seed=1, size=100))
