"""List what a source holds, and refuse what no model directory may hold.

Links are refused, for they can point anywhere and change at any time, with one exception: the
Hugging Face cache keeps its files in ``models--org--name/blobs`` and links to them from
``snapshots/<commit>``, so a link from there into that same ``blobs`` is accepted.

The one directory that is passed over is ``.cache/huggingface`` at the top of a local directory,
where ``hf download --local-dir`` keeps its notes. Nothing in it is staged, so no parser sees it.
"""

from __future__ import annotations

import dataclasses
import os
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pytest_compsec.models.roles import refused_name

MAX_FILES = 20_000
IGNORED = (".cache/huggingface",)

ProblemKind = Literal["changed", "missing", "extra", "refused", "unlisted"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something wrong with one file. ``message`` is a whole sentence that names the file;
    ``expected`` and ``found`` are sha256 digests where there are two to compare."""

    kind: ProblemKind
    file: str
    message: str
    expected: str | None = None
    found: str | None = None


@dataclasses.dataclass(frozen=True)
class Location:
    """Where a source's files are. ``label`` is the source as the user wrote it; ``only`` names the
    single file of a GGUF source, ``names`` all files of a source that is a choice of files; with
    ``code`` they may be Python. ``pass_over`` lists directories that are not looked into;
    ``commit`` is set for hub sources."""

    label: str
    directory: Path
    only: str | None = None
    adapter: bool = False
    commit: str | None = None
    pass_over: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None
    code: bool = False

    @property
    def blobs(self) -> Path | None:
        """Where links may point: ``blobs`` of the hub cache repository, None elsewhere."""
        return cache_blobs(self.directory)


@dataclasses.dataclass(frozen=True)
class Listing:
    """Relative POSIX names in sorted order, and everything that is refused."""

    names: tuple[str, ...]
    problems: tuple[Problem, ...]


def cache_blobs(directory: Path) -> Path | None:
    """``models--org--name/blobs`` for a directory in ``models--org--name/snapshots/<commit>``."""
    for folder in (directory, *directory.parents):
        repository = folder.parent.parent
        if folder.parent.name == "snapshots" and repository.name.startswith("models--"):
            return repository / "blobs"
    return None


def list_source(location: Location) -> Listing:
    """All regular files of a source, and what is wrong with the rest. Opens none of them."""
    if location.only is not None:
        path = location.directory / location.only
        problem = _entry_problem(location, location.only, path)
        if problem is not None:
            return Listing((), (problem,))
        return Listing((location.only,), ())
    if location.names is not None:
        return _listed(location, location.names)
    names: list[str] = []
    problems: list[Problem] = []
    for name, problem in _walk(location, ""):
        if problem is not None:
            problems.append(problem)
        else:
            names.append(name)
        if len(names) + len(problems) > MAX_FILES:
            message = f"{location.label}: holds more than {MAX_FILES} files; is it a model?"
            return Listing((), (Problem("refused", location.label, message),))
    return Listing(tuple(sorted(names)), tuple(problems))


def _listed(location: Location, names: tuple[str, ...]) -> Listing:
    """As :func:`list_source`, of files chosen by name: whatever lies beside them is not asked."""
    problems = {name: _entry_problem(location, name, location.directory / name) for name in names}
    fine = sorted(name for name, problem in problems.items() if problem is None)
    return Listing(tuple(fine), tuple(found for found in problems.values() if found is not None))


def _walk(location: Location, prefix: str) -> Iterator[tuple[str, Problem | None]]:
    folder = location.directory / prefix if prefix else location.directory
    try:
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        shown = show(location, prefix) if prefix else location.label
        message = f"{shown}: the directory cannot be read ({error.strerror})"
        yield prefix, Problem("refused", prefix or location.label, message)
        return
    for entry in entries:
        name = f"{prefix}/{entry.name}" if prefix else entry.name
        if name in location.pass_over and entry.is_dir(follow_symlinks=False):
            continue
        if entry.is_dir(follow_symlinks=False) and _name_problem(name) is None:
            yield from _walk(location, name)
        else:
            yield name, _entry_problem(location, name, Path(entry.path))


def _entry_problem(location: Location, name: str, path: Path) -> Problem | None:
    refused = None if location.code and name.endswith(".py") else refused_name(name)
    reason = _name_problem(name) or refused or _hidden(name) or _kind(location, path)
    if reason is None:
        return None
    kind: ProblemKind = "missing" if reason == _MISSING else "refused"
    return Problem(kind, name, f"{show(location, name)}: {reason}")


_MISSING = "there is no such file"


def _name_problem(name: str) -> str | None:
    for char in name:
        if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") or char == "\\":
            return "the name holds a control character, a backslash or bytes that are not UTF-8"
    return None


def _hidden(name: str) -> str | None:
    parts = name.split("/")
    for depth, part in enumerate(parts[:-1]):
        if part.startswith("."):
            folder = "/".join(parts[: depth + 1])
            return (
                f"the hidden directory {folder} is not part of a model. Remove it (a model cloned "
                "with git is better fetched with `hf download ... --local-dir`)"
            )
    return None


def _kind(location: Location, path: Path) -> str | None:
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            return _link_problem(location, path)
    except FileNotFoundError:
        return _MISSING
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not stat.S_ISREG(status.st_mode):
        return "is no regular file (a pipe, socket or device) and is never opened. Remove it"
    return None


def _link_problem(location: Location, path: Path) -> str | None:
    blobs = location.blobs
    target = Path(os.path.realpath(path))
    if blobs is not None and target.parent == Path(os.path.realpath(blobs)):
        if not target.exists():
            return "is a link to a blob that is not in the cache. Download the model again"
        return None
    inside = " of the same hub cache repository" if blobs is not None else ""
    return (
        f"is a link to {str(target)!r}, outside the blobs{inside}. Put the file itself there"
        if blobs is not None
        else f"is a link to {str(target)!r}. Links are refused: put the file itself there"
    )


def show(location: Location, name: str) -> str:
    """The file as messages name it, control characters escaped."""
    if location.only is not None:
        return printable(location.label)
    if location.names is not None:  # Its label is no directory.
        return printable(name)
    return f"{printable(location.label)}/{printable(name)}"


def printable(text: str) -> str:
    """Text without anything that a terminal or a CI system would obey."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )
