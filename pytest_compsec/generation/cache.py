"""Answers that were generated before, in one SQLite file, for as long as nothing they depend on
has changed.

The identity (weights, template, tokenizer, settings, dtype, device kind, versions) is the
caller's; an entry belongs to one identity and one prompt, whose text is compared on reading.
Every row carries a checksum over all of itself, so that a row that was edited or mixed up is
ignored. The checksum has no secret: who can write the file can recompute it. Use no cache where
the file may be hostile.

Several processes may use one file at a time (write-ahead log, busy timeout; the file system must
be a local one). What :meth:`ResponseCache.put_many` has returned from survives a killed process.
A cache never stops a run: a file that cannot be used is moved aside or left alone, and a note
says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pytest_compsec.generation.claims import RunLedger, claim_path, claimed
from pytest_compsec.generation.settings import Answer
from pytest_compsec.models.arm import digest_of

#: ``PRAGMA user_version`` of the file: raised when tables or the meaning of a column change.
FILE_VERSION = 1

_BUSY_SECONDS = 30.0
_PROMPTS_A_QUERY = 500

_TABLES = (
    "CREATE TABLE IF NOT EXISTS answers (identity TEXT, prompt_digest TEXT, prompt BLOB, "
    "answer TEXT, checksum TEXT, PRIMARY KEY (identity, prompt_digest)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS facts (identity TEXT, name TEXT, value TEXT, checksum TEXT, "
    "PRIMARY KEY (identity, name)) WITHOUT ROWID",
)


class ResponseCache:
    """The cache file at ``path``, made with its directory when absent.

    ``notes`` says what was wrong with it, one sentence each; empty when all is well.
    ``ledger`` is that of the run whose workers share the file; None for a process on its own.
    """

    def __init__(self, path: Path, *, ledger: RunLedger | None = None) -> None:
        self.path = Path(path)
        self._ledger = ledger
        self._made: dict[str, set[str]] = {}  # prompts that this process answered
        self._notes: list[str] = []
        self._usable = True
        self._connection: sqlite3.Connection | None = None
        self._process = os.getpid()
        self._inherited: list[sqlite3.Connection] = []
        self._guard = threading.RLock()
        with self._errors_noted("answers are not cached"):
            self._open()

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._notes)

    def get_many(self, identity: str, prompts: Sequence[str]) -> dict[int, Answer]:
        """The answers that are there, by index into ``prompts``."""
        places: dict[str, list[int]] = {}
        for place, prompt in enumerate(prompts):
            places.setdefault(_prompt_digest(prompt), []).append(place)
        found: dict[int, Answer] = {}
        digests = list(places)
        for start in range(0, len(digests), _PROMPTS_A_QUERY):
            part = digests[start : start + _PROMPTS_A_QUERY]
            marks = ",".join("?" * len(part))
            rows = self._fetch(
                "SELECT prompt_digest, prompt, answer, checksum FROM answers "
                f"WHERE identity = ? AND prompt_digest IN ({marks})",
                (identity, *part),
            )
            for digest, prompt_bytes, answer_text, checksum in rows:
                for place in places.get(digest, ()):
                    prompt = prompts[place]
                    if prompt_bytes != _prompt_bytes(prompt):
                        continue
                    fields = _checked(answer_text, checksum, ["answer", identity, prompt])
                    answer = _answer_from(fields)
                    if answer is not None:
                        found[place] = answer
        return found

    def put_many(self, identity: str, pairs: Iterable[tuple[str, Answer]]) -> None:
        """Keep (prompt, answer) pairs, all or none; an entry that was there is replaced."""
        pairs = list(pairs)
        self._made.setdefault(identity, set()).update(prompt for prompt, _ in pairs)
        rows = []
        if self._ledger is not None:
            # Before the answers are there: else they would count as those of an earlier run.
            with self._errors_noted("these answers are not cached"):
                self._ledger.note(identity, [prompt for prompt, _ in pairs])
            if not self._usable:
                return
        for prompt, answer in pairs:
            text, checksum = _sealed(dataclasses.asdict(answer), ["answer", identity, prompt])
            rows.append((identity, _prompt_digest(prompt), _prompt_bytes(prompt), text, checksum))
        self._write("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", rows)

    def made_in_this_run(self, identity: str, prompts: Sequence[str]) -> frozenset[str]:
        """Those of ``prompts`` whose answers this process, or another worker of its run, put
        here."""
        own = self._made.get(identity, set()).intersection(prompts)
        noted = self._ledger.noted(identity, prompts) if self._ledger is not None else frozenset()
        return noted | own

    def forget(self, identity: str) -> None:
        """Drop all answers of an identity, and all facts."""
        for table in ("answers", "facts"):
            self._write(f"DELETE FROM {table} WHERE identity = ?", [(identity,)])

    def claimed(
        self, identity: str, waiting: Callable[[], object] | None = None
    ) -> AbstractContextManager[None]:
        """While this process generates the answers of ``identity``: the others wait meanwhile.
        See :func:`pytest_compsec.generation.claims.claimed`."""
        return claimed(claim_path(self.path, identity), waiting=waiting)

    def get_fact(self, identity: str, name: str) -> Any | None:
        """A JSON value kept by :meth:`put_fact`, or None."""
        rows = self._fetch(
            "SELECT value, checksum FROM facts WHERE identity = ? AND name = ?", (identity, name)
        )
        for text, checksum in rows:
            return _checked(text, checksum, ["fact", identity, name])
        return None

    def put_fact(self, identity: str, name: str, value: Any) -> None:
        """Keep a JSON-safe value under an identity and a name."""
        text, checksum = _sealed(value, ["fact", identity, name])
        row = (identity, name, text, checksum)
        self._write("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?)", [row])

    def close(self) -> None:
        """Close this process's connection; the next use opens another."""
        with self._guard:
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
            self._connection = None

    def _fetch(self, query: str, values: tuple[str, ...]) -> list[tuple[Any, ...]]:
        with self._errors_noted("cached answers are not read"):
            connection = self._connected()
            if connection is not None:
                with self._guard:
                    return connection.execute(query, values).fetchall()
        return []

    def _write(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        with self._errors_noted("these answers are not cached"):
            connection = self._connected()
            if connection is None or not rows:
                return
            with self._guard:
                # IMMEDIATE waits for other writers at once instead of failing half-way.
                connection.execute("BEGIN IMMEDIATE")
                try:
                    connection.executemany(statement, rows)
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")

    def _connected(self) -> sqlite3.Connection | None:
        with self._guard:
            if self._process != os.getpid():
                # A connection must not be used, nor closed, on the other side of a fork.
                if self._connection is not None:
                    self._inherited.append(self._connection)
                self._connection = None
                self._process = os.getpid()
            if self._connection is None and self._usable:
                self._open()
            return self._connection

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.path.with_name(self.path.name + ".lock")):
            try:
                self._connection = _connect(self.path)
            except _OtherVersionError as error:
                self._move_aside(f"version-{error.version}", f"it has file version {error.version}")
                self._connection = _connect(self.path)
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                self._move_aside("corrupt", f"it is damaged ({error})")
                self._connection = _connect(self.path)

    def _move_aside(self, why: str, reason: str) -> None:
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.{why}-{number}")).exists():
            number += 1
        self.path.rename(aside)
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                self.path.with_name(self.path.name + suffix).rename(
                    aside.with_name(aside.name + suffix)
                )
        self._note(
            f"response cache {self.path}: {reason}; moved to {aside.name}, a fresh one is used"
        )

    @contextlib.contextmanager
    def _errors_noted(self, consequence: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self._note(f"response cache {self.path}: {error}; {consequence}")
            busy = isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
            if not busy:
                self._usable = False
                with contextlib.suppress(sqlite3.Error):
                    self.close()

    def _note(self, note: str) -> None:
        if note not in self._notes:
            self._notes.append(note)


class _OtherVersionError(Exception):
    def __init__(self, version: int) -> None:
        self.version = version
        super().__init__(str(version))


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if version != FILE_VERSION and (version or tables):
            raise _OtherVersionError(version)
        result = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if result != "ok":
            raise sqlite3.DatabaseError(f"malformed: {result}")
        connection.execute("PRAGMA journal_mode = WAL")
        # A commit is in the log before it returns; only a power cut can take it back, and then
        # whole: the file stays sound.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE")
        for statement in _TABLES:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {FILE_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Damage, as against a locked, unreadable or read-only file (OperationalError)."""
    return not isinstance(error, sqlite3.OperationalError) or "malformed" in str(error)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time looks at the file and moves it aside; else a second one would move
    away the fresh file that the first has begun."""
    try:
        import fcntl
    except ImportError:  # no such lock on this system: the window is a moment at start-up
        yield
        return
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _prompt_bytes(prompt: str) -> bytes:
    return prompt.encode("utf-8", "surrogatepass")


def _prompt_digest(prompt: str) -> str:
    return hashlib.sha256(_prompt_bytes(prompt)).hexdigest()


def _sealed(value: Any, owner: Sequence[str]) -> tuple[str, str]:
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return text, digest_of([FILE_VERSION, *owner, text])


def _checked(text: Any, checksum: Any, owner: Sequence[str]) -> Any | None:
    if not isinstance(text, str) or checksum != digest_of([FILE_VERSION, *owner, text]):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def _answer_from(fields: Any) -> Answer | None:
    if not isinstance(fields, Mapping):
        return None
    try:
        first = tuple((int(token), float(value)) for token, value in fields["first"])
        # Asked for by name: without it an answer of an earlier version would count as plain.
        return Answer(**{**fields, "first": first, "reasoned": fields["reasoned"]})
    except (KeyError, TypeError, ValueError):  # fields of another version of this package
        return None
