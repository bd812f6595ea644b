"""Frozen dataclasses out of the plain JSON that ``dataclasses.asdict`` made of them.

JSON has lists where the records have tuples, and text where they have enums; which is which is read
off the type hints. Keys that a record does not know are of a later minor version and are ignored.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

Record = TypeVar("Record")


def rebuilt(
    kind: type[Record], data: Mapping[str, Any], names: Mapping[str, Any] | None = None
) -> Record:
    """A ``kind`` out of ``data``; fields that are missing take their defaults. ``names`` are types
    in its hints that its own module does not import.

    Raises TypeError when a field without a default is missing.
    """
    hints = typing.get_type_hints(kind, localns=dict(names or {}))
    fields = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: _value(hints[name], data[name]) for name in fields if name in data})


def _value(hint: Any, value: Any) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if value is None:  # of JSON: it has no infinity and no "not a number"
        return math.nan if hint is float else None
    if origin in (typing.Union, types.UnionType):
        # Records are optional, never one of several kinds.
        records = [part for part in inner if dataclasses.is_dataclass(part)]
        others = [part for part in inner if typing.get_origin(part) is tuple]
        if records and isinstance(value, Mapping):
            return _value(records[0], value)
        return _value(others[0], value) if others and isinstance(value, list) else value
    if origin is tuple and isinstance(value, (list, tuple)):
        same = len(inner) == 2 and inner[1] is Ellipsis
        kinds = [inner[0]] * len(value) if same else list(inner)
        return tuple(_value(part, item) for part, item in zip(kinds, value, strict=True))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return rebuilt(hint, value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    return value
