"""Files to rows: JSONL, JSON array, CSV, TSV and plain text, each row with its line number.

This module knows formats and nothing of prompts. Every fault in the input is a
:class:`~pytest_compsec.errors.ConfigError` that begins ``file:line:``.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_compsec.errors import ConfigError

_JSON_SPACE = " \t\r\n"


@dataclass(frozen=True)
class Row:
    """One record: the line it begins on (1-based) and its values by column name."""

    line: int
    values: Mapping[str, object]


def input_error(label: str, line: int, message: str) -> ConfigError:
    """The error for line ``line`` of the file that the user knows as ``label``."""
    return ConfigError(f"{label}:{line}: {message}")


def read_rows(path: Path) -> list[Row]:
    """Rows of the file at ``path``; the suffix says the format.

    Raises:
        ConfigError: the file is missing or unreadable, its suffix is unknown, or see
            :func:`parse_rows`.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file. Check the path of the prompt set.") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory; name one prompt file in it.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error
    return parse_rows(data, suffix=path.suffix, label=str(path))


def parse_rows(data: bytes, *, suffix: str, label: str) -> list[Row]:
    """Rows of ``data`` in the format that ``suffix`` (``.jsonl``, ``.csv``, ...) names.

    Plain text gives one column, ``prompt``.

    Raises:
        ConfigError: unknown suffix, bytes that are not UTF-8, a malformed record, a row with
            another number of fields than the header, or no row at all.
    """
    parser = _PARSERS.get(suffix.lower())
    if parser is None:
        known = ", ".join(sorted(_PARSERS))
        raise ConfigError(
            f"{label}: unknown kind of prompt file {suffix or '(no suffix)'!r}. Use one of {known}."
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise input_error(
            label, line, f"byte 0x{data[error.start]:02x} is not UTF-8. Save the file as UTF-8."
        ) from None
    rows = parser(text, label)
    if not rows:
        raise input_error(label, 1, "the file holds no prompts. Add at least one.")
    return rows


def _parse_text(text: str, label: str) -> list[Row]:
    stripped = ((number, line.strip()) for number, line in enumerate(text.split("\n"), start=1))
    return [
        Row(number, {"prompt": line})
        for number, line in stripped
        if line and not line.startswith("#")
    ]


def _parse_jsonl(text: str, label: str) -> list[Row]:
    rows = []
    # Not splitlines(): U+2028 and its kin are legal inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise input_error(
                label, number, f"not valid JSON ({error.msg}). Write one JSON object a line."
            ) from None
        rows.append(Row(number, _json_object(value, label, number)))
    return rows


def _parse_json(text: str, label: str) -> list[Row]:
    """Items of a JSON array, one by one so that each keeps its own line number."""
    decoder = json.JSONDecoder()
    position = _skip_space(text, 0)
    if text[position : position + 1] != "[":
        raise input_error(
            label,
            _line_of(text, position),
            "expected a JSON array of prompts ('[...]'). For one object a line, name it .jsonl.",
        )
    rows: list[Row] = []
    position = _skip_space(text, position + 1)
    if text[position : position + 1] == "]":
        return rows
    while True:
        line = _line_of(text, position)
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise input_error(label, error.lineno, f"not valid JSON ({error.msg}).") from None
        record = {"prompt": value} if isinstance(value, str) else _json_object(value, label, line)
        rows.append(Row(line, record))
        position = _skip_space(text, position)
        separator = text[position : position + 1]
        line = _line_of(text, position)
        position = _skip_space(text, position + 1)
        if separator == "]":
            break
        if separator != ",":
            raise input_error(label, line, "not valid JSON (expected ',' or ']' after an item).")
    if position < len(text):
        raise input_error(label, _line_of(text, position), "text after the end of the JSON array.")
    return rows


def _json_object(value: object, label: str, line: int) -> dict[str, object]:
    if not isinstance(value, dict):
        raise input_error(
            label, line, f'expected an object like {{"prompt": "..."}}, found {_kind(value)}.'
        )
    return value


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {
        bool: "true/false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
    }
    return names.get(type(value), type(value).__name__)


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in _JSON_SPACE:
        position += 1
    return position


def _line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _parse_csv(text: str, label: str) -> list[Row]:
    return _parse_delimited(text, label, delimiter=",")


def _parse_tsv(text: str, label: str) -> list[Row]:
    return _parse_delimited(text, label, delimiter="\t")


def _parse_delimited(text: str, label: str, *, delimiter: str) -> list[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    rows = []
    line = 1
    try:
        for record in reader:
            # A quoted field may span lines: a record begins where the one before it ended.
            begins, line = line, reader.line_num + 1
            if not record:
                continue
            if header is None:
                header = _header(record, label, begins)
                continue
            if len(record) != len(header):
                raise input_error(
                    label,
                    begins,
                    f"{len(record)} fields where the header has {len(header)} "
                    f"({', '.join(header)}). Put fields that hold {delimiter!r} in double quotes.",
                )
            rows.append(Row(begins, dict(zip(header, record, strict=True))))
    except csv.Error as error:
        raise input_error(
            label, line, f"malformed record ({error}). Check its double quotes."
        ) from None
    return rows


def _header(record: list[str], label: str, line: int) -> list[str]:
    names = [name.strip() for name in record]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise input_error(
            label, line, f"the header names the column {twice[0]!r} twice. Rename one of them."
        )
    return names


_PARSERS: Mapping[str, Callable[[str, str], list[Row]]] = {
    ".jsonl": _parse_jsonl,
    ".ndjson": _parse_jsonl,
    ".json": _parse_json,
    ".csv": _parse_csv,
    ".tsv": _parse_tsv,
    ".txt": _parse_text,
}
