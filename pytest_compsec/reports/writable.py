"""Data that every reader of JSON takes: without lone surrogates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_compsec.verdict import clean_text


def writable(value: Any) -> Any:
    """``value`` with its lone surrogates escaped, as those of the results are: an argument or a
    file name may hold bytes that are no text, and most readers of JSON refuse them."""
    if isinstance(value, Mapping):
        return {clean_text(str(key)): writable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [writable(item) for item in value]
    return clean_text(value) if isinstance(value, str) else value
