"""Whether the weights in the files are exactly those that an architecture needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pytest_compsec.errors import LoadError

_NAMES_SHOWN = 5


def check_complete(name: str, info: Mapping[str, Collection[Any]]) -> None:
    """Nothing may be initialized at random, dropped or reshaped (tied weights are not missing).

    ``info`` is transformers' loading information. Raises LoadError that begins with ``name``.
    """
    problems = [
        f"{label}: {some(info[key])}"
        for key, label in (
            ("missing_keys", "not in the files, so they would be random"),
            ("mismatched_keys", "of another shape than the architecture has"),
            ("unexpected_keys", "in the files, but unknown to the architecture"),
            ("error_msgs", "errors"),
        )
        if info.get(key)
    ]
    if problems:
        raise LoadError(
            f"{name}: the weights do not fit the architecture in config.json. "
            + "; ".join(problems)
            + ". Fetch or save the model again, complete, then run `compsec pin`"
        )


def some(values: Iterable[Any]) -> str:
    """The first few names in order, and how many more there are."""
    names = sorted(str(value[0]) if isinstance(value, tuple) else str(value) for value in values)
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
