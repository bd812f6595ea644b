"""The end of a run with ``--compsec-history``: its line, appended by the one process that knows all
results (a serial run, or the controller of pytest-xdist; never a worker)."""

from __future__ import annotations

import datetime
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_compsec.errors import CompsecError

if TYPE_CHECKING:
    from pytest_compsec.run import Run
    from pytest_compsec.verdict import CheckResult


def write_history(run: Run, session: pytest.Session) -> None:
    """Append one line for each config in use (one config: one line). What goes wrong is said below
    the verdicts and makes the run fail."""
    from pytest_compsec.reports.history_reading import FILE_NAME

    asked = run.settings.history
    configs = _configs(run, session)
    for config in dict.fromkeys(configs.values()):
        path = config.with_name(FILE_NAME) if asked == "beside" else Path(str(asked))
        try:
            name = _append(run, session, path, config, configs)
        except (CompsecError, OSError) as error:
            run.report_problems.append(f"--compsec-history: nothing was added: {error}")
            if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        else:
            shown = os.path.relpath(path, run.config.invocation_params.dir)
            run.reports_written.append(f"{shown}: run {name}")


def _append(
    run: Run, session: pytest.Session, path: Path, config: Path, configs: Mapping[str, Path]
) -> str:
    from pytest_compsec import __version__
    from pytest_compsec.reports.history import append_record, run_record

    now = datetime.datetime.now(datetime.timezone.utc)
    name = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    results = [result for result in run.finished() if configs.get(result.test) == config]
    unfinished = [result for result in run.unfinished() if configs.get(result.test) == config]
    lock_digest, pins = _pins(config, results)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = run_record(
        results,
        unfinished,
        run=name,
        created=now.isoformat(timespec="seconds"),
        version=__version__,
        config=config_beside(config, path),
        exit_status=int(session.exitstatus),
        pins=pins,
        lock_digest=lock_digest,
        integrity=list(run.integrity.values()),
    )
    append_record(path, record)
    return name


def config_beside(config: Path, history: Path) -> str:
    """The config as the history names it, so that both can be moved together."""
    try:
        return Path(os.path.relpath(config, history.parent)).as_posix()
    except ValueError:  # another drive
        return config.as_posix()


def _configs(run: Run, session: pytest.Session) -> dict[str, Path]:
    """The config of each test. A controller learns it from its workers, a serial run asks."""
    from pytest_compsec.collection import pairs_of

    pairs = run.pairs or pairs_of(run, getattr(session, "items", []))
    known = {test: Path(found.config) for test, found in pairs.items()}
    fallback = next(iter(known.values()), run.settings.config)
    if fallback is not None:
        for result in run.all_results():
            known.setdefault(result.test, fallback)
    ours = {result.test for result in run.all_results()}
    return {test: path for test, path in known.items() if test in ours}


def _pins(
    config: Path, results: Sequence[CheckResult]
) -> tuple[str | None, dict[str, dict[str, Any]]]:
    """The digest of the lock, and what it says of each pair. Neither where the lock is not the one
    that the results were measured under."""
    from pytest_compsec.checks.drift.pins import pins_of
    from pytest_compsec.config.loading import LOCK_NAME
    from pytest_compsec.models.lock import read_lock

    try:
        lock = read_lock(config.with_name(LOCK_NAME))
    except CompsecError:
        return None, {}
    found = {}
    for result in results:
        provenance = result.provenance
        digest = provenance.get("lock_digest")
        if digest is None or "original" not in provenance or "compressed" not in provenance:
            continue
        if digest != lock.digest:
            return None, {}
        names = (provenance[arm]["name"] for arm in ("original", "compressed"))
        found[result.pair] = pins_of(lock, *names)
    return lock.digest, found
