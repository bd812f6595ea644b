"""What ``pyproject.toml`` says, read as a user's installer would."""

from __future__ import annotations

import sys
from typing import Any

from tests.docs.fences import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(text: str) -> dict[str, Any]:
    """Raises ValueError for what is no TOML."""
    return tomllib.loads(text)


def extras() -> set[str]:
    """The names of all extras."""
    data = read_toml((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return set(data["project"]["optional-dependencies"])
