"""The package's own data files, compared with the digests that the package records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_compsec.data.file import DataFile
from pytest_compsec.errors import ConfigError, IntegrityError

INDEX = "index.json"


@dataclass(frozen=True)
class DataIndexEntry:
    """What ``index.json`` says of one file; ``sha256`` (hex) of its bytes."""

    version: str
    file: str
    description: str
    sha256: str
    count: int


def builtin_data_names() -> tuple[str, ...]:
    """The names that :func:`read_builtin_data` knows, sorted."""
    return tuple(sorted(read_data_index()))


def read_data_index() -> Mapping[str, DataIndexEntry]:
    """``index.json``: name to entry."""
    raw = json.loads(_directory().joinpath(INDEX).read_text(encoding="utf-8"))
    return {name: DataIndexEntry(**entry) for name, entry in raw.items()}


def read_builtin_data(name: str) -> DataFile:
    """The built-in data ``name``.

    Raises ConfigError where there is none, IntegrityError where its bytes are not those that
    ``index.json`` records.
    """
    index = read_data_index()
    if name not in index:
        raise ConfigError(f"no built-in data {name!r}; built in: {', '.join(sorted(index))}")
    entry = index[name]
    try:
        content = _directory().joinpath(entry.file).read_bytes()
    except OSError as error:
        raise IntegrityError(
            f"built-in data {name!r}: {entry.file} cannot be read ({error.strerror}). Reinstall "
            "pytest-compsec"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != entry.sha256:
        raise IntegrityError(
            f"built-in data {name!r} (version {entry.version}): {entry.file} has the sha256 "
            f"{found}, {INDEX} records {entry.sha256}. The installed package was changed: "
            "reinstall pytest-compsec, and put data of your own in a file of its own"
        )
    suffix = Path(entry.file).suffix
    return DataFile(name, f"builtin:{name}", suffix, entry.version, content)


def _directory() -> Path:
    return Path(__file__).parent
