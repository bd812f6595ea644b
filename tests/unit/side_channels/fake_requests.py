"""An arm whose requests take times drawn from a seeded generator, on a clock that it moves itself.

Nothing here waits, so that what a test finds does not depend on the machine.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from pytest_compsec.side_channels.blocks import Clock

HARMFUL = tuple(f"forbidden {number}" for number in range(24))
BENIGN = tuple(f"delicious {number}" for number in range(24))


def is_harmful(prompt: str) -> bool:
    return prompt.startswith("forbidden")


class FakeClock:
    """Nanoseconds that pass only when somebody says so."""

    def __init__(self) -> None:
        self.time = 0
        self.clock = Clock(lambda: self.time, self.wait)

    def wait(self, nanoseconds: int) -> None:
        self.time += nanoseconds

    def pass_milliseconds(self, milliseconds: float) -> None:
        self.time += round(milliseconds * 1e6)


class FakeArm:
    """Requests of about ``usual`` milliseconds.

    ``noise`` is the relative standard deviation of each request, ``bursts`` the chance of a slow
    one (three times as long), ``drift`` the relative size of a slow wave under all of them;
    ``effect(prompt)`` milliseconds are added. ``slower(number)`` is added to the request of that
    number, whatever it asks.
    """

    device = "cpu"

    def __init__(
        self,
        clock: FakeClock,
        *,
        name: str = "model",
        usual: float = 100.0,
        noise: float = 0.03,
        bursts: float = 0.02,
        drift: float = 0.1,
        effect: Callable[[str], float] = lambda prompt: 0.0,
        seed: int = 0,
    ) -> None:
        self.name = name
        self._clock = clock
        self._usual, self._noise, self._bursts, self._drift = usual, noise, bursts, drift
        self._effect = effect
        self._random = random.Random(seed)
        self.asked: list[str] = []
        self.closed = 0

    def sizes(self, prompts: Sequence[str]) -> list[int | None]:
        return [len(prompt) for prompt in prompts]

    def ask(self, prompt: str) -> None:
        self.asked.append(prompt)
        relative = (
            1
            + self._drift * math.sin(len(self.asked) / 300)
            + self._noise * (self._random.gauss(0, 1))
        )
        if self._random.random() < self._bursts:
            relative *= 3
        self._clock.pass_milliseconds(self._usual * max(0.1, relative) + self._effect(prompt))

    def close(self) -> None:
        self.closed += 1
