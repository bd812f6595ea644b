"""Questions with a short exact answer, and texts for perplexity, out of data files."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from pytest_compsec.data.file import text_of, texts_of
from pytest_compsec.data.repeats import refuse_repeated
from pytest_compsec.errors import ConfigError

if TYPE_CHECKING:
    from pytest_compsec.data import DataFile


@dataclasses.dataclass(frozen=True)
class Question:
    """Any of ``accepted`` is right; :mod:`pytest_compsec.checks.capability.matching` says when."""

    id: str
    category: str
    text: str
    accepted: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Document:
    """One text for perplexity, an independent one: ``id`` for messages."""

    id: str
    text: str


def questions_of(file: DataFile) -> tuple[Question, ...]:
    """Rows ``{"question", "answers": [...]}``, with ``id`` and ``category`` where there are.

    Raises ConfigError with file and line for a row that lacks them, an answer without a letter or
    digit, and a question that is there twice: it would count as two samples.
    """
    from pytest_compsec.checks.capability.matching import words_of

    found: list[Question] = []
    where: list[str] = []
    for line, row in file.rows():
        question = text_of(row, "question", file.source, line)
        accepted = texts_of(row, "answers", file.source, line)
        empty = [one for one in accepted if not words_of(one)]
        if empty:
            raise ConfigError(
                f"{file.source}:{line}: the answer {empty[0]!r} has neither letter nor digit"
            )
        found.append(
            Question(
                _optional(row, "id", file, line) or f"line {line}",
                _optional(row, "category", file, line),
                question,
                accepted,
            )
        )
        where.append(f"{file.source}:{line}")
    names = [one.id for one in found]
    refuse_repeated([one.text for one in found], where, "question", names=names)
    return tuple(found)


def documents_of(file: DataFile) -> tuple[Document, ...]:
    """Rows ``{"text"}`` (with ``id`` where there is one), or of a ``.txt`` file the parts between
    blank lines.

    Raises ConfigError with file and line for a row without a text, a text that is there twice, and
    a file without any.
    """
    if file.suffix == ".txt":
        texts = [(line, "", text) for line, text in _parts(file.text())]
        if not texts:
            raise ConfigError(f"{file.source}:1: holds no text")
    else:
        texts = [
            (line, _optional(row, "id", file, line), text_of(row, "text", file.source, line))
            for line, row in file.rows()
        ]
    found = tuple(Document(name or f"line {line}", text) for line, name, text in texts)
    where = [f"{file.source}:{line}" for line, _, _ in texts]
    names = [one.id for one in found]
    refuse_repeated([one.text for one in found], where, "text", names=names)
    return found


def _parts(text: str) -> list[tuple[int, str]]:
    """The parts of a text between blank lines, each with its first line's number."""
    text = text.replace("\r\n", "\n")
    parts = []
    line, place = 1, 0
    for match in re.finditer(r"(?:^[^\S\n]*\S.*(?:\n|\Z))+", text, re.M):
        # From the last part on: a large file is not counted from its beginning for each part.
        line += text.count("\n", place, match.start())
        place = match.start()
        parts.append((line, match.group().strip()))
    return parts


def _optional(row: dict[str, object], key: str, file: DataFile, line: int) -> str:
    """The text under ``key``, empty where there is none. Raises ConfigError for anything else."""
    return "" if row.get(key) is None else text_of(row, key, file.source, line)
