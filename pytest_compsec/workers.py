"""pytest-xdist: how what a worker knows reaches the controller.

A controller collects nothing itself, so each worker tells it what its tests promise and what was
wrong at collection. Both travel as collection reports, the one channel that is open before tests
run; results travel on test reports, so a crashed worker loses nothing that was finished.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from pytest_compsec.run import Expected, Run

#: Neither passed (xdist drops those) nor failed (pytest would count an error).
PROMISE = "compsec-promise"


def report_problems(run: Run) -> None:
    """End the run with a usage error that lists every problem, whoever found them."""
    if not run.problems:
        return
    if not run.is_worker:
        raise pytest.UsageError(*run.problems)
    report = pytest.CollectReport(
        nodeid="compsec",
        outcome="failed",
        longrepr="\n".join(run.problems),
        result=[],
        compsec_usage=json.dumps(run.problems),
    )
    run.config.hook.pytest_collectreport(report=report)


def send_promises(run: Run) -> None:
    """Tell the controller what the collected tests promise, and the header to show."""
    if not run.is_worker or not run.expected:
        return
    text = json.dumps(
        {
            "expected": [dataclasses.asdict(expected) for expected in run.expected.values()],
            "header": run.header,
        }
    )
    report = pytest.CollectReport(
        nodeid="compsec",
        outcome=PROMISE,  # type: ignore[arg-type]
        longrepr="compsec",
        result=[],
        compsec_promise=text,
    )
    run.config.hook.pytest_collectreport(report=report)


class Receiver:
    """On a controller or in a serial run: takes promises, problems and results from reports."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        usage = getattr(report, "compsec_usage", None)
        if usage is not None:
            raise pytest.UsageError(*json.loads(usage))
        promise = getattr(report, "compsec_promise", None)
        if promise is not None:
            self._take_promise(json.loads(promise))

    def _take_promise(self, data: dict[str, Any]) -> None:
        for item in data["expected"]:
            expected = Expected(**item)
            self._run.expected[expected.test, expected.check] = expected
        reporter = self._run.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and self._run.config.get_verbosity() >= 0:
            reporter.ensure_newline()
            for line in data["header"]:
                reporter.write_line(line)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        results = getattr(report, "compsec", None)
        if results is not None:
            self._run.add_results(report.nodeid, results)
        integrity = getattr(report, "compsec_integrity", None)
        if integrity is not None:
            self._run.integrity[report.nodeid] = integrity
