"""Who generates which answers, when several processes share a cache.

The workers of pytest-xdist compare several compressed models with one original. Whoever comes
first claims the identity (one model asked in one way) and generates; who comes while it does waits
and then reads the cache. The claim is a lock of the operating system on a file beside the cache:
it ends with the process that holds it, however that ends.

A process holds at most one claim, and waits for one only while it holds none: nobody can wait in
a circle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

_held = threading.local()
_POLL_SECONDS = 0.1


@contextlib.contextmanager
def claimed(path: Path, *, waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold the claim whose lock file is ``path`` (made with its directory when absent).

    ``waiting`` is called once when another process holds it. Where no lock can be had (a read-only
    directory, a file system without locks) or this thread holds a claim already, the block runs
    without one: work may then be done twice, and is never lost.
    """
    if getattr(_held, "depth", 0):
        yield
        return
    lock = _acquired(path, waiting)
    _held.depth = 1
    try:
        yield
    finally:
        _held.depth = 0
        lock.close()


def _acquired(path: Path, waiting: Callable[[], object] | None) -> contextlib.ExitStack:
    from filelock import FileLock, Timeout

    stack = contextlib.ExitStack()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting is not None:
                waiting()
            lock.acquire(poll_interval=_POLL_SECONDS)
        stack.callback(lock.release)
    except (OSError, NotImplementedError):
        pass
    return stack


def claim_path(cache: Path, identity: str) -> Path:
    """The lock file of an identity, beside the cache file."""
    name = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return cache.with_name(f"{cache.name}.claims") / f"{name}.lock"


class RunLedger:
    """Which answers the workers of one run generated, in a directory that belongs to the run.

    What a worker reads from the cache came from an earlier run, or from another worker a moment
    ago. Only the former may be reported as cached, so every answer is noted here before it goes
    into the cache.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def note(self, identity: str, prompts: Iterable[str]) -> None:
        """``prompts`` are answered by this run. Raises OSError when that cannot be written."""
        self._directory.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{_digest(prompt)}\n" for prompt in prompts)
        with self._file(identity).open("a", encoding="ascii") as file:
            file.write(lines)

    def noted(self, identity: str, prompts: Collection[str]) -> frozenset[str]:
        """Those of ``prompts`` that this run answered."""
        try:
            lines = self._file(identity).read_text("ascii").splitlines()
        except OSError:
            return frozenset()
        known = frozenset(lines)
        return frozenset(prompt for prompt in prompts if _digest(prompt) in known)

    def _file(self, identity: str) -> Path:
        return self._directory / f"{_digest(identity)}.made"


def _digest(text: str) -> str:
    return hashlib.sha256(json.dumps(text).encode("ascii")).hexdigest()
