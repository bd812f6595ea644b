"""Validation that the arguments of several markers share. Errors are ValueError, in plain words."""

from __future__ import annotations

from collections.abc import Sequence


def require_share(name: str, value: object, *, allow_zero: bool = False) -> float:
    """A float in (0, 1), or [0, 1) with ``allow_zero``. Percentages are a frequent slip."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name}={value!r} must be a number such as 0.02")
    if not (0 < value < 1 or (allow_zero and value == 0)):
        hint = ""
        if 1 <= value <= 100:
            hint = f" (a share, not per cent: write {name}={value / 100:g})"
        raise ValueError(f"{name}={value!r} must be greater than 0 and less than 1{hint}")
    return float(value)


def require_confidence(value: object) -> float:
    """Confidence of the one-sided decisions, in (0.5, 1)."""
    share = require_share("confidence", value)
    if share <= 0.5:
        raise ValueError(f"confidence={value!r} must be greater than 0.5, usually 0.95")
    return share


def require_name(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}={value!r} must be the name of a prompt set")
    return value


def require_data_name(name: str, value: object) -> str:
    """The name of built-in data or of an entry under ``data`` in ``compsec.yaml``."""
    if not isinstance(value, str) or not value:
        raise ValueError(
            f"{name}={value!r} must be the name of data: built in, or under 'data' of compsec.yaml"
        )
    return value


def optional_data_name(name: str, value: object) -> str | None:
    """As :func:`require_data_name`, or None, which leaves that part out."""
    return None if value is None else require_data_name(name, value)


def require_names(name: str, value: object) -> tuple[str, ...] | None:
    """None (all), one name, or a sequence of names."""
    if value is None:
        return None
    if isinstance(value, str):
        return (value,)
    if (
        not isinstance(value, Sequence)
        or not value
        or not all(isinstance(item, str) for item in value)
    ):
        raise ValueError(f"{name}={value!r} must be a name or a list of names")
    return tuple(value)
