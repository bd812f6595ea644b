"""``--compsec-memory``: each process's peaks travel on test reports to where the report is written.

A pytest plugin of its own, registered only when the option is given: in a serial run, in every
worker of pytest-xdist (which measures) and on the controller (which collects).
"""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_compsec.models.memory_report import MemoryWatch

NAME = "compsec-memory"


class MemoryReporter:
    """``processes`` is what came in so far, by worker: ``main`` where there are none."""

    def __init__(self, config: pytest.Config) -> None:
        self._worker = getattr(config, "workerinput", {"workerid": "main"})["workerid"]
        self._watch: MemoryWatch | None = None
        self._sent = ""
        self.processes: dict[str, dict[str, Any]] = {}

    def watch(self) -> MemoryWatch:
        """The watch of this process; made when the first suite is opened."""
        if self._watch is None:
            from pytest_compsec.models.memory_report import MemoryWatch

            self._watch = MemoryWatch()
        return self._watch

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        text = self._found() if report.when != "setup" else ""
        if text and text != self._sent:
            self._sent = text
            report.compsec_memory = text  # type: ignore[attr-defined]
        return report

    def _found(self) -> str:
        if self._watch is None:
            return ""
        arms = [peak.to_json() for peak in self._watch.peaks]
        found = {"worker": self._worker, "how": self._watch.how, "arms": arms}
        return json.dumps(found) if arms else ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        text = getattr(report, "compsec_memory", None)
        if text is not None:
            found = json.loads(text)
            self.processes[found.pop("worker")] = found

    def pytest_unconfigure(self) -> None:
        if self._watch is not None:
            self._watch.close()


def reporter_of(config: pytest.Config) -> MemoryReporter | None:
    """The reporter of this process; None unless the option was given."""
    found: MemoryReporter | None = config.pluginmanager.get_plugin(NAME)
    return found
