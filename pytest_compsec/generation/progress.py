"""The line that shows how far answering has come:

``answering assistant-int8  312/800  14.2/s  ETA 0:34``

Pure formatting, and an object that hands the line to a given ``write``; where it appears, and how
the one before it goes away, is the caller's.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """Told how many prompts are answered."""

    def wait(self, done: int) -> None:
        """Another process generates what is missing, and its answers are waited for; ``done``
        prompts are answered."""

    def begin(self, done: int) -> None:
        """Generation starts; ``done`` prompts were answered before."""

    def advance(self, count: int) -> None:
        """``count`` more prompts are answered."""

    def end(self) -> None:
        """No more will come, whether all are answered or not."""


class SilentProgress:
    """Writes nothing."""

    def wait(self, done: int) -> None: ...

    def begin(self, done: int) -> None: ...

    def advance(self, count: int) -> None: ...

    def end(self) -> None: ...


class TerminalProgress:
    """Keeps one line of a terminal up to date.

    ``write`` gets the line that is to stand there from now on, plain text, and ``""`` at the end.
    ``width`` says how many columns are free, ``clock`` gives seconds, ``interval`` is the least
    time between two lines (the first and the last count are always shown).
    """

    def __init__(
        self,
        write: Callable[[str], object],
        label: str,
        total: int,
        *,
        width: Callable[[], int] = lambda: shutil.get_terminal_size().columns - 1,
        clock: Callable[[], float] = time.monotonic,
        interval: float = 0.2,
    ) -> None:
        self._write = write
        self._label = "".join(character for character in label if character.isprintable())
        self._total = total
        self._width = width
        self._clock = clock
        self._interval = interval
        self._before = 0
        self._generated = 0
        self._started = 0.0
        self._shown: float | None = None

    def wait(self, done: int) -> None:
        width, count = self._width(), f"{done}/{self._total}"
        long = f"{self._label}  {count}  waiting for another process that answers"
        short = f"{count} waiting"
        self._write(long if len(long) <= width else short[: max(0, width)])
        self._shown = self._clock()

    def begin(self, done: int) -> None:
        self._before = done
        self._generated = 0
        self._started = self._clock()
        self._show(self._started)

    def advance(self, count: int) -> None:
        self._generated += count
        now = self._clock()
        finished = self._before + self._generated >= self._total
        if finished or self._shown is None or now - self._shown >= self._interval:
            self._show(now)

    def end(self) -> None:
        if self._shown is not None:
            self._write("")
            self._shown = None

    def _show(self, now: float) -> None:
        elapsed = now - self._started
        rate = self._generated / elapsed if elapsed > 0 and self._generated else None
        done = self._before + self._generated
        self._write(format_line(self._label, done, self._total, rate, self._width()))
        self._shown = now


def format_line(label: str, done: int, total: int, rate: float | None, width: int) -> str:
    """The progress line in at most ``width`` columns; ``rate`` in prompts a second, None while
    it is not known. Where there is little room the label goes first, the count last."""
    left = "-:--" if rate is None else format_duration(max(0, total - done) / rate)
    speed = "" if rate is None else f"  {rate:.1f}/s"
    count = f"{done}/{total}"
    numbers = f"{count}{speed}  ETA {left}"
    for text in (f"{label}  {numbers}", numbers):
        if len(text) <= width:
            return text
    return count[: max(0, width)]


def format_duration(seconds: float) -> str:
    """``0:34``, ``12:05`` or ``1:02:03``; rounded up to whole seconds."""
    whole = int(-(-seconds // 1))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
