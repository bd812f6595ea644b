"""Rows to a prompt set: the rules that hold for every file, whatever its format.

No empty prompt, no id twice, no prompt twice. A repeated prompt would be counted as a second,
independent observation and make every interval narrower than the evidence allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from .model import Prompt, PromptSet, make_prompt_set
from .tables import Row, input_error

Duplicates = Literal["error", "drop"]

UNCATEGORIZED = "uncategorized"


@dataclass(frozen=True)
class Entry:
    """A prompt on its way into a set. ``id`` None: derive one. ``category`` may be empty."""

    line: int
    id: str | None
    text: str
    category: str
    refusal_keywords: tuple[str, ...] = ()


def text_of(row: Row, column: str, label: str) -> str:
    """The prompt in ``column`` of ``row``, without surrounding white space.

    Raises:
        ConfigError: the column is missing (the message lists those found), is not text, or empty.
    """
    if column not in row.values:
        raise input_error(label, row.line, missing_column(column, row.values))
    value = row.values[column]
    if not isinstance(value, str):
        raise input_error(
            label, row.line, f"the column {column!r} holds {type(value).__name__}, not text."
        )
    if not value.strip():
        raise input_error(
            label,
            row.line,
            f"the prompt in column {column!r} is empty. Fill it or delete it.",
        )
    return value.strip()


def label_of(row: Row, column: str | None, label: str) -> str:
    """An id, a category or a class in ``column`` of ``row``; empty where there is none.

    Raises:
        ConfigError: the value is neither text nor a whole number.
    """
    value = None if column is None else row.values.get(column)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise input_error(
            label,
            row.line,
            f"the column {column!r} holds {type(value).__name__}; write text or a whole number.",
        )
    return str(value).strip()


def keywords_of(row: Row, column: str, label: str) -> tuple[str, ...]:
    """The phrases in ``column`` of ``row``: a list of texts, or one text with ``|`` between them.

    Raises:
        ConfigError: the value is something else, or a phrase holds no letter or digit.
    """
    value = row.values.get(column)
    if value is None:
        return ()
    phrases = value.split("|") if isinstance(value, str) else value
    if not isinstance(phrases, list) or not all(isinstance(item, str) for item in phrases):
        raise input_error(
            label,
            row.line,
            f"the column {column!r} must hold phrases: a list of texts, or text with '|' between.",
        )
    stripped = [phrase.strip() for phrase in phrases]
    if stripped == [""]:
        return ()
    for phrase in stripped:
        if not any(char.isalnum() for char in phrase):
            raise input_error(
                label,
                row.line,
                f"the phrase {phrase!r} in the column {column!r} holds no letter or digit.",
            )
    return tuple(stripped)


def missing_column(column: str, found: Iterable[str]) -> str:
    """The message for a column that is not there."""
    listed = ", ".join(repr(name) for name in found) or "none"
    return (
        f"no column {column!r}; the columns found are {listed}. "
        "Rename one, or say which one to read, like fields={'prompt': 'question'}."
    )


def assemble(
    entries: Sequence[Entry],
    *,
    name: str,
    label: str,
    version: str = "file",
    duplicates: Duplicates = "error",
) -> PromptSet:
    """The set ``name`` of ``entries``, which were read from the file ``label``.

    Ids that the file lacks are derived from the row's place: ``<name>-0001``. Texts count as
    duplicates when they differ in case or spacing alone; ``duplicates="drop"`` keeps the first.

    Raises:
        ConfigError: two rows with one id, or with one text unless these are dropped.
    """
    prompts: list[Prompt] = []
    line_of_id: dict[str, int] = {}
    line_of_text: dict[str, int] = {}
    for number, entry in enumerate(entries, start=1):
        key = " ".join(entry.text.casefold().split())
        if key in line_of_text:
            if duplicates == "drop":
                continue
            raise input_error(
                label,
                entry.line,
                f"the same prompt as on line {line_of_text[key]}: {_short(entry.text)!r}. Delete "
                "one of them: a repeated prompt would be counted as independent evidence twice "
                "(or load with duplicates='drop').",
            )
        identifier = entry.id or f"{name}-{number:04d}"
        if identifier in line_of_id:
            raise input_error(
                label,
                entry.line,
                f"the id {identifier!r} is already used on line {line_of_id[identifier]}. "
                "Give every prompt its own id.",
            )
        line_of_text[key] = entry.line
        line_of_id[identifier] = entry.line
        category = entry.category or UNCATEGORIZED
        prompts.append(Prompt(identifier, entry.text, category, entry.refusal_keywords))
    return make_prompt_set(name, version, prompts, source=label)


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
