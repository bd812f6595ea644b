"""Files of a config that are no model directory: weights of a Python module, its code, samples.

Each becomes a :class:`Location` that names its files one by one; whatever else lies beside them is
not looked at, and what is staged holds nothing else.
"""

from __future__ import annotations

from pathlib import Path

from pytest_compsec.config.source_text import PYTHON_PREFIX, is_file, path_of
from pytest_compsec.errors import ConfigError
from pytest_compsec.models.listing import Location
from pytest_compsec.models.lock import SourcePin


def file_location(text: str, root: Path) -> Location:
    """Where one file is. Relative paths start from ``root``. Raises ConfigError for no file."""
    path = path_of(text, root)
    if not is_file(path):
        raise ConfigError(
            f"{text}: there is no such file ({path}). Paths in compsec.yaml are relative to the "
            "directory that holds it"
        )
    return Location(text, path.parent.resolve(), names=(path.name,))


def code_location(source: str, root: Path, names: tuple[str, ...]) -> Location:
    """Where the local files of a Python function are; ``names`` are relative to ``root``."""
    return Location(source, root.resolve(), names=names, code=True)


def pinned_location(pin: SourcePin, root: Path) -> Location:
    """Where the files of such a pin are now."""
    if pin.source.startswith(PYTHON_PREFIX):
        return code_location(pin.source, root, tuple(file.name for file in pin.files))
    return file_location(pin.source, root)
