"""The computational channel: does a harmful request take another time than a benign one of the same
size, more so on the compressed model than on the original?

Each arm is timed on its own, for an effect is a difference between requests to one arm. The margin
is found before: 5 % of the faster arm's usual request time, unless the user names one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_compsec.errors import MeasurementError
from pytest_compsec.side_channels.blocks import (
    LEAST_MEASUREMENTS,
    LEAST_PAIRS,
    Clock,
    MatchedPair,
    Times,
    matched_pairs,
    median,
    require_pairs,
    time_blocks,
    warm_up,
)
from pytest_compsec.side_channels.energy import EnergyUse, Meter, use_energy
from pytest_compsec.side_channels.folding import Bounds, Directions, Increase, folded_increase
from pytest_compsec.side_channels.requests import Requests
from pytest_compsec.statistics.dudect import CroppedTests, cropped_tests
from pytest_compsec.statistics.welch import Estimated, trimmed_mean, welch

#: Margin as a share of a request's time, where the user names none.
DEFAULT_SHARE = 0.05
#: Pairs of prompts that take turns.
MOST_PAIRS = 16
#: The control of a request against itself fires below this p-value, corrected for its crops: at
#: 5 % it would void one run in ten that has no fault.
SAME_RISK = 0.001
# Shares of the time budget for each arm.
_WARMING, _TIMING, _METERING = 0.08, 0.42, 0.12


@dataclass(frozen=True)
class TimingPlan:
    """``margin`` in milliseconds (None: :data:`DEFAULT_SHARE`); ``seconds`` bounds the timing of
    both arms together."""

    new_tokens: int
    measurements: int
    seconds: float
    margin: float | None
    seed: int = 0


@dataclass(frozen=True)
class ArmTimes:
    """What was measured of one arm: ``usual`` is the median request time while warming up, in
    milliseconds; ``energy`` None where no meter could be read, and ``no_energy`` says why."""

    name: str
    usual: float
    pairs: int
    times: Times
    energy: EnergyUse | None = None
    no_energy: str = ""


@dataclass(frozen=True)
class TimedPair:
    """Both arms, and the margin (milliseconds), which is the injected delay too."""

    original: ArmTimes
    compressed: ArmTimes
    margin: float


@dataclass(frozen=True)
class Effects:
    """Differences of one arm in milliseconds: ``effect`` (harmful less benign) and the controls
    ``same`` (a request against itself) and ``delayed`` (with the delay less without) as trimmed
    means over blocks; ``mean`` is the plain difference of harmful and benign means (Welch).
    ``beyond_shift`` tests what is left of the classes' difference when ``effect`` is taken out of
    it: something that few requests do, which no trimmed mean sees."""

    effect: Estimated
    mean: Estimated
    same: Estimated
    delayed: Estimated
    tests: CroppedTests
    same_tests: CroppedTests
    beyond_shift: CroppedTests


@dataclass(frozen=True)
class _Prepared:
    usual: float
    pairs: tuple[MatchedPair, ...]


def time_pair(
    open_original: Callable[[], Requests],
    open_compressed: Callable[[], Requests],
    harmful: Sequence[str],
    benign: Sequence[str],
    plan: TimingPlan,
    *,
    clock: Clock,
    meter_of: Callable[[str], Meter | str],
) -> TimedPair:
    """Time both arms, one after the other. ``open_...`` give an arm in memory or behind its server;
    they are called twice, since memory need not hold both. ``meter_of(device)`` is the energy meter
    of a device, or why there is none.

    Raises MeasurementError when there are too few prompts of the same size, or the time does not
    suffice for :data:`LEAST_MEASUREMENTS`.
    """
    opens = (open_original, open_compressed)
    prepared = [_prepared(opened, harmful, benign, plan, clock) for opened in opens]
    margin = plan.margin
    if margin is None:
        margin = DEFAULT_SHARE * min(one.usual for one in prepared)
    # The compressed arm is still in memory.
    compressed = _timed(open_compressed, prepared[1], plan, margin, clock, meter_of)
    original = _timed(open_original, prepared[0], plan, margin, clock, meter_of)
    return TimedPair(original, compressed, margin)


def effects_of(times: Times) -> Effects:
    """All differences of one arm."""
    effect = _paired(times.harmful, times.benign)
    shifted = [time - effect.value for time in times.harmful]
    return Effects(
        effect=effect,
        mean=welch(times.harmful, times.benign),
        same=_paired(times.again, times.plain),
        delayed=_paired(times.delayed, times.plain),
        tests=cropped_tests(times.harmful, times.benign),
        same_tests=cropped_tests(times.again, times.plain),
        beyond_shift=cropped_tests(shifted, times.benign),
    )


def effect_increase(original: Estimated, compressed: Estimated, risk: float) -> Increase:
    """How much larger the compressed arm's difference is in size, whichever way it points."""

    def bounds(signal: Estimated) -> Bounds:
        return lambda risk: (signal.value, signal.lower(risk), signal.upper(risk))

    signals: dict[Directions, Bounds] = {}
    for d in (1, -1):
        own = compressed if d > 0 else compressed.negated
        signals[d, 0] = bounds(own)
        for s in (1, -1):
            signals[d, s] = bounds(own.minus(original if s > 0 else original.negated))
    return folded_increase(signals, risk)


def control_failures(name: str, effects: Effects, margin: float, risk: float) -> list[str]:
    """Why times of an arm cannot be believed; nothing when they can."""
    found = []
    same = effects.same
    pvalue = min(1.0, 2 * min(same.pvalue, effects.same_tests.pvalue))
    if pvalue < SAME_RISK:
        found.append(
            f"the same requests to {name} differ from themselves in time ({same.value:+.3g} ms, "
            f"p = {pvalue:.2g}): something on this machine moves with them"
        )
    lower = effects.delayed.lower(risk)
    if not lower > 0:
        found.append(
            f"a delay of {margin:.3g} ms, the margin, was put into requests to {name} and not seen "
            f"({effects.delayed.value:+.3g} ms, at least {lower:+.3g}): this machine is too noisy"
        )
    return found


def _prepared(
    opened: Callable[[], Requests],
    harmful: Sequence[str],
    benign: Sequence[str],
    plan: TimingPlan,
    clock: Clock,
) -> _Prepared:
    requests = opened()
    try:
        sizes = requests.sizes([*harmful, *benign])
        pairs = matched_pairs(
            list(zip(harmful, sizes[: len(harmful)], strict=True)),
            list(zip(benign, sizes[len(harmful) :], strict=True)),
            MOST_PAIRS,
        )
        require_pairs(requests.name, pairs)
        usual = warm_up(requests.ask, pairs, _WARMING * plan.seconds, clock)
    finally:
        requests.close()
    return _Prepared(usual, tuple(pairs))


def _timed(
    opened: Callable[[], Requests],
    prepared: _Prepared,
    plan: TimingPlan,
    margin: float,
    clock: Clock,
    meter_of: Callable[[str], Meter | str],
) -> ArmTimes:
    requests = opened()
    meter = meter_of(requests.device)
    metering = 0.0 if isinstance(meter, str) else _METERING * plan.seconds
    pairs = prepared.pairs
    energy, no_energy = None, meter if isinstance(meter, str) else ""
    try:
        # Reads every prompt once more where the arm was opened anew.
        requests.sizes([text for pair in pairs for text in (pair.harmful, pair.benign)])
        warm_up(requests.ask, pairs[:LEAST_PAIRS], 0.0, clock)
        seconds = _TIMING * plan.seconds - metering
        times = time_blocks(
            requests.ask,
            pairs,
            delay=margin,
            blocks=plan.measurements,
            seconds=seconds,
            seed=plan.seed,
            clock=clock,
        )
        if times.blocks < LEAST_MEASUREMENTS:
            raise MeasurementError(
                f"{requests.name}: there was time for {times.blocks} measurements of each kind in "
                f"{seconds:.0f} s, and at least {LEAST_MEASUREMENTS} are needed. Raise seconds, or "
                "lower new_tokens"
            )
        if not isinstance(meter, str):
            energy = use_energy(
                requests.ask,
                pairs,
                meter,
                usual=prepared.usual,
                seconds=metering,
                seed=plan.seed,
                clock=clock,
            )
            no_energy = "" if energy else "there was too little time to meter energy"
        return ArmTimes(requests.name, prepared.usual, len(pairs), times, energy, no_energy)
    finally:
        requests.close()


def _paired(first: Sequence[float], second: Sequence[float]) -> Estimated:
    return trimmed_mean([one - other for one, other in zip(first, second, strict=True)])


def usual_time(times: Times) -> float:
    """Median of harmful and benign requests, in milliseconds."""
    return median((*times.harmful, *times.benign))
