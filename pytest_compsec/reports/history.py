"""``compsec-history.jsonl``: one line for each run, appended and never changed.

What a line says: when, with which release and lock, and of each result the check, the pair, its
arguments and verdict, the outcome of every prompt for both models (no answer's text), and what they
were made with: digests of weights, prompts and judge, device, float type, libraries, machine.

How it is appended. One process at a time holds ``FILE.lock``, reads and verifies the chain, and
writes the line with one write to a file opened for appending, then fsync. The file is not rewritten
and renamed: what was there is never touched, not even by a run that is killed, and a file that its
system lets nobody but append to (``chattr +a``) will do. A write that fails is taken back; a
machine that dies within it leaves a part of a line, which the next reader reports.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_compsec.checks.drift.outcomes import TODAY, parts_of_result
from pytest_compsec.errors import CompsecError
from pytest_compsec.reports.history_reading import (
    SCHEMA,
    SCHEMA_VERSION,
    History,
    content_digest,
    read_history,
)
from pytest_compsec.verdict import CheckResult, Verdict

#: Longer than any run takes to write its line.
SECONDS_TO_WAIT = 60


def run_record(
    results: Sequence[CheckResult],
    unfinished: Sequence[CheckResult],
    *,
    run: str,
    created: str,
    version: str,
    config: str,
    exit_status: int,
    pins: Mapping[str, Mapping[str, Any]],
    lock_digest: str | None,
    integrity: Sequence[str] = (),
) -> dict[str, Any]:
    """A run's line without its place in the chain, JSON-safe.

    ``unfinished`` are the promised results that never came; ``config`` is relative to the history;
    ``pins`` say by pair what the lock tells beyond digests (:mod:`checks.drift.pins`);
    ``lock_digest`` is None where the lock changed during the run.
    """
    verdicts = Counter(result.verdict for result in results)
    return {
        "kind": "run",
        "run": run,
        "created": created,
        "package": version,
        "config": config,
        "lock_digest": lock_digest,
        "finished": not unfinished and exit_status in (0, 1),
        "exit_status": exit_status,
        "unfinished": [
            {"test": result.test, "check": result.check, "pair": result.pair}
            for result in unfinished
        ],
        "integrity_failures": list(integrity),
        "verdicts": {str(verdict): verdicts.get(verdict, 0) for verdict in Verdict},
        "results": [_result(result, pins.get(result.pair, {})) for result in results],
    }


def _result(result: CheckResult, pins: Mapping[str, Any]) -> dict[str, Any]:
    data = result.to_json()
    kept = ("check", "pair", "test", "arguments", "verdict", "limit", "confidence")
    return {
        **{name: data[name] for name in kept},
        "unmeasured": result.unmeasured,
        "answers": result.answers,
        "answers_cached": result.answers_cached,
        "provenance": {key: value for key, value in data["provenance"].items() if key != TODAY},
        "pins": dict(pins),
        "outcomes": parts_of_result(result),
    }


def accepted_record(
    *, run: str, line: str, former: str | None, created: str, version: str, config: str, sha256: str
) -> dict[str, Any]:
    """The line that says which run the baseline is from now on; ``line`` and ``sha256`` (hex) are
    those of the run's line and of the baseline file."""
    return {
        "kind": "accepted",
        "run": run,
        "line": line,
        "former": former,
        "created": created,
        "package": version,
        "config": config,
        "baseline_sha256": sha256,
    }


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the history for one process. Raises CompsecError where that is not possible."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=SECONDS_TO_WAIT)
    except Timeout:
        raise CompsecError(
            f"{path}: another process has held {path.name}.lock for {SECONDS_TO_WAIT} seconds"
        ) from None
    except (OSError, NotImplementedError) as error:
        raise CompsecError(f"{path}: cannot be locked for writing ({error})") from None
    try:
        yield
    finally:
        lock.release()


def append_record(path: Path, record: Mapping[str, Any]) -> History:
    """Verify the history, append ``record`` as its next line, and give what was there before.

    Raises IntegrityError for a broken chain or a damaged line (nothing is added then), CompsecError
    where the file cannot be read, locked or written.
    """
    with locked(path):
        return append_while_locked(path, record)


def append_while_locked(path: Path, record: Mapping[str, Any]) -> History:
    """As :func:`append_record`, for a caller that holds the lock."""
    history = read_history(path)
    whole: dict[str, Any] = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "previous": history.head,
        **record,
    }
    whole["digest"] = content_digest(whole)
    text = json.dumps(whole, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    try:
        _append(path, text.encode("ascii") + b"\n", history.size)
    except OSError as error:
        raise CompsecError(f"{path}: cannot be written ({error.strerror})") from None
    return history


def _append(path: Path, data: bytes, size: int) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags, 0o666)
    try:
        if os.fstat(handle).st_size != size:
            raise CompsecError(
                f"{path}: something else wrote to it at the same time, without its lock; nothing "
                "was added"
            )
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(handle, rest) :]
            os.fsync(handle)
        except BaseException:
            # A disk that is full: a line is there whole or not at all.
            with contextlib.suppress(OSError):
                os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)
