"""Are these the bytes that the lock pins? Every file of a source, nothing more and nothing less.

Files are opened and hashed here and by nobody before; a parser sees them only after they matched.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pytest_compsec.errors import IntegrityError
from pytest_compsec.models.hashing import Meanwhile, OpenFile, open_and_hash
from pytest_compsec.models.listing import (
    IGNORED,
    Location,
    Problem,
    cache_blobs,
    list_source,
    printable,
    show,
)
from pytest_compsec.models.lock import UNVERIFIED, FilePin, SourcePin, lock_digest, tree_of
from pytest_compsec.models.roles import refused_content

MAX_SHOWN = 20
#: What is said of a file with other bytes; other messages look for it.
NOT_PINNED = "is not what the lock pins"


def local_location(path: str | os.PathLike[str], *, adapter: bool = False) -> Location:
    """The location of a local directory, or of one file. The path itself may be a link to a
    directory; what is in the directory may not."""
    given = Path(path)
    absolute = Path(os.path.abspath(given))  # noqa: PTH100 - resolve() would follow a link's file
    if not given.is_dir():
        directory = absolute.parent.resolve()
        return Location(str(path), directory, only=absolute.name, adapter=adapter)
    directory = absolute.resolve()
    # The hub's cache never holds such notes inside a snapshot, so nothing is passed over there.
    pass_over = () if cache_blobs(directory) is not None else IGNORED
    return Location(str(path), directory, adapter=adapter, pass_over=pass_over)


def tree_digest(path: str | os.PathLike[str]) -> str:
    """sha256 (hex) over the names, sizes and contents of a model directory or file, as in a lock.

    Raises IntegrityError when the directory holds what no model directory may hold.
    """
    return pin_source(local_location(path), source=str(path)).tree


def verify(path: str | os.PathLike[str] | Location, pin: SourcePin) -> tuple[Problem, ...]:
    """Compare a source with its pin; every difference, none when all is as pinned."""
    location = path if isinstance(path, Location) else local_location(path)
    files, problems = open_and_compare(location, pin)
    _close(files)
    return problems


def open_and_compare(
    location: Location,
    pin: SourcePin,
    copy_to: Callable[[OpenFile], Path | None] = lambda file: None,
    meanwhile: Meanwhile | None = None,
) -> tuple[list[OpenFile], tuple[Problem, ...]]:
    """Hash every file of a source and compare it with its pin.

    Returns the files, still open, and all problems. The caller closes the files. ``meanwhile`` as
    in :func:`~pytest_compsec.models.hashing.open_and_hash`.
    """
    listing = list_source(location)
    pinned = {file.name: file for file in pin.files}
    listed = set(listing.names)
    told = {problem.file for problem in listing.problems}
    problems = list(listing.problems)
    for name in sorted(pinned.keys() - listed - told):
        message = f"{show(location, name)}: is pinned by the lock and missing"
        problems.append(Problem("missing", name, message, expected=pinned[name].sha256))
    for name in sorted(listed - pinned.keys()):
        message = (
            f"{show(location, name)}: is not in the lock. A model directory may hold only what is "
            "pinned: remove the file, or pin it"
        )
        problems.append(Problem("extra", name, message))
    files, failures = open_and_hash(location, sorted(listed & pinned.keys()), copy_to, meanwhile)
    problems += [Problem("refused", name, message) for name, message in failures]
    for file in files:
        problem = _compare(file, pinned[file.name])
        if problem is not None:
            problems.append(problem)
    return files, tuple(problems)


def _compare(file: OpenFile, pin: FilePin) -> Problem | None:
    reason = refused_content(file.role, file.name, file.size, file.head)
    if reason is not None:
        message = f"{file.shown}: {reason}"
        return Problem("refused", file.name, message, pin.sha256, file.sha256)
    if file.sha256 == pin.sha256 and file.size == pin.size:
        return None
    message = (
        f"{file.shown}: {NOT_PINNED}\n"
        f"    locked sha256 {pin.sha256} ({pin.size} bytes)\n"
        f"    found  sha256 {file.sha256} ({file.size} bytes)"
    )
    return Problem("changed", file.name, message, pin.sha256, file.sha256)


def pin_source(
    location: Location,
    *,
    source: str,
    revision: str | None = None,
    vouched: Mapping[str, tuple[str, str]] | None = None,
    holds_weights: bool = True,
) -> SourcePin:
    """Hash every file of a source into a pin. ``holds_weights``: it must hold a file of weights.

    ``vouched`` maps a name to ``(sha256, provenance)`` from elsewhere, which must agree.
    Raises IntegrityError naming everything that is refused or does not agree.
    """
    listing = list_source(location)
    files, failures = open_and_hash(location, listing.names, lambda file: None)
    _close(files)
    problems = list(listing.problems)
    problems += [Problem("refused", name, message) for name, message in failures]
    for file in files:
        reason = refused_content(file.role, file.name, file.size, file.head)
        if reason is not None:
            problems.append(Problem("refused", file.name, f"{file.shown}: {reason}"))
    pins = [_pin(file, vouched or {}, problems) for file in files]
    raise_problems(problems, advice="Nothing was pinned.")
    if holds_weights and not any(file.role in ("weights", "adapter") for file in files):
        raise IntegrityError(
            f"{printable(location.label)}: holds no weights that can be loaded safely "
            "(.safetensors or .gguf). Convert the model to safetensors"
        )
    return SourcePin(
        source=source,
        files=tuple(pins),
        revision=revision,
        commit=location.commit,
        entry=location.only,
    )


def _pin(
    file: OpenFile, vouched: Mapping[str, tuple[str, str]], problems: list[Problem]
) -> FilePin:
    sha256, provenance = vouched.get(file.name, (file.sha256, UNVERIFIED))
    if sha256 != file.sha256:
        message = (
            f"{file.shown}: differs from the sha256 that another party gives for it\n"
            f"    {provenance.removesuffix(' matched')}: {sha256}\n"
            f"    found: {file.sha256}"
        )
        problems.append(Problem("changed", file.name, message, sha256, file.sha256))
    return FilePin(file.name, file.sha256, file.size, file.role, provenance)


def raise_problems(problems: Sequence[Problem], advice: str) -> None:
    """Raise IntegrityError that lists the problems (the first ones of many); none: return."""
    if not problems:
        return
    lines = [problem.message for problem in problems[:MAX_SHOWN]]
    if len(problems) > MAX_SHOWN:
        lines.append(f"... and {len(problems) - MAX_SHOWN} more")
    raise IntegrityError("\n".join([*lines, advice]))


def require_lock_digest(path: Path, digest: str) -> None:
    """Raise IntegrityError unless the lock's own sha256 is ``digest`` (hex, any case)."""
    found = lock_digest(path)
    if not hmac.compare_digest(found, digest.strip().lower()):
        raise IntegrityError(
            f"{path}: is another lock than the one this run asks for\n"
            f"    asked sha256 {digest.strip().lower()}\n"
            f"    found sha256 {found}\n"
            "If the lock's change was reviewed, give its new digest (--compsec-lock-digest)"
        )


def _close(files: Sequence[OpenFile]) -> None:
    for file in files:
        file.close()


__all__ = ["open_and_compare", "pin_source", "require_lock_digest", "tree_digest", "tree_of",
           "verify"]  # fmt: skip
