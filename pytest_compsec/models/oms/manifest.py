"""Are the pinned files those that were signed? All of them, and no others.

``model-signing`` passes over ``.git`` and whatever ``ignore_paths`` names, so a file put there goes
unseen by it while a loader may open it. Here a file that is in the directory is either signed, or
the signature itself, or one of the few that no loader opens.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from pytest_compsec.errors import IntegrityError
from pytest_compsec.models.hashing import CHUNK_BYTES, OpenFile
from pytest_compsec.models.listing import IGNORED, Problem, printable
from pytest_compsec.models.lock import FilePin
from pytest_compsec.models.oms.statement import (
    DIGEST_BYTES,
    SINGLE_FILE,
    Resource,
    Serialization,
    Statement,
)

#: May stay unsigned when the signer left them out: no loader of models opens them.
_NEVER_OPENED = (".gitattributes", ".gitignore")
_NEVER_OPENED_STEMS = ("readme", "license", "licence", "notice", "copying", "changelog")
_NEVER_OPENED_SUFFIXES = ("", ".md", ".txt", ".rst")


def compare_manifest(
    statement: Statement,
    files: Sequence[FilePin],
    *,
    where: str,
    open_file: Callable[[str], OpenFile],
    signature: str | None = None,
    entry: str | None = None,
) -> list[Problem]:
    """Every difference between what was signed and the pinned files.

    Where whole files are signed with sha256 the pins are compared and nothing is read; else each
    file (``open_file`` of its name) is hashed in both ways, and must still be the pinned one.
    ``signature`` is the name of the signature among the files, ``entry`` the one file of a source
    that is a file: of such a source nothing else is opened, so nothing else is asked for.
    """
    signed: dict[str, list[Resource]] = {}
    for resource in statement.resources:
        signed.setdefault(_plain(resource.name, entry), []).append(resource)
    if signature is not None and signature in signed:
        return [_refused(signature, f"{where}: claims to cover itself, which no signature can")]
    problems: list[Problem] = []
    pinned = {file.name: file for file in files if file.name != signature}
    if entry is None:
        for name in sorted(signed.keys() - pinned.keys()):
            message = f"{printable(name)}: is signed ({where}) and {_why_missing(name)}"
            problems.append(Problem("missing", name, message, signed[name][0].digest))
    for name, file in sorted(pinned.items()):
        if name not in signed:
            reason = _unsigned(name, statement.serialization, where)
            if reason is not None:
                problems.append(Problem("extra", name, reason, found=file.sha256))
            continue
        problem = _compare(file, signed[name], statement.serialization, where, open_file)
        if problem is not None:
            problems.append(problem)
    return problems


def _why_missing(name: str) -> str:
    for notes in IGNORED:
        if PurePosixPath(name).is_relative_to(notes):
            return (
                f"never looked at here: {notes} holds notes of a download. Sign the model without "
                "it (model-signing: `--ignore-paths DIR/.cache`)"
            )
    return "missing"


def _plain(name: str, entry: str | None) -> str:
    if name == SINGLE_FILE and entry is not None:
        return entry
    return name


def _unsigned(name: str, serialization: Serialization, where: str) -> str | None:
    ignored = any(PurePosixPath(name).is_relative_to(path) for path in serialization.ignore_paths)
    if not ignored:
        return (
            f"{printable(name)}: is not covered by {where}. Remove the file, or ask for a "
            "signature that covers it"
        )
    if _never_opened(name):
        return None
    return (
        f"{printable(name)}: is left out of {where} on purpose (its ignore_paths), yet it is in "
        "the directory, where a loader may open it. Remove the file, or have it signed"
    )


def _never_opened(name: str) -> bool:
    if "/" in name:
        return False
    path = PurePosixPath(name.lower())
    if name in _NEVER_OPENED or path.suffix == ".sig":
        return True
    return path.stem in _NEVER_OPENED_STEMS and path.suffix in _NEVER_OPENED_SUFFIXES


def _compare(
    file: FilePin,
    signed: Sequence[Resource],
    serialization: Serialization,
    where: str,
    open_file: Callable[[str], OpenFile],
) -> Problem | None:
    if serialization.method == "files":
        if len(signed) != 1:  # as "." and by its name
            return _refused(file.name, f"{printable(file.name)}: is listed twice in {where}")
        if serialization.hash_type == "sha256":
            if signed[0].digest == file.sha256:
                return None
            return _differs(file, where, f"sha256 {signed[0].digest}", f"sha256 {file.sha256}")
    wanted = sorted(signed, key=lambda one: one.start or 0)
    step = serialization.shard_size or max(file.size, 1)
    starts = range(0, file.size, step)  # Never listed: of tiny shards there may be too many.
    if serialization.method == "shards" and (
        len(wanted) != len(starts)
        or any(
            (one.start, one.end) != (start, min(start + step, file.size))
            for one, start in zip(wanted, starts, strict=True)
        )
    ):
        signed_parts = f"{len(wanted)} shards up to byte {wanted[-1].end}"
        return _differs(file, where, signed_parts, f"{file.size} bytes in {len(starts)} shards")
    try:
        whole, found = _digests(open_file, file.name, step, serialization.hash_type)
    except IntegrityError as error:
        return _refused(file.name, f"{error}, so it is not compared with {where}")
    if whole != file.sha256 or len(found) != len(wanted):
        message = (
            f"{printable(file.name)}: is no longer the pinned file, so it is not compared with "
            f"{where}\n    pinned sha256 {file.sha256}\n    found  sha256 {whole}"
        )
        return Problem("changed", file.name, message, file.sha256, whole)
    for resource, digest in zip(wanted, found, strict=True):
        if resource.digest != digest:
            part = "" if resource.start is None else f" of bytes {resource.start}-{resource.end}"
            kind = f"{serialization.hash_type}{part}"
            return _differs(file, where, f"{kind} {resource.digest}", f"{kind} {digest}")
    return None


def _digests(
    open_file: Callable[[str], OpenFile], name: str, step: int, algorithm: str
) -> tuple[str, list[str]]:
    """The sha256 of a file and the digest of every ``step`` bytes, read at once so that both are of
    the very same bytes. Raises IntegrityError when it cannot be read."""
    assert algorithm in DIGEST_BYTES  # the statement's reader saw to it
    whole = hashlib.sha256()
    parts = [hashlib.new(algorithm)]
    filled = 0
    file = open_file(name)
    try:
        while chunk := os.read(file.descriptor, min(CHUNK_BYTES, step - filled)):
            whole.update(chunk)
            parts[-1].update(chunk)
            filled += len(chunk)
            if filled == step:
                parts.append(hashlib.new(algorithm))
                filled = 0
    except OSError as error:
        raise IntegrityError(f"{file.shown}: cannot be read ({error.strerror})") from None
    finally:
        file.close()
    if filled == 0 and len(parts) > 1:
        parts.pop()
    return whole.hexdigest(), [part.hexdigest() for part in parts]


def _differs(file: FilePin, where: str, signed: str, found: str) -> Problem:
    message = (
        f"{printable(file.name)}: is not the file that was signed ({where})\n"
        f"    signed {signed}\n    found  {found}"
    )
    return Problem("changed", file.name, message, found=file.sha256)


def _refused(name: str, message: str) -> Problem:
    return Problem("refused", name, message)
