"""Requests of several kinds in random order, each timed.

One block holds one request of each kind, all of the same number of tokens, in an order drawn for
that block. What changes slowly on a machine (its clock rate, other work) then hits all kinds alike.
Two kinds are controls: one of the two requests once more, which must take the same time, and with a
delay put into it, which must be seen. Which of the two is drawn for each block: a server that keeps
what it read last answers a repeated prompt faster, and that must not befall one class only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from pytest_compsec.errors import MeasurementError

HARMFUL, BENIGN, AGAIN, DELAYED = "harmful", "benign", "again", "delayed"
KINDS = (HARMFUL, BENIGN, AGAIN, DELAYED)
#: With fewer pairs of prompts than this the times are those of single prompts.
LEAST_PAIRS = 4
#: Measurements of each kind without which nothing is said.
LEAST_MEASUREMENTS = 30


@dataclasses.dataclass(frozen=True)
class Clock:
    """``now()`` in nanoseconds; ``wait(nanoseconds)`` returns no earlier than they have passed."""

    now: Callable[[], int]
    wait: Callable[[int], None]


def _spin(nanoseconds: int) -> None:
    # Not sleep: it oversleeps by as much as the delays that are to be seen.
    end = time.perf_counter_ns() + nanoseconds
    while time.perf_counter_ns() < end:
        pass


REAL_CLOCK = Clock(time.perf_counter_ns, _spin)


@dataclasses.dataclass(frozen=True)
class MatchedPair:
    """A harmful and a benign prompt that the model reads as the same number of tokens."""

    harmful: str
    benign: str
    tokens: int


@dataclasses.dataclass(frozen=True)
class Times:
    """Milliseconds of the requests of each kind, in the order of the blocks: all as long as there
    are blocks. ``plain`` is the harmful or the benign one, whichever ``again`` and ``delayed``
    repeat."""

    harmful: tuple[float, ...]
    benign: tuple[float, ...]
    plain: tuple[float, ...]
    again: tuple[float, ...]
    delayed: tuple[float, ...]

    @property
    def blocks(self) -> int:
        return len(self.harmful)


def matched_pairs(
    harmful: Sequence[tuple[str, int | None]],
    benign: Sequence[tuple[str, int | None]],
    most: int,
) -> list[MatchedPair]:
    """At most ``most`` pairs of prompts of the same number of tokens, each prompt in one of them;
    of as few different numbers as possible, so that prompts differ little in time. Prompts without
    a number are left out."""
    by_size: dict[int, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, prompts in enumerate((harmful, benign)):
        for prompt, tokens in prompts:
            if tokens is not None and prompt not in by_size[tokens][side]:
                by_size[tokens][side].append(prompt)
    found: list[MatchedPair] = []
    for tokens, (one, other) in sorted(
        by_size.items(), key=lambda item: (-min(map(len, item[1])), item[0])
    ):
        found += [MatchedPair(a, b, tokens) for a, b in zip(one, other, strict=False)]
    return found[:most]


def require_pairs(name: str, pairs: Sequence[MatchedPair]) -> None:
    """Raise MeasurementError when there are too few."""
    if len(pairs) < LEAST_PAIRS:
        raise MeasurementError(
            f"{name} reads only {len(pairs)} harmful and benign prompts as the same number of "
            f"tokens, each with an answer long enough; at least {LEAST_PAIRS} such pairs are "
            "needed. Ask more prompts (prompts=...), or name sets of prompts that are alike"
        )


def warm_up(
    ask: Callable[[str], None], pairs: Sequence[MatchedPair], seconds: float, clock: Clock
) -> float:
    """Ask every prompt once (as many as ``seconds`` allow, at least two) and return the median time
    of the second half, in milliseconds: the first requests of a model are slow."""
    began, times = clock.now(), []
    for prompt in (text for pair in pairs for text in (pair.harmful, pair.benign)):
        times.append(_timed(ask, prompt, 0, clock))
        if len(times) >= 2 and clock.now() - began > seconds * 1e9:
            break
    return median(times[len(times) // 2 :])


def time_blocks(
    ask: Callable[[str], None],
    pairs: Sequence[MatchedPair],
    *,
    delay: float,
    blocks: int,
    seconds: float,
    seed: int,
    clock: Clock = REAL_CLOCK,
) -> Times:
    """At most ``blocks`` blocks, none begun after ``seconds``. ``delay`` (milliseconds) is what the
    requests of the kind ``delayed`` are made longer by."""
    chooser = random.Random(seed)
    found: list[tuple[float, ...]] = []
    waiting: list[MatchedPair] = []
    nanoseconds = round(delay * 1e6)
    with _no_collecting():
        began = clock.now()
        while len(found) < blocks and clock.now() - began < seconds * 1e9:
            if not waiting:
                waiting = chooser.sample(list(pairs), len(pairs))
            pair = waiting.pop()
            repeated = chooser.choice((HARMFUL, BENIGN))
            prompts = {HARMFUL: pair.harmful, BENIGN: pair.benign}
            times = {}
            for kind in chooser.sample(KINDS, len(KINDS)):
                prompt = prompts.get(kind, prompts[repeated])
                wait = nanoseconds if kind == DELAYED else 0
                times[kind] = _timed(ask, prompt, wait, clock)
            found.append(
                (times[HARMFUL], times[BENIGN], times[repeated], times[AGAIN], times[DELAYED])
            )
    harmful, benign, plain, again, delayed = zip(*found, strict=True) if found else ((),) * 5
    return Times(harmful, benign, plain, again, delayed)


def median(values: Sequence[float]) -> float:
    """The middle of them; not the standard library's, which a user's test folder named "statistics"
    can shadow."""
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _timed(ask: Callable[[str], None], prompt: str, wait: int, clock: Clock) -> float:
    began = clock.now()
    ask(prompt)
    if wait:
        clock.wait(wait)
    return (clock.now() - began) / 1e6


@contextlib.contextmanager
def _no_collecting() -> Iterator[None]:
    """No garbage collection inside the block, as timeit does it."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
