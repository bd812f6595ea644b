"""Small pieces of Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence

_ROLE = re.compile(r":(?:class|func|data|mod|meth|attr|exc|py:\w+):`~?([^`]+)`")


def plain_roles(text: str) -> str:
    """Cross references of reStructuredText as code, by their last name."""
    return _ROLE.sub(lambda match: f"`{match[1].rpartition('.')[2]}`", text)


def prose(docstring: str | None) -> str:
    """A docstring as Markdown."""
    return plain_roles(inspect.cleandoc(docstring or "")).replace("``", "`")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, with what would end a cell escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """Text as inline code; none for an empty text."""
    return f"`{text}`" if text else ""


def upper_first(text: str) -> str:
    """With a capital at its beginning; names inside keep theirs."""
    return text[:1].upper() + text[1:]
