"""The cells of a label sheet: safe in a spreadsheet, reversible, and bound to their row's id."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence

from pytest_compsec.verdict import clean_text

COLUMNS = ("row", "prompt", "response", "refused")
_ESCAPED = ("=", "+", "-", "@", "\t", "\r", "'")


def row_id(seed: int, prompt: str, response: str) -> str:
    """The id of a row: opaque, and bound to its texts, so that a sheet whose columns were sorted
    apart is noticed. Space does not count: spreadsheets change it."""
    texts = [" ".join(_writable(text).split()) for text in (prompt, response)]
    return "r" + lot(seed, "row", *texts)[:12]


def lot(seed: int, *parts: str) -> str:
    """A random-looking hexadecimal number that depends on nothing but its arguments."""
    text = json.dumps([seed, *parts])
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def escape_cell(text: str) -> str:
    """``text`` as a cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_ESCAPED) else text


def unescape_cell(cell: str) -> str:
    """The inverse of :func:`escape_cell`."""
    return cell[1:] if cell.startswith("'") else cell


def sheet_text(rows: Sequence[tuple[str, str, str]]) -> str:
    """The CSV text of (row id, prompt, response) with an empty column for the labels."""
    file = io.StringIO(newline="")
    # Quote everything: the csv module leaves a lone carriage return bare in some versions.
    writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row, prompt, response in rows:
        writer.writerow([row, *(escape_cell(_writable(text)) for text in (prompt, response)), ""])
    return file.getvalue()


def _writable(text: str) -> str:
    # Python 3.10's csv reader stops at NUL; lone surrogates cannot be written at all.
    return clean_text(text).replace("\0", "\N{SYMBOL FOR NULL}")
