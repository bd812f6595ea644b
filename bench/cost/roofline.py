"""The least time that a machine can take for some work.

The roofline model (Williams, Waterman and Patterson 2009, "Roofline: an insightful visual
performance model for multicore architectures"): while a machine multiplies it moves bytes, so a
step takes at least the longer of the two times, and steps that wait for each other add up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from bench.cost.work import Work


@dataclasses.dataclass(frozen=True)
class Machine:
    """``rate`` in floating-point operations per second (matrix products, in the type that the
    weights are multiplied in), ``bandwidth`` in bytes per second, from and to memory."""

    name: str
    rate: float
    bandwidth: float

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.bandwidth <= 0:
            raise ValueError(f"{self.name}: rate and bandwidth must be positive")

    def scaled(self, rate: float, bandwidth: float) -> Machine:
        """The machine at shares of its peaks."""
        return Machine(self.name, self.rate * rate, self.bandwidth * bandwidth)

    def times(self, count: int) -> Machine:
        """``count`` of them at work on every step, with nothing lost between them."""
        return Machine(f"{count} x {self.name}", self.rate * count, self.bandwidth * count)


@dataclasses.dataclass(frozen=True)
class Floor:
    """Seconds. ``compute`` and ``memory`` are what either alone would take over all steps;
    ``seconds`` is the sum of the longer of the two, step by step."""

    seconds: float
    compute: float
    memory: float

    def __add__(self, other: Floor) -> Floor:
        return Floor(
            self.seconds + other.seconds,
            self.compute + other.compute,
            self.memory + other.memory,
        )

    @property
    def bound_by(self) -> str:
        return "compute" if self.compute >= self.memory else "memory"


def floor_of(steps: Iterable[Work], machine: Machine) -> Floor:
    """The least time for steps, one after the other."""
    floor = Floor(0.0, 0.0, 0.0)
    for work in steps:
        compute, memory = work.operations / machine.rate, work.bytes / machine.bandwidth
        floor += Floor(max(compute, memory), compute, memory)
    return floor
