"""Where a test is written: its file and line, for tools that show findings beside the code."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Location:
    """``path`` with forward slashes, from the root of the repository where there is one (the folder
    that holds ``.git``), else from the root of the run. ``line`` is 1 where it is not known."""

    path: str
    line: int


def location_of(test: str, directory: Path, command: Sequence[str] = ()) -> Location:
    """Of a test id ``folder/test_x.py::TestClass::test_y[parameter]``, which is relative to the
    root of the run: ``directory``, where pytest was started, a folder above it, or one that
    ``command`` names. The file is read as text and never imported."""
    path, *names = test.partition("[")[0].split("::")
    for root in _roots(directory, command):
        file = root / path
        if path and file.is_file():
            return Location(_from_repository(file, path), _line(file, names))
    return Location(path, 1)


def _roots(directory: Path, command: Sequence[str]) -> Iterator[Path]:
    yield directory
    yield from directory.parents
    for argument in command:
        named = directory / argument.partition("::")[0]
        if not argument.startswith("-") and named.exists():
            yield from (named, *named.parents)


def _from_repository(file: Path, path: str) -> str:
    # Not resolved: a link to a test is shown where the repository has the link.
    for folder in file.absolute().parents:
        if (folder / ".git").exists():
            return file.absolute().relative_to(folder).as_posix()
    return path


def _line(file: Path, names: list[str]) -> int:
    """Of the innermost of ``names`` that the file defines: a method may be inherited."""
    try:
        body: list[ast.stmt] = ast.parse(file.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return 1
    line = 1
    for name in names:
        found = _definition(body, name)
        if found is None:
            break
        line, body = found.lineno, found.body
    return line


def _definition(
    body: list[ast.stmt], name: str
) -> ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | None:
    """The last one of that name, as Python has it; also below ``if`` and ``with``."""
    found = None
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if statement.name == name:
                found = statement
        elif isinstance(statement, (ast.If, ast.With, ast.Try)):
            found = _definition(statement.body, name) or found
    return found
