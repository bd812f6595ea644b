"""Requests of several kinds: matched, in random order, timed."""

from __future__ import annotations

import gc
import random

import pytest

from pytest_compsec.errors import MeasurementError
from pytest_compsec.side_channels.blocks import (
    REAL_CLOCK,
    MatchedPair,
    matched_pairs,
    require_pairs,
    time_blocks,
    warm_up,
)
from tests.unit.side_channels.fake_requests import FakeArm, FakeClock, is_harmful

PAIRS = [MatchedPair(f"forbidden {at}", f"delicious {at}", 11) for at in range(6)]


def test_pairs_are_of_the_same_number_of_tokens_and_of_few_numbers() -> None:
    harmful = [("a", 5), ("b", 5), ("c", 7), ("d", None), ("e", 9)]
    benign = [("u", 7), ("v", 5), ("w", 5), ("x", 5), ("y", None), ("z", 8)]
    pairs = matched_pairs(harmful, benign, 16)
    assert pairs == [
        MatchedPair("a", "v", 5),
        MatchedPair("b", "w", 5),
        MatchedPair("c", "u", 7),
    ]
    assert matched_pairs(harmful, benign, 2) == pairs[:2]


def test_too_few_pairs_say_what_to_do() -> None:
    with pytest.raises(
        MeasurementError, match=r"model reads only 3 .* at least 4 .*prompts=\.\.\."
    ):
        require_pairs("model", PAIRS[:3])
    require_pairs("model", PAIRS[:4])


def test_every_block_has_every_kind_and_only_the_delayed_one_is_delayed() -> None:
    clock = FakeClock()
    arm = FakeArm(clock, noise=0, bursts=0, drift=0)
    times = time_blocks(
        arm.ask, PAIRS, delay=7.5, blocks=12, seconds=1e6, seed=0, clock=clock.clock
    )
    assert times.blocks == 12
    assert times.harmful == times.benign == times.plain == times.again == (100.0,) * 12
    assert times.delayed == (107.5,) * 12
    thrice = []
    for start in range(0, len(arm.asked), 4):
        block = arm.asked[start : start + 4]
        harmful = sum(is_harmful(prompt) for prompt in block)
        assert harmful in (1, 3)
        thrice.append(harmful == 3)
        assert len({prompt.split()[1] for prompt in block}) == 1
    # The controls repeat now one class, now the other.
    assert 2 <= sum(thrice) <= 10
    # Each pair takes its turn before one has a second.
    turns = [arm.asked[start].split()[1] for start in range(0, len(arm.asked), 4)]
    assert sorted(turns[:6]) == sorted(turns[6:]) == [str(at) for at in range(6)]


def test_the_order_within_blocks_is_drawn_and_the_same_for_one_seed() -> None:
    orders = []
    for seed in (0, 0, 1):
        clock = FakeClock()
        arm = FakeArm(clock)
        time_blocks(arm.ask, PAIRS, delay=1, blocks=40, seconds=1e6, seed=seed, clock=clock.clock)
        orders.append(arm.asked)
    assert orders[0] == orders[1] != orders[2]
    kinds = [tuple(map(is_harmful, orders[0][start : start + 4])) for start in range(0, 160, 4)]
    for place in range(4):
        alone = tuple(at == place for at in range(4))
        assert alone in kinds
        assert tuple(not one for one in alone) in kinds


def test_no_block_begins_after_the_time_is_over() -> None:
    clock = FakeClock()
    arm = FakeArm(clock, noise=0, bursts=0, drift=0)
    times = time_blocks(arm.ask, PAIRS, delay=1, blocks=500, seconds=2, seed=0, clock=clock.clock)
    assert times.blocks == 5  # 401 ms each


def test_garbage_is_collected_again_afterwards_whatever_happens() -> None:
    def broken(prompt: str) -> None:
        assert not gc.isenabled()
        raise MeasurementError("gone")

    with pytest.raises(MeasurementError):
        time_blocks(broken, PAIRS, delay=1, blocks=5, seconds=9, seed=0)
    assert gc.isenabled()


def test_warming_up_forgets_the_slow_first_requests() -> None:
    clock = FakeClock()
    arm = FakeArm(clock, noise=0, bursts=0, drift=0)

    def ask(prompt: str) -> None:
        if len(arm.asked) < 4:
            clock.pass_milliseconds(5000)
        arm.ask(prompt)

    assert warm_up(ask, PAIRS, 1e6, clock.clock) == 100.0
    assert len(arm.asked) == 12
    assert warm_up(ask, PAIRS, 0, clock.clock) == 100.0
    assert len(arm.asked) == 14


def test_the_real_clock_waits_no_less_than_it_is_asked() -> None:
    chooser = random.Random(0)
    for _ in range(5):
        asked = chooser.randrange(1, 2_000_000)
        began = REAL_CLOCK.now()
        REAL_CLOCK.wait(asked)
        assert REAL_CLOCK.now() - began >= asked
