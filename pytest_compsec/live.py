"""A progress line on the terminal while pytest captures output; silent anywhere else."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_compsec.generation.progress import Progress


def terminal_progress(config: pytest.Config, label: str, total: int) -> Progress | None:
    """A progress line for ``total`` answers, or None where nobody would see it."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    manager = config.pluginmanager.get_plugin("capturemanager")
    stream = sys.__stdout__
    if (
        reporter is None
        or manager is None
        or stream is None
        or hasattr(config, "workerinput")
        or config.get_verbosity() < 0
        or config.getoption("capture") == "no"
        # Asked of the reporter: while pytest captures, file descriptor 1 is a temporary file.
        or not reporter.isatty
    ):
        return None
    from pytest_compsec.generation.progress import TerminalProgress

    writer = reporter._tw

    def write(text: str) -> None:
        room = max(0, writer.fullwidth - writer.width_of_current_line - 1)
        shown = text[:room]
        with manager.global_and_fixture_disabled():
            # Erase what stood there, write, and step back: pytest's own dots continue in place.
            stream.write("\x1b[K" + shown + "\b" * len(shown))
            stream.flush()

    return TerminalProgress(write, label, total)
