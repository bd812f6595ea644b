"""The progress line: what it says, how often, and in how much room."""

from __future__ import annotations

import pytest

from pytest_compsec.generation.progress import (
    SilentProgress,
    TerminalProgress,
    format_duration,
    format_line,
)


def test_the_line() -> None:
    line = format_line("answering assistant-int8", 312, 800, 14.2, 100)
    assert line == "answering assistant-int8  312/800  14.2/s  ETA 0:35"
    assert format_line("answering a", 0, 8, None, 100) == "answering a  0/8  ETA -:--"


@pytest.mark.parametrize("width", range(60))
def test_the_line_fits(width: int) -> None:
    line = format_line("answering assistant-int8", 312, 800, 14.2, width)
    assert len(line) <= width
    assert width < 7 or "312/800" in line


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (33.2, "0:34"), (60, "1:00"), (3723, "1:02:03")]
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


class Terminal:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.now = 100.0

    def progress(self, total: int, label: str = "answering a") -> TerminalProgress:
        return TerminalProgress(
            self.lines.append, label, total, width=lambda: 80, clock=lambda: self.now, interval=0.5
        )


def test_rate_counts_only_what_was_generated() -> None:
    terminal = Terminal()
    progress = terminal.progress(100)
    progress.begin(40)
    terminal.now += 2
    progress.advance(20)
    progress.end()
    assert terminal.lines == [
        "answering a  40/100  ETA -:--",
        "answering a  60/100  10.0/s  ETA 0:04",
        "",
    ]


def test_the_line_is_not_rewritten_too_often() -> None:
    terminal = Terminal()
    progress = terminal.progress(1000)
    progress.begin(0)
    for _ in range(1000):
        terminal.now += 0.01
        progress.advance(1)
    assert 15 <= len(terminal.lines) <= 25
    assert "1000/1000" in terminal.lines[-1]


def test_the_last_count_is_shown_however_soon_it_comes() -> None:
    terminal = Terminal()
    progress = terminal.progress(20)
    progress.begin(10)
    terminal.now += 0.1
    progress.advance(10)
    assert terminal.lines[-1] == "answering a  20/20  100.0/s  ETA 0:00"


def test_nothing_is_written_before_it_begins_or_when_silent() -> None:
    terminal = Terminal()
    terminal.progress(10).end()
    assert terminal.lines == []
    silent = SilentProgress()
    silent.begin(0)
    silent.advance(1)
    silent.end()


def test_control_characters_of_a_label_are_not_written() -> None:
    terminal = Terminal()
    terminal.progress(10, "answering \x1b[31ma\n").begin(0)
    assert terminal.lines == ["answering [31ma  0/10  ETA -:--"]
