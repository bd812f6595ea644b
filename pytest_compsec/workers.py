"""pytest-xdist: what the controller gives its workers, and how what they know reaches it.

Workers get their device, a directory that they share, and all tests of a pair. A controller
collects nothing itself, so each worker tells it what its tests promise and what was wrong at
collection. Both travel as collection reports, the one channel that is open before tests run;
results travel on test reports, so a crashed worker loses nothing that was finished.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_compsec.run import Collected, Expected, OpenedSuite, PairOfTest, Run

if TYPE_CHECKING:
    from pytest_compsec.live import SharedLine
    from pytest_compsec.worker_devices import Placement

#: Neither passed (xdist drops those) nor failed (pytest would count an error).
PROMISE = "compsec-promise"
#: Of ``workerinput``: the directory that the workers of a run share.
DIRECTORY = "compsec_directory"
LINE: pytest.StashKey[SharedLine] = pytest.StashKey()
PLACEMENTS: pytest.StashKey[list[Placement]] = pytest.StashKey()


def set_up(run: Run, specs: Sequence[Any]) -> None:
    """Before any worker is started: where the project opted in, give each its device and all a
    directory. ``specs`` are xdist's ``execnet.XSpec``."""
    from pytest_compsec import live, worker_count, worker_devices

    # Another machine has other devices and other directories.
    local = [spec for spec in specs if spec.popen and not spec.via]
    if not local or worker_count.config_of(run.config) is None:
        return
    run.directory = Path(tempfile.mkdtemp(prefix="compsec-"))
    reporter = live.visible_reporter(run.config)
    if reporter is not None:
        run.config.stash[LINE] = live.SharedLine(reporter, len(specs))
    gpus = worker_count.gpus_of(run.config)
    environments = [(spec.id, spec.env) for spec in local]
    placements = worker_devices.place_workers(environments, gpus)
    run.config.stash[PLACEMENTS] = placements
    worker_devices.divide_processor(
        [spec.env for spec, place in zip(local, placements, strict=True) if place.device is None],
        processors=worker_count.processors(),
        environment=os.environ,
    )


def hand_over(run: Run, node: Any) -> None:
    """Before a worker's pytest starts (also that of a replacement): what it must know."""
    if run.directory is not None and node.gateway.spec.popen and not node.gateway.spec.via:
        node.workerinput[DIRECTORY] = str(run.directory)
    if LINE in run.config.stash:
        run.config.stash[LINE].connect(node.gateway.id, node)


def directory_of(config: pytest.Config) -> Path | None:
    """The directory that the controller gave this worker; None in any other process."""
    path = getattr(config, "workerinput", {}).get(DIRECTORY)
    return None if path is None else Path(path)


def scheduler(run: Run, log: Any) -> Any:
    """Of ``--dist=load`` the one that keeps pairs together; None leaves the choice to others."""
    if run.config.getvalue("dist") != "load":
        return None
    from pytest_compsec.scheduling import PairScheduling

    return PairScheduling(run.config, log, lambda: run.pairs)


def _lines(run: Run) -> list[str]:
    """How many workers there are and where they run, for the header."""
    from pytest_compsec import worker_count, worker_devices

    placements = run.config.stash.get(PLACEMENTS, [])
    lines = []
    reason = run.config.stash.get(worker_count.REASON, None)
    if reason is not None:
        lines.append(f"compsec: {reason}")
    if any(place.device is not None for place in placements):
        lines.append(f"compsec: {worker_devices.placement_line(placements)}")
    return lines


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


def send_promises(run: Run, items: list[pytest.Item]) -> None:
    """Tell the controller what the collected tests promise, the pair of each, and the header."""
    if not run.is_worker:
        return
    from pytest_compsec.collection import pairs_of

    pairs = pairs_of(run, items)
    if not run.expected and not pairs and not run.collected_checks:
        return
    text = json.dumps(
        {
            "expected": [dataclasses.asdict(expected) for expected in run.expected.values()],
            "pairs": pairs,
            "collected": list(run.collected_checks.values()),
            "opened": run.opened,
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
        if report.failed:
            text = f"{report.nodeid} could not be collected"
            self._run.unread += [text] if text not in self._run.unread else []
        promise = getattr(report, "compsec_promise", None)
        if promise is not None:
            self._take_promise(json.loads(promise))

    def _take_promise(self, data: dict[str, Any]) -> None:
        for item in data["expected"]:
            expected = Expected(**item)
            self._run.expected[expected.test, expected.check] = expected
        for row in data["collected"]:
            collected = Collected(*row)
            self._run.collected_checks[collected.test, collected.check] = collected
        for config, digests in data["opened"].items():
            self._run.opened[config] = OpenedSuite(*digests)
        for test, pair in data["pairs"].items():
            self._run.pairs[test] = PairOfTest(*pair)
        reporter = self._run.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and self._run.config.get_verbosity() >= 0:
            # The line with xdist's count of workers has no end yet.
            if reporter._tw.width_of_current_line:
                reporter.write_line("")
            for line in [*data["header"], *(_lines(self._run) if data["header"] else ())]:
                reporter.write_line(line)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        self._clear_line()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logfinish(self) -> None:
        self._clear_line()

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_testnodedown(self, node: Any) -> None:
        if LINE in self._run.config.stash:
            self._run.config.stash[LINE].forget(node.gateway.id)

    def _clear_line(self) -> None:
        """Before pytest writes where the progress of the workers stands."""
        if LINE in self._run.config.stash:
            self._run.config.stash[LINE].erase()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._clear_line()
        self._note_outcome(report)
        results = getattr(report, "compsec", None)
        if results is not None:
            self._run.add_results(report.nodeid, results)
        relied = getattr(report, "compsec_relied", None)
        if relied is not None:
            self._run.add_relied(report.nodeid, relied)
        integrity = getattr(report, "compsec_integrity", None)
        if integrity is not None:
            self._run.integrity[report.nodeid] = integrity

    def _note_outcome(self, report: pytest.TestReport) -> None:
        """What pytest says of a test whose checks were collected: the last attempt's call, unless
        its set-up or tear-down is worse."""
        if report.outcome == "rerun":  # type: ignore[comparison-overlap]  # of other plugins
            self._run.outcomes.pop(report.nodeid, None)
            return
        expected = hasattr(report, "wasxfail")
        word: str = report.outcome
        if report.skipped and expected:
            word = "xfailed"
        elif report.passed and expected:
            word = "xpassed"
        elif report.failed and report.when in ("setup", "teardown"):
            word = "error"  # a crashed worker's report is of no phase, and a failure
        if report.when == "call" or not report.passed:
            self._run.outcomes[report.nodeid] = word

    def pytest_keyboard_interrupt(self) -> None:
        """Ctrl-C, and ``pytest.exit`` whatever exit status it names."""
        self._run.interrupted = True
