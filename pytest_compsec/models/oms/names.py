"""Names in a signature become paths, so they are checked like input from outside."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from pytest_compsec.models.listing import printable

_DRIVE = re.compile(r"[A-Za-z]:")


def name_problem(name: str) -> str | None:
    """Why ``name`` is no plain relative POSIX path inside a directory; None when it is one."""
    shown = printable(name)
    path = PurePosixPath(name)
    if not name:
        return "the name is empty"
    if not name.isprintable():
        # Also spaces that look like others (U+00A0, U+3000): they would be mistaken for another.
        return f"the name '{shown}' holds control characters or unusual spaces"
    if "\\" in name:
        return f"the name {shown!r} holds a backslash, which is a separator on some systems"
    if _DRIVE.match(name) is not None:
        return f"the name {shown!r} begins like a drive of Windows, which leads elsewhere there"
    if path.is_absolute():
        return f"the name {shown!r} is absolute and leads out of the model's directory"
    if ".." in path.parts:
        return f"the name {shown!r} leads out of the model's directory"
    if path.as_posix() != name or name == ".":
        return f"the name {shown!r} is not in its plain form ({path.as_posix()!r})"
    return None
