"""Gathers what a run was, at its end: the :class:`~pytest_compsec.reports.facts.RunFacts`."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_compsec.config.loading import LOCK_NAME
from pytest_compsec.reports.facts import CollectedCheck, Report, RunFacts, State, SuiteFacts
from pytest_compsec.reports.terminal import sorted_results
from pytest_compsec.selection import selection

if TYPE_CHECKING:
    from pytest_compsec.reports.memory import ProcessMemory
    from pytest_compsec.run import Run


def report_of(
    run: Run, session: pytest.Session, memory: Mapping[str, ProcessMemory] | None = None
) -> Report:
    """All that the reports of this run are made of. On a serial run or a controller."""
    return Report(
        results=tuple(sorted_results(run.all_results())),
        facts=_facts(run, session),
        directory=run.config.invocation_params.dir,
        memory=memory,
        show_answers=run.settings.show_answers,
        sign_key=run.settings.sign_key,
        sign_sigstore=run.settings.sign_sigstore,
    )


def _facts(run: Run, session: pytest.Session) -> RunFacts:
    from pytest_compsec import __version__

    now = datetime.datetime.now(datetime.timezone.utc)
    settings = run.settings
    status = int(session.exitstatus)
    return RunFacts(
        version=__version__,
        started=run.started,
        created=now.isoformat(timespec="seconds"),
        exit_status=status,
        interrupted=_interrupted(run, session),
        command=tuple(str(argument) for argument in run.config.invocation_params.args),
        selection=(*selection(run.config, _folders_of_tests(run)), *run.unread),
        settings={
            "full": settings.full,
            "noise_floor": settings.noise_floor,
            "familywise": settings.familywise,
            "inconclusive": settings.inconclusive,
            "use_cache": settings.use_cache,
            "runtime_agreement": settings.runtime_agreement,
        },
        suites=_suites(run),
        checks=_checks(run),
        integrity=tuple(dict.fromkeys(run.integrity.values())),
    )


def _interrupted(run: Run, session: pytest.Session) -> bool:
    # pytest-xdist ends a run of -x as if by Ctrl-C, a serial one tells it in ``shouldfail``.
    stopped = run.interrupted or session.exitstatus == pytest.ExitCode.INTERRUPTED
    return bool(stopped or session.shouldstop or session.shouldfail)


def _folders_of_tests(run: Run) -> list[Path]:
    """Where the tests of the suites are: below each config, or anywhere for a config by name."""
    if run.settings.config is not None:
        return [run.config.rootpath]
    return [Path(config).parent for config in run.opened]


def _suites(run: Run) -> tuple[SuiteFacts, ...]:
    """A controller of pytest-xdist opens no suite; it knows of those that workers named."""
    root = run.config.rootpath
    return tuple(
        SuiteFacts(
            relative(Path(config), root),
            opened.config_digest,
            relative(Path(config).with_name(LOCK_NAME), root),
            opened.lock_digest,
        )
        for config, opened in sorted(run.opened.items())
    )


def relative(path: Path, root: Path) -> str:
    """``path`` as reports name it: from the root of the run, with forward slashes."""
    try:
        return Path(os.path.relpath(path, root)).as_posix()
    except ValueError:  # another drive
        return path.as_posix()


def _checks(run: Run) -> tuple[CollectedCheck, ...]:
    root = run.config.rootpath
    finished = {(result.test, result.check) for result in run.finished()}
    found = []
    for key, check in run.collected_checks.items():
        state: State = "deselected"
        if key in finished:
            state = "finished"
        elif key in run.expected:
            state = "unfinished"
        found.append(
            CollectedCheck(
                check.test,
                check.check,
                check.pair,
                relative(Path(check.config), root) if check.config else "",
                state,
                run.outcomes.get(check.test),
                check.arguments,
            )
        )
    return tuple(found)
