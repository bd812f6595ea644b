"""A user's own prompts: JSONL, JSON array, CSV, TSV or plain text, with a field mapping."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pytest_compsec.errors import ConfigError

from .assemble import Duplicates, Entry, assemble, keywords_of, label_of, missing_column, text_of
from .model import PromptSet
from .tables import Row, input_error, read_rows

_DEFAULT_FIELDS: Mapping[str, str] = {
    name: name for name in ("prompt", "id", "category", "refusal_keywords")
}


def load_file(
    path: str | os.PathLike[str],
    *,
    name: str,
    fields: Mapping[str, str] | None = None,
    duplicates: Duplicates = "error",
) -> PromptSet:
    """The prompts of the file at ``path`` as the set ``name``.

    Formats by suffix: ``.jsonl``/``.ndjson`` (an object a line), ``.json`` (an array of objects or
    strings), ``.csv`` and ``.tsv`` (with a header), ``.txt`` (a prompt a line; blank lines and
    lines that begin with ``#`` are skipped). The encoding is UTF-8.

    Args:
        path: the file.
        name: the name of the set; ids that the file lacks become ``<name>-0001`` and so on.
        fields: for each of ``prompt``, ``id``, ``category``, ``refusal_keywords`` the column to
            read, where it has another name. A column named here must exist.
        duplicates: ``"error"``, or ``"drop"`` to keep the first of equal prompts.

    Raises:
        ConfigError: ``file:line: message`` for a missing file, bytes that are not UTF-8, an empty
            file, a missing column, a malformed row, an empty prompt, a repeated id or prompt.
    """
    file = Path(path)
    return prompts_from_rows(
        read_rows(file), label=str(file), name=name, fields=fields, duplicates=duplicates
    )


def prompts_from_rows(
    rows: list[Row],
    *,
    label: str,
    name: str,
    fields: Mapping[str, str] | None = None,
    duplicates: Duplicates = "error",
    version: str = "file",
) -> PromptSet:
    """:func:`load_file` on rows already read from the file known as ``label``."""
    given = dict(fields or {})
    unknown = sorted(set(given) - set(_DEFAULT_FIELDS))
    if unknown:
        raise ConfigError(
            f"{label}: unknown key {unknown[0]!r} in the field mapping. "
            f"Its keys are {', '.join(map(repr, _DEFAULT_FIELDS))}."
        )
    columns = list(dict.fromkeys(column for row in rows for column in row.values))
    for column in given.values():
        if column not in columns:
            raise input_error(label, rows[0].line, missing_column(column, columns))
    chosen = {**_DEFAULT_FIELDS, **given}
    entries = [
        Entry(
            line=row.line,
            id=label_of(row, chosen["id"], label) or None,
            text=text_of(row, chosen["prompt"], label),
            category=label_of(row, chosen["category"], label),
            refusal_keywords=keywords_of(row, chosen["refusal_keywords"], label),
        )
        for row in rows
    ]
    return assemble(entries, name=name, label=label, version=version, duplicates=duplicates)
