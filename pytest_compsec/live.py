"""A progress line on the terminal while pytest captures output; silent anywhere else.

Under pytest-xdist a worker has no terminal: it sends its line over a channel of its own, and the
controller shows the lines of all workers as one.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_compsec.generation.progress import Progress

#: Of ``workerinput``: the channel for a worker's line, and the columns that it may have.
CHANNEL = "compsec_progress"
COLUMNS = "compsec_columns"
#: Least columns for a worker's part: a count such as 1234/5678.
_LEAST_COLUMNS = 12
#: Every line travels to another process.
_SECONDS_BETWEEN_LINES = 1.0


def terminal_progress(config: pytest.Config, label: str, total: int) -> Progress | None:
    """A progress line for ``total`` answers, or None where nobody would see it."""
    from pytest_compsec.generation.progress import TerminalProgress

    worker = getattr(config, "workerinput", None)
    if worker is not None:
        if CHANNEL not in worker:
            return None
        return TerminalProgress(
            lambda text: _send(worker[CHANNEL], text),
            label,
            total,
            width=lambda: int(worker[COLUMNS]),
            interval=_SECONDS_BETWEEN_LINES,
        )
    reporter = visible_reporter(config)
    manager = config.pluginmanager.get_plugin("capturemanager")
    stream = sys.__stdout__
    if reporter is None or manager is None or stream is None:
        return None
    writer = reporter._tw

    def write(text: str) -> None:
        room = max(0, writer.fullwidth - writer.width_of_current_line - 1)
        shown = text[:room]
        with manager.global_and_fixture_disabled():
            # Erase what stood there, write, and step back: pytest's own dots continue in place.
            stream.write("\x1b[K" + shown + "\b" * len(shown))
            stream.flush()

    return TerminalProgress(write, label, total)


def visible_reporter(config: pytest.Config) -> Any | None:
    """The terminal reporter, where a line that comes and goes would be seen and do no harm."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if (
        reporter is None
        or config.get_verbosity() < 0
        or config.getoption("capture") == "no"
        # Asked of the reporter: while pytest captures, file descriptor 1 is a temporary file.
        or not reporter.isatty
    ):
        return None
    return reporter


def _send(channel: Any, text: str) -> None:
    with contextlib.suppress(OSError):  # The controller is gone, or about to be.
        channel.send(text)


class SharedLine:
    """On a controller: one line of the terminal for all workers, to the right of pytest's dots.

    Lines come in on the threads that receive from the workers, pytest writes on the main one, and
    :meth:`erase` is called there before it does. A controller runs no test and captures nothing.
    """

    def __init__(self, reporter: Any, workers: int) -> None:
        self._reporter = reporter
        self._workers = workers
        self._texts: dict[str, str] = {}
        self._guard = threading.Lock()

    def connect(self, worker: str, node: Any) -> None:
        """Give a worker that is about to be started a channel to this line."""
        channel = node.gateway.newchannel()
        channel.setcallback(lambda text: self.show(worker, text))
        node.workerinput[CHANNEL] = channel
        room = self._reporter._tw.fullwidth // self._workers - len(f"[{worker}]   ")
        node.workerinput[COLUMNS] = max(_LEAST_COLUMNS, room)

    def show(self, worker: str, text: str) -> None:
        """``text`` stands for this worker from now on; ``""``: nothing."""
        with self._guard:
            self._texts.pop(worker, None)
            if text:
                self._texts[worker] = text
            self._write()

    def forget(self, worker: str) -> None:
        """This worker is gone."""
        self.show(worker, "")

    def erase(self) -> None:
        """Leave the rest of the line empty, for pytest to write on."""
        with self._guard:
            if self._texts:
                self._put("")

    def _write(self) -> None:
        parts = (f"[{worker}] {text}" for worker, text in sorted(self._texts.items()))
        self._put("  ".join(parts))

    def _put(self, text: str) -> None:
        writer = self._reporter._tw
        shown = text[: max(0, writer.fullwidth - writer.width_of_current_line - 1)]
        with contextlib.suppress(OSError, ValueError):
            writer._file.write("\x1b[K" + shown + "\b" * len(shown))
            writer._file.flush()
