"""The state of one pytest session: which suites it uses, what is expected, what was found.

One instance lives in ``config.stash`` of every process: of a serial run, of an xdist controller
(which only collects results) and of each worker (which measures).
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_compsec.errors import CompsecError
from pytest_compsec.markers import MARKERS, CheckMarker, MarkedCheck
from pytest_compsec.presets import checks_on
from pytest_compsec.verdict import CheckResult, Verdict

if TYPE_CHECKING:
    from pytest_compsec.config.pairs import PairName
    from pytest_compsec.options import Settings
    from pytest_compsec.suite import Suite

RUN: pytest.StashKey[Run] = pytest.StashKey()
CHECKS: pytest.StashKey[list[MarkedCheck]] = pytest.StashKey()
#: Results of a test's markers, and of checks that its body made by hand.
RESULTS: pytest.StashKey[list[CheckResult]] = pytest.StashKey()
BY_HAND: pytest.StashKey[list[CheckResult]] = pytest.StashKey()
INTEGRITY: pytest.StashKey[str] = pytest.StashKey()


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


@dataclasses.dataclass(frozen=True)
class PairParameter:
    """What a test is parametrized with: a suite's path and one of its pairs."""

    config: Path
    pair: str


class PairOfTest(NamedTuple):
    """The pair that a test runs on, and the original in it, each with the path of its config."""

    pair: str
    original: str
    #: That path alone.
    config: str = ""


@dataclasses.dataclass(frozen=True)
class Expected:
    """One result that the collected tests promise."""

    test: str
    check: str
    pair: str
    limit: float
    confidence: float


class Collected(NamedTuple):
    """A check of a test as it was collected, before any test was left out; ``config`` is the path
    of its compsec.yaml, empty where it has none, and ``arguments`` those of its marker, as JSON."""

    test: str
    check: str
    pair: str
    config: str
    arguments: dict[str, Any]


class OpenedSuite(NamedTuple):
    """sha256 (hex) of a compsec.yaml and of its lock, as they were when the suite was opened."""

    config_digest: str
    lock_digest: str


@dataclasses.dataclass
class Run:
    """See the module docstring. ``problems`` are usage errors found at collection."""

    config: pytest.Config
    settings: Settings
    #: Ours and those of other plugins, by name.
    markers: Mapping[str, CheckMarker[Any]] = dataclasses.field(default_factory=lambda: MARKERS)
    suites: dict[Path, Suite] = dataclasses.field(default_factory=dict)
    failed_suites: dict[Path, str] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)
    expected: dict[tuple[str, str], Expected] = dataclasses.field(default_factory=dict)
    results: dict[str, list[CheckResult]] = dataclasses.field(default_factory=dict)
    integrity: dict[str, str] = dataclasses.field(default_factory=dict)
    # Tests by check, as collected before any is left out, and pairs given to test functions: a
    # node id on the command line collects one test of a function that stands for several pairs.
    collected: Counter[str] = dataclasses.field(default_factory=Counter)
    parametrized: Counter[str] = dataclasses.field(default_factory=Counter)
    family: dict[tuple[str, str], CheckResult | Exception] = dataclasses.field(default_factory=dict)
    #: By test and check: results of this process alone, and what another test's check had measured
    #: before its own test ran (see :mod:`pytest_compsec.evidence`).
    finished_here: dict[tuple[str, str], CheckResult] = dataclasses.field(default_factory=dict)
    ahead: dict[tuple[str, str], CheckResult | Exception] = dataclasses.field(default_factory=dict)
    #: Of those measured ahead: the test whose policy they were evidence for.
    relied_on: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    #: Every test that asks for a pair, marked or not.
    pairs: dict[str, PairOfTest] = dataclasses.field(default_factory=dict)
    #: By test and check: all that was collected, left out or not.
    collected_checks: dict[tuple[str, str], Collected] = dataclasses.field(default_factory=dict)
    #: What pytest said of each test in the end: passed, failed, skipped, xfailed, xpassed, error.
    outcomes: dict[str, str] = dataclasses.field(default_factory=dict)
    #: By the path of the config: every suite that this run opened, here or in a worker.
    opened: dict[str, OpenedSuite] = dataclasses.field(default_factory=dict)
    started: str = dataclasses.field(default_factory=_now)
    #: Test files and folders that could not be read, in words: what is in them is not known.
    unread: list[str] = dataclasses.field(default_factory=list)
    #: Ctrl-C or ``pytest.exit``.
    interrupted: bool = False
    header: list[str] = dataclasses.field(default_factory=list)
    #: Shared by the workers of a run of pytest-xdist, removed at its end.
    directory: Path | None = None
    reports_written: list[str] = dataclasses.field(default_factory=list)
    report_problems: list[str] = dataclasses.field(default_factory=list)

    @property
    def is_worker(self) -> bool:
        return hasattr(self.config, "workerinput")

    @property
    def speaks(self) -> bool:
        """True in the one process whose warnings at collection are shown: every worker of
        pytest-xdist collects the same tests."""
        worker = getattr(self.config, "workerinput", {"workerid": "gw0"})
        return bool(worker["workerid"] == "gw0")

    @property
    def active(self) -> bool:
        """True when this session has anything to do with us, even where all of it was left out; a
        usage error at collection leaves nothing to tell of."""
        if self.expected or self.results or self.integrity:
            return True
        return bool(self.collected_checks) and not self.problems

    @property
    def has_an_ending(self) -> bool:
        """Is there something to write or to say at the end? Reports asked for on the command line
        are missed where no check was collected; those of the ini are for the runs that have one."""
        asked = bool(self.settings.reports) and self.settings.origins["reports"] == "command line"
        return self.active or (asked and not self.config.option.collectonly and not self.problems)

    def add_problem(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def suite_of(self, test_path: Path) -> Suite | None:
        """The suite that a test file belongs to; None with the reason among the problems."""
        from pytest_compsec.suite import CONFIG_NAME, find_config

        path = self.settings.config or find_config(test_path, self.config.rootpath)
        if path is None:
            self.add_problem(
                f"{test_path}: no {CONFIG_NAME} here or in a folder above it, up to "
                f"{self.config.rootpath}. Write one with `compsec init ORIGINAL COMPRESSED`, or "
                "name it with --compsec-config=FILE"
            )
            return None
        return self.suite_at(path)

    def suite_at(self, path: Path) -> Suite | None:
        """The suite of this config, opened once; None when it is not usable."""
        if path in self.failed_suites:
            return None
        if path not in self.suites:
            try:
                self.suites[path] = self._open(path)
            except CompsecError as error:
                self.failed_suites[path] = str(error)
                self.add_problem(str(error))
                return None
        return self.suites[path]

    def _open(self, path: Path) -> Suite:
        from pytest_compsec.memory_reporting import reporter_of
        from pytest_compsec.suite import MeasuringOptions, open_suite

        watched = reporter_of(self.config)
        suite = open_suite(
            path,
            staging=self.settings.staging,
            cache_path=self._cache_path(),
            run_directory=self.directory,
            progress=self._progress,
            options=MeasuringOptions(
                full=self.settings.full,
                noise_floor=self.settings.noise_floor,
                runtime_agreement=self.settings.runtime_agreement,
                one_model=self.settings.one_model,
                drafts=self.settings.drafts,
            ),
            watch=watched.watch() if watched is not None else None,
        )
        suite.require_lock()
        if self.settings.lock_digest is not None:
            from pytest_compsec.models.integrity import require_lock_digest

            require_lock_digest(suite.lock_path, self.settings.lock_digest)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.opened[str(path)] = OpenedSuite(digest, suite.lock_digest())
        return suite

    def _cache_path(self) -> Path | None:
        """Under pytest's cache directory. When either cache is switched off, the one that the
        workers of this run share, or None in a process on its own."""
        cache = getattr(self.config, "cache", None)
        if not self.settings.use_cache or cache is None:
            return None if self.directory is None else self.directory / "answers.sqlite"
        directory: Path = cache.mkdir("compsec")
        return directory / "answers.sqlite"

    def _progress(self, label: str, total: int) -> Any:
        from pytest_compsec.live import terminal_progress

        return terminal_progress(self.config, label, total)

    def pair_names(
        self, suite: Suite, checks: list[MarkedCheck], overridden: Collection[str] = ()
    ) -> tuple[PairName, ...]:
        """The pairs that every marker of a test selects, of models that it works on."""
        models = suite.config.config.models
        if not checks:
            return suite.pairs
        return tuple(
            name for name in suite.pairs if checks_on(checks, name, models[name.model], overridden)
        )

    def expect(self, item: pytest.Item, check: MarkedCheck, pair: str) -> None:
        arguments = check.arguments
        self.expected[item.nodeid, arguments.check] = Expected(
            item.nodeid, arguments.check, pair, arguments.margin, arguments.confidence
        )

    def collect(
        self, item: pytest.Item, check: MarkedCheck, pair: str, suite: Suite | None
    ) -> None:
        """Remember a check before -k, -m and --lf leave any out."""
        name = check.arguments.check
        self.collected[name] += 1
        config = "" if suite is None else str(suite.path)
        arguments = json.loads(json.dumps(check.arguments.to_json(), default=str))
        found = Collected(item.nodeid, name, pair, config, arguments)
        self.collected_checks[item.nodeid, name] = found

    def add_results(self, test: str, text: str) -> None:
        """Take the results that travelled on a test's report. A rerun replaces the earlier ones."""
        self.results[test] = [
            self._with_arguments(CheckResult.from_json(data)) for data in json.loads(text)
        ]

    def _with_arguments(self, result: CheckResult) -> CheckResult:
        """A check that never came to measure still says what its marker asked for."""
        collected = self.collected_checks.get((result.test, result.check))
        if result.arguments or collected is None:
            return result
        return dataclasses.replace(result, arguments=collected.arguments)

    def add_relied(self, policy: str, text: str) -> None:
        """Take what a policy was let pass by, as it travelled on its report."""
        for test, check in json.loads(text):
            self.relied_on[test, check] = policy

    def relied_in_vain(self) -> list[str]:
        """Policies that passed on what was measured of a test ahead, where that test then ended
        otherwise; each a line to show."""
        return [
            f"{policy} was let pass by {result.check} of {test}, measured ahead, which ended "
            f"{result.verdict}"
            for (test, check), policy in self.relied_on.items()
            for result in self.results.get(test, [])
            if result.check == check and result.verdict is not Verdict.PRESERVED
        ]

    def unfinished(self) -> list[CheckResult]:
        """NOT_MEASURED for every promised result that never came: a crash, ``-x``, an interrupt."""
        there = {(test, result.check) for test, found in self.results.items() for result in found}
        return [
            self._with_arguments(not_measured(expected, "the test did not finish"))
            for key, expected in self.expected.items()
            if key not in there
        ]

    def finished(self) -> list[CheckResult]:
        return [result for found in self.results.values() for result in found]

    def all_results(self) -> list[CheckResult]:
        return [*self.finished(), *self.unfinished()]

    def close(self) -> None:
        for suite in self.suites.values():
            suite.close()

    def remove_directory(self) -> None:
        """On the controller, when all workers are gone."""
        if self.directory is not None and not self.is_worker:
            shutil.rmtree(self.directory, ignore_errors=True)


def not_measured(expected: Expected, reason: str, next_step: str = "") -> CheckResult:
    """A result that says that nothing was measured, and why."""
    return CheckResult(
        check=expected.check,
        pair=expected.pair,
        test=expected.test,
        verdict=Verdict.NOT_MEASURED,
        summary=f"{Verdict.NOT_MEASURED}: {expected.pair}: {reason}",
        next_step=next_step,
        limit=expected.limit,
        confidence=expected.confidence,
    )


def encode_results(results: list[CheckResult]) -> str:
    """ASCII JSON text: what execnet and every report format can carry."""
    return json.dumps([result.to_json() for result in results], allow_nan=False)
