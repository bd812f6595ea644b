"""What of a weights file changed, in words: looked up by the pinned places, without parsing it.

The header of a file that is not the pinned one may be anybody's, so it is compared as bytes and
never read. Of it only the number at its start is used, to find the tensors again after a header
that grew or shrank, and a lie there only makes more tensors differ. A header that is another one
may call the same bytes something else, so nothing is said then of tensors, only of pinned bytes.
"""

from __future__ import annotations

import dataclasses
import os

from pytest_compsec.errors import CompsecError
from pytest_compsec.models.hashing import OpenFile
from pytest_compsec.models.integrity import NOT_PINNED
from pytest_compsec.models.listing import Location, Problem, printable, show
from pytest_compsec.models.lock import SourcePin
from pytest_compsec.models.tensors.sidecar import FileTable, Tables, digest_between

_SHOWN = 10
_OTHER_HEADER = (
    "the header differs (names, types, shapes or metadata) and may call any bytes by any name"
)


def explain_problems(
    problems: tuple[Problem, ...], location: Location, tables: Tables
) -> tuple[Problem, ...]:
    """The same problems; the message of a changed weights file goes on to say what changed."""
    return tuple(_explained(problem, location, tables) for problem in problems)


def explain_source(location: Location, pin: SourcePin, tables: Tables, said: str) -> str:
    """What changed in the weights files of which ``said`` says that they are not as pinned; "" for
    nothing that can be told."""
    lines = []
    for file in pin.files:
        # The others are not read again: a file that is one too many must not cost minutes.
        changed = f"{show(location, file.name)}: {NOT_PINNED}" in said
        table = tables.get(file.sha256) if changed else None
        text = explain_file(location, file.name, table, file.sha256) if table is not None else ""
        if text:
            lines.append(f"{printable(file.name)}: {text}")
    return "\n".join(lines)


def explain_file(location: Location, name: str, table: FileTable, expected: str) -> str:
    """What differs between the file and its table, in words; "" when nothing does or it cannot be
    read. ``expected`` is the sha256 (hex) of the file that the table is of."""
    try:
        file = OpenFile(location, name)
    except (CompsecError, OSError):
        return ""
    try:
        return _words(file.descriptor, table, expected)
    except OSError:
        return ""
    finally:
        file.close()


def _explained(problem: Problem, location: Location, tables: Tables) -> Problem:
    table = tables.get(problem.expected or "")
    if problem.kind != "changed" or table is None:
        return problem
    text = explain_file(location, problem.file, table, problem.expected or "")
    if not text:
        return problem
    return dataclasses.replace(problem, message=f"{problem.message}\n    {text}")


def _words(descriptor: int, table: FileTable, expected: str) -> str:
    size = os.fstat(descriptor).st_size
    if digest_between(descriptor, 0, size) == expected:
        return ""
    start, total = table.layout.data_start, len(table.layout.tensors)
    same_header = size >= start and digest_between(descriptor, 0, start) == table.header
    # With the header as it was, the places are; else it may have grown, or shrunk, by this much.
    shifts = {0} if same_header else {0, size - table.size, _start_said(descriptor) - start}
    by_shift = {shift: _differing(descriptor, size, table, shift) for shift in shifts}
    shift = min(shifts, key=lambda one: (len(by_shift[one]), abs(one)))
    changed = by_shift[shift]
    cut = [place.name for place in table.layout.tensors if place.end + shift > size]
    differing = [name for name in changed if name not in set(cut)]
    missing = table.size + shift - size
    parts = []
    if not same_header:
        parts.append(_OTHER_HEADER)
    if differing:
        parts.append(f"{len(differing)} of {total} tensors differ: {_names(differing)}")
    if missing > 0:
        parts.append(f"truncated, {missing} bytes are missing")
    if cut:
        parts.append(f"{len(cut)} of {total} tensors are cut off: {_names(cut)}")
    if missing < 0:
        parts.append(f"{-missing} extra bytes follow")
    if not changed:
        there = f"the pinned bytes of all {total} tensors are there"
        parts.append("no tensor differs" if same_header else there)
    if same_header and not changed and missing == 0:
        parts.append("bytes between the tensors do")
    return "; ".join(parts)


def _differing(descriptor: int, size: int, table: FileTable, shift: int) -> list[str]:
    """The tensors whose bytes are others, or not there, at their places moved by ``shift``."""
    return [
        place.name
        for place in table.layout.tensors
        if place.start + shift < 0
        or place.end + shift > size
        or digest_between(descriptor, place.start + shift, place.end + shift)
        != table.digests[place.name]
    ]


def _start_said(descriptor: int) -> int:
    """Where the data begin, if this is a safetensors file that says so truly."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    return 8 + int.from_bytes(os.read(descriptor, 8), "little")


def _names(names: list[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
