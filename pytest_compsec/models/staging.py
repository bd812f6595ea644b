"""Verified files in a private directory that holds only pinned names, for loaders to read.

Small files are copied while they are hashed, so what a parser reads is what was hashed. Weights
are too large to copy by default: the staged name leads to the very inode that was hashed, which
is held open, so a file that takes the original's name later is never seen.

On Linux that is a link to ``/proc/<pid>/fd/<n>``, which needs no write access to the model's
file system and leaves the inode as it is. (A hard link changes the inode's ctime, so that workers
which stage the same file would each look like a change to the others.) Elsewhere it is a hard
link, and where that is impossible a copy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pytest_compsec.errors import CompsecError, IntegrityError
from pytest_compsec.models.arm import StagedFiles
from pytest_compsec.models.hashing import OpenFile, Stamp
from pytest_compsec.models.importing import import_libraries
from pytest_compsec.models.integrity import open_and_compare, raise_problems
from pytest_compsec.models.listing import Location
from pytest_compsec.models.lock import SourcePin

Mode = Literal["link", "copy"]

#: Up to this size a file is copied in ``link`` mode too, unless it holds weights.
MAX_COPIED_BYTES = 32 * 1024 * 1024


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One staged name. ``link`` is the text of a symbolic link, ``stamp`` what a copy's inode
    looked like when it was complete; a hard link has neither and is the held inode itself."""

    file: OpenFile
    path: Path
    link: str | None = None
    stamp: Stamp | None = None

    def is_intact(self) -> bool:
        status = os.lstat(self.path)
        if self.link is not None:
            return self.path.is_symlink() and os.readlink(self.path) == self.link  # noqa: PTH115
        if self.stamp is not None:
            return Stamp.of(status) == self.stamp
        return _same_inode(status, os.fstat(self.file.descriptor))


class Staging:
    """The private directory of a session. Removed by :meth:`close`, at the latest at exit."""

    def __init__(self, mode: Mode = "link", root: Path | None = None) -> None:
        self.mode = mode
        try:
            # mkdtemp makes it accessible to this user only (0700).
            self.directory = Path(tempfile.mkdtemp(prefix="compsec-", dir=root))
        except OSError as error:
            raise CompsecError(
                f"{root or tempfile.gettempdir()}: no private directory can be made there "
                f"({error.strerror}). Set TMPDIR to a directory that can be written"
            ) from None
        self._count = 0
        self._files: list[OpenFile] = []
        self._cleanup = weakref.finalize(self, _clean_up, os.getpid(), self.directory, self._files)

    def stage(self, location: Location, pin: SourcePin) -> StagedFiles:
        """Verify a source against its pin and stage it. Raises IntegrityError, staging nothing."""
        directory = self.directory / str(self._count)
        self._count += 1
        directory.mkdir(mode=0o700)
        files: list[OpenFile] = []
        try:
            files, problems = open_and_compare(
                location,
                pin,
                lambda file: directory / file.name if self._copies(file) else None,
                import_libraries,
            )
            raise_problems(
                problems,
                "Nothing of it was opened. If a change is wanted, review it and run `compsec pin`; "
                "else restore the files",
            )
            entries = [_stage_file(file, directory / file.name) for file in files]
        except BaseException:
            for file in files:
                file.close()
            shutil.rmtree(directory, ignore_errors=True)
            raise
        self._files += files
        staged = _Staged(directory, entries)
        return StagedFiles(
            directory=directory,
            tree=pin.tree,
            entry=pin.entry,
            provenance=_provenance(pin),
            recheck=staged.recheck,
        )

    def _copies(self, file: OpenFile) -> bool:
        if self.mode == "copy":
            return True
        return file.role not in ("weights", "adapter") and file.size <= MAX_COPIED_BYTES

    def close(self) -> None:
        """Remove the directory and close the files. A forked child leaves both alone."""
        self._cleanup()


class _Staged:
    """Compares staged files with what they were when they were verified."""

    def __init__(self, directory: Path, entries: Sequence[_Entry]) -> None:
        self._directory = directory
        self._entries = entries
        self._names = {str(entry.path.relative_to(directory)) for entry in entries}

    def recheck(self) -> None:
        for entry in self._entries:
            entry.file.recheck()
            with contextlib.suppress(FileNotFoundError):
                if entry.is_intact():
                    continue
            raise IntegrityError(
                f"{entry.file.shown}: its verified copy or link {entry.path} was replaced after "
                "it was verified. Find out what writes to the temporary directory, then run again"
            )
        found = {
            os.path.relpath(Path(folder) / name, self._directory)
            for folder, _, names in os.walk(self._directory)
            for name in names
        }
        if found != self._names:
            extra = ", ".join(sorted(found - self._names))
            raise IntegrityError(f"{self._directory}: files were added after verification: {extra}")


def _stage_file(file: OpenFile, target: Path) -> _Entry:
    if file.copied is not None:
        return _Entry(file, target, stamp=Stamp.of(os.lstat(target)))
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    link = _descriptor_link(file)
    if link is not None:
        target.symlink_to(link)
        return _Entry(file, target, link=link)
    if _hard_link(file, target):
        return _Entry(file, target)
    wanted = file.sha256
    file.hash(target)
    if file.sha256 != wanted:
        raise IntegrityError(f"{file.shown}: was changed after it was verified")
    return _Entry(file, target, stamp=Stamp.of(os.lstat(target)))


def _descriptor_link(file: OpenFile) -> str | None:
    if not sys.platform.startswith("linux"):
        return None
    link = f"/proc/{os.getpid()}/fd/{file.descriptor}"
    try:
        # A /proc of another namespace would show another process.
        same = _same_inode(os.stat(link), os.fstat(file.descriptor))  # noqa: PTH116
        return link if same and os.access(link, os.R_OK) else None
    except OSError:
        return None


def _hard_link(file: OpenFile, target: Path) -> bool:
    before = Stamp.of(os.fstat(file.descriptor))
    try:
        os.link(file.path, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        return False
    if not _same_inode(os.lstat(target), os.fstat(file.descriptor)):
        target.unlink()
        return False
    if before == file.stamp:
        # The link itself changed the ctime; without this every recheck would hash again.
        file.stamp = Stamp.of(os.fstat(file.descriptor))
    return True


def _same_inode(first: os.stat_result, second: os.stat_result) -> bool:
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)


def _provenance(pin: SourcePin) -> dict[str, object]:
    pins: dict[str, int] = {}
    for file in pin.files:
        pins[file.provenance] = pins.get(file.provenance, 0) + 1
    files = [
        {"path": file.name, "sha256": file.sha256, "size": file.size, "role": file.role}
        for file in sorted(pin.files, key=lambda file: file.name)
    ]
    return {
        "source": pin.source,
        "revision": pin.revision,
        "commit": pin.commit,
        "pins": pins,
        "files": files,
    }


def _clean_up(owner: int, directory: Path, files: list[OpenFile]) -> None:
    if os.getpid() != owner:
        return
    for file in files:
        file.close()
    shutil.rmtree(directory, ignore_errors=True)
