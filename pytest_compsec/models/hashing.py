"""Open a file once, hash the open file, and notice when its bytes change afterwards.

The descriptor stays open for the session: what is loaded later is the inode that was hashed, even
when another file has taken its name since.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pytest_compsec.errors import CompsecError, IntegrityError
from pytest_compsec.models.listing import Location, show
from pytest_compsec.models.roles import HEAD_BYTES, Role, role_of

#: Something useful to do while files are hashed; asks its argument whether they still are.
Meanwhile = Callable[[Callable[[], bool]], None]
#: Large, because a thread that hashes waits for the interpreter at every chunk while another thread
#: imports: up to 5 ms, in which 4 MiB would be hashed.
CHUNK_BYTES = 16 * 1024 * 1024
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a pipe put there since the listing must not block the open
    | getattr(os, "O_BINARY", 0)
)


@dataclasses.dataclass(frozen=True)
class Stamp:
    """What changes when a file's content or identity does. ``ctime_ns`` also changes for harmless
    reasons (another link to the inode, a mode), so it alone leads to hashing again."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        return cls(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )

    def same_content(self, other: Stamp) -> bool:
        return dataclasses.replace(self, ctime_ns=0) == dataclasses.replace(other, ctime_ns=0)


class OpenFile:
    """A file that is held open: its name in the source, its digest, and the stamp of its inode.

    ``copied`` is where its bytes were written while they were hashed, or None.
    """

    def __init__(self, location: Location, name: str) -> None:
        self.location = location
        self.name = name
        self.role: Role = role_of(name, adapter=location.adapter)
        self.path = Path(os.path.realpath(location.directory / name))
        self.sha256 = ""
        self.head = b""
        self.copied: Path | None = None
        self._descriptor: int | None = self._open()
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise IntegrityError(f"{self.shown}: is no regular file and is not opened")
        self.stamp = Stamp.of(status)

    @property
    def shown(self) -> str:
        return show(self.location, self.name)

    @property
    def size(self) -> int:
        return self.stamp.size

    @property
    def descriptor(self) -> int:
        if self._descriptor is None:
            raise IntegrityError(f"{self.shown}: the verified files of this session are closed")
        return self._descriptor

    def _open(self) -> int:
        real = self.path
        blobs = self.location.blobs
        plain = self.location.directory.resolve() / self.name
        # realpath followed every link; only the way into the hub cache's blobs may differ.
        if real != plain and (blobs is None or real.parent != Path(os.path.realpath(blobs))):
            raise IntegrityError(f"{self.shown}: is reached through a link to {str(real)!r}")
        try:
            return os.open(real, _FLAGS)
        except OSError as error:
            hint = ""
            if error.errno in (errno.EMFILE, errno.ENFILE):
                hint = "; raise the limit of open files (`ulimit -n 4096`)"
            raise IntegrityError(
                f"{self.shown}: cannot be opened ({error.strerror}{hint})"
            ) from None

    def hash(self, copy_to: Path | None = None) -> None:
        """Compute ``sha256``; with ``copy_to`` also write the very bytes that are hashed."""
        digest = hashlib.sha256()
        if copy_to is None:
            self.head, count = _read_through(self.descriptor, digest.update)
        else:
            with _create(copy_to) as file:

                def both(chunk: bytes) -> None:
                    digest.update(chunk)
                    file.write(chunk)

                try:
                    self.head, count = _read_through(self.descriptor, both)
                except OSError as error:
                    raise _copy_error(copy_to, error) from None
            self.copied = copy_to
        after = Stamp.of(os.fstat(self.descriptor))
        if not after.same_content(self.stamp) or count != self.size:
            raise IntegrityError(f"{self.shown}: was written to while it was being read")
        self.sha256 = digest.hexdigest()

    def recheck(self) -> None:
        """Raise IntegrityError when the bytes behind the descriptor may have changed."""
        now = Stamp.of(os.fstat(self.descriptor))
        if now == self.stamp:
            return
        if now.same_content(self.stamp) and self._same_digest():
            self.stamp = now
            return
        raise IntegrityError(
            f"{self.shown}: was changed after it was verified, so what was measured is not what "
            "the lock pins. Find out what writes to it, then run again"
        )

    def _same_digest(self) -> bool:
        digest = hashlib.sha256()
        _read_through(self.descriptor, digest.update)
        return digest.hexdigest() == self.sha256

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _read_through(descriptor: int, take: Callable[[bytes], object]) -> tuple[bytes, int]:
    """Give every byte to ``take``; returns the first bytes and how many there were."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    head = b""
    count = 0
    while chunk := os.read(descriptor, CHUNK_BYTES):
        if count == 0:
            head = chunk[:HEAD_BYTES]
        count += len(chunk)
        take(chunk)
    return head, count


def _create(path: Path) -> _Writer:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return _Writer(path)


class _Writer:
    """A new private file, complete and read-only once the block ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        self._file = os.fdopen(os.open(path, flags, 0o600), "wb")

    def __enter__(self) -> _Writer:
        return self

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)

    def __exit__(self, *ignored: object) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise _copy_error(self._path, error) from None
        if sys.platform != "win32":
            self._path.chmod(0o400)


def _copy_error(path: Path, error: OSError) -> CompsecError:
    return CompsecError(
        f"{path}: a verified copy could not be written ({error.strerror}). Free some space there, "
        "or set TMPDIR to a directory with more"
    )


def usable_cores() -> int:
    """Cores that this process may run on, which a container may limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def open_and_hash(
    location: Location,
    names: Sequence[str],
    copy_to: Callable[[OpenFile], Path | None],
    meanwhile: Meanwhile | None = None,
) -> tuple[list[OpenFile], list[tuple[str, str]]]:
    """Open and hash files, several at a time (hashlib releases the GIL).

    Returns the open files, sorted by name, and ``(name, message)`` of those that failed, in an
    order that does not depend on which thread was done first. The caller closes the files.
    ``meanwhile(waiting)`` is called in this thread, which has nothing else to do, while the others
    hash; ``waiting()`` says whether they still do.
    """
    opened: list[OpenFile] = []
    failures: list[tuple[str, str]] = []
    for name in names:
        try:
            opened.append(OpenFile(location, name))
        except IntegrityError as error:
            failures.append((name, str(error)))

    def work(file: OpenFile) -> None:
        try:
            file.hash(copy_to(file))
        except OSError as error:
            raise IntegrityError(f"{file.shown}: cannot be read ({error.strerror})") from None

    try:
        with ThreadPoolExecutor(max_workers=min(8, usable_cores())) as executor:
            # Largest first, so that one big file does not start last and run alone.
            ordered = sorted(opened, key=lambda file: -file.size)
            futures = [(file, executor.submit(work, file)) for file in ordered]
            if meanwhile is not None:
                meanwhile(lambda: not all(future.done() for _, future in futures))
        for file, future in futures:
            try:
                future.result()
            except IntegrityError as error:
                failures.append((file.name, str(error)))
    except BaseException:
        for file in opened:
            file.close()
        raise
    failed = {name for name, _ in failures}
    for file in opened:
        if file.name in failed:
            file.close()
    return [file for file in opened if file.name not in failed], failures
