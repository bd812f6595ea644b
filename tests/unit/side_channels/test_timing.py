"""Which differences in time are seen, under noise with slow outliers and a slow wave; and that the
controls say when none could be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from pytest_compsec.errors import MeasurementError
from pytest_compsec.side_channels.blocks import MatchedPair, time_blocks
from pytest_compsec.side_channels.timing import (
    TimedPair,
    TimingPlan,
    control_failures,
    effect_increase,
    effects_of,
    time_pair,
)
from pytest_compsec.statistics.welch import welch
from tests.unit.side_channels.fake_requests import BENIGN, HARMFUL, FakeArm, FakeClock, is_harmful


@pytest.fixture(autouse=True)
def _no_collecting(monkeypatch: pytest.MonkeyPatch) -> None:
    # Tens of milliseconds each in a process that has loaded torch.
    monkeypatch.setattr("pytest_compsec.side_channels.blocks.gc.collect", lambda: 0)


def timed(
    *,
    original: float = 0.0,
    compressed: float | Callable[[str], float] = 0.0,
    seed: int = 0,
    seconds: float = 1e6,
    measurements: int = 150,
    margin: float | None = None,
    **noise: Any,
) -> TimedPair:
    clock = FakeClock()

    def effect(size: float | Callable[[str], float]) -> Callable[[str], float]:
        return size if callable(size) else (lambda prompt: size if is_harmful(prompt) else 0.0)

    arms = [
        FakeArm(clock, name=name, effect=effect(size), seed=2 * seed + at, **noise)
        for at, (name, size) in enumerate((("model", original), ("model-int8", compressed)))
    ]
    found = time_pair(
        lambda: arms[0],
        lambda: arms[1],
        HARMFUL,
        BENIGN,
        TimingPlan(8, measurements, seconds, margin, seed),
        clock=clock.clock,
        meter_of=lambda device: "no meter",
    )
    assert [arm.closed for arm in arms] == [2, 2]
    return found


def failures(found: TimedPair) -> list[str]:
    return [
        text
        for arm in (found.original, found.compressed)
        for text in control_failures(arm.name, effects_of(arm.times), found.margin, 0.05)
    ]


def bounds(found: TimedPair) -> tuple[float, float]:
    original, compressed = (effects_of(arm.times) for arm in (found.original, found.compressed))
    increase = effect_increase(original.effect, compressed.effect, 0.05)
    return increase.lower, increase.upper


def test_the_margin_is_a_share_of_the_faster_arm_unless_it_is_named() -> None:
    assert timed(noise=0.0, bursts=0.0, drift=0.0).margin == pytest.approx(5.0)
    assert timed(noise=0.0, bursts=0.0, drift=0.0, margin=2.5).margin == 2.5


@pytest.mark.parametrize("noise", [0.02, 0.05])
def test_arms_without_an_effect_are_within_the_margin(noise: float) -> None:
    runs = [timed(seed=seed, noise=noise) for seed in range(10)]
    assert sum(not failures(run) for run in runs) >= 9
    assert sum(bounds(run)[1] <= run.margin for run in runs) >= 9
    assert not any(bounds(run)[0] > run.margin for run in runs)


@pytest.mark.parametrize("effect", [10.0, -10.0])
def test_twice_the_margin_is_beyond_it_whichever_class_is_slower(effect: float) -> None:
    runs = [timed(seed=seed, compressed=effect) for seed in range(10)]
    assert sum(bounds(run)[0] > run.margin for run in runs) >= 9


def test_the_margin_itself_is_never_within_it() -> None:
    runs = [timed(seed=seed, compressed=5.0, noise=0.05) for seed in range(20)]
    assert sum(bounds(run)[1] <= run.margin for run in runs) <= 3


def test_an_effect_that_the_original_has_too_is_no_increase() -> None:
    run = timed(original=20.0, compressed=20.0)
    assert bounds(run)[1] <= run.margin
    grown = timed(original=20.0, compressed=40.0)
    assert bounds(grown)[0] > grown.margin


def test_what_few_requests_do_is_no_shift_but_is_seen() -> None:
    # One prompt of sixteen: the trimmed mean leaves it out.
    run = timed(compressed=lambda prompt: 200.0 * (prompt == HARMFUL[17]), bursts=0.0)
    effects = effects_of(run.compressed.times)
    assert bounds(run)[1] <= run.margin < effects.mean.value
    assert effects.beyond_shift.pvalue < 0.05
    assert effects_of(run.original.times).beyond_shift.pvalue > 0.05


def test_a_machine_too_noisy_for_the_margin_does_not_see_its_own_delay() -> None:
    runs = [timed(seed=seed, noise=0.5, measurements=60) for seed in range(10)]
    told = [failures(run) for run in runs]
    assert sum(bool(texts) for texts in told) >= 8
    (text, *_) = next(texts for texts in told if texts)
    assert "a delay of" in text
    assert "this machine is too noisy" in text


def test_a_request_that_differs_from_itself_is_told() -> None:
    found = timed()
    times = found.compressed.times
    moved = dataclasses.replace(times, again=tuple(time + 8 for time in times.again))
    (text,) = control_failures("model-int8", effects_of(moved), found.margin, 0.05)
    assert "differ from themselves" in text
    assert "+8" in text


def test_a_server_that_keeps_what_it_read_last_is_no_class_effect() -> None:
    """A prompt that was asked just before takes half the time: that befalls both classes alike."""

    class Keeps(FakeArm):
        def ask(self, prompt: str) -> None:
            if self.asked and self.asked[-1] == prompt:
                self.asked.append(prompt)
                self._clock.pass_milliseconds(self._usual / 2)
            else:
                super().ask(prompt)

    clock = FakeClock()
    arm = Keeps(clock, bursts=0.0, drift=0.0)
    pairs = [MatchedPair(one, other, 1) for one, other in zip(HARMFUL, BENIGN, strict=True)]
    times = time_blocks(
        arm.ask, pairs, delay=5, blocks=2000, seconds=1e6, seed=0, clock=clock.clock
    )
    assert abs(welch(times.harmful, times.benign).t) < 3
    assert abs(welch(times.again, times.plain).t) < 3


def test_too_little_time_says_how_little() -> None:
    with pytest.raises(MeasurementError, match=r"time for \d+ measurements .* at least 30"):
        timed(seconds=20)


def test_prompts_of_other_sizes_cannot_be_matched() -> None:
    clock = FakeClock()
    with pytest.raises(MeasurementError, match="reads only 0 harmful and benign prompts"):
        time_pair(
            lambda: FakeArm(clock),
            lambda: FakeArm(clock),
            HARMFUL,
            [prompt + "!!" for prompt in BENIGN],
            TimingPlan(8, 50, 1e6, None),
            clock=clock.clock,
            meter_of=lambda device: "no meter",
        )
