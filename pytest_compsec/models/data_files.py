"""The data files that a config offers: the built-in ones and the user's own."""

from __future__ import annotations

from pytest_compsec.config.data_files import BUILTIN_DATA
from pytest_compsec.config.loading import LoadedConfig
from pytest_compsec.config.source_text import path_of
from pytest_compsec.data import DataFile, read_builtin_data
from pytest_compsec.errors import ConfigError, IntegrityError
from pytest_compsec.models.lock import DataPin, Lock

#: Version of a user's own file, as of a user's own prompts.
OWN = "file"


def data_names(loaded: LoadedConfig) -> tuple[str, ...]:
    """Built-in names first, then the config's."""
    return (*BUILTIN_DATA, *loaded.config.data)


def read_data(loaded: LoadedConfig, name: str) -> DataFile:
    """Read a data file, not yet compared with a lock. Raises ConfigError where there is none."""
    entry = loaded.config.data.get(name)
    if entry is None:
        if name in BUILTIN_DATA:
            return read_builtin_data(name)
        known = ", ".join(data_names(loaded))
        raise ConfigError(
            f"{loaded.path}: there is no {name!r} under 'data'; known: {known}. Name a file with "
            f"`data: {{{name}: {{file: ./FILE}}}}` and run `compsec pin`"
        )
    path = path_of(entry.file, loaded.root)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{loaded.where('data', name)}: {entry.file!r} cannot be read ({error.strerror})"
        ) from None
    return DataFile(name, entry.file, path.suffix.lower(), OWN, content)


def pin_of(data: DataFile) -> DataPin:
    """How the lock pins these bytes."""
    return DataPin(data.version, data.sha256, len(data.content))


def read_pinned_data(loaded: LoadedConfig, lock: Lock, name: str) -> DataFile:
    """Read a data file whose bytes are the pinned ones.

    Raises ConfigError for an unknown name, IntegrityError where the lock pins other bytes or none.
    """
    # Read once: what is parsed is what was hashed, whatever happens to the file meanwhile.
    data = read_data(loaded, name)
    pin, again = lock.data.get(name), "Run `compsec pin` and review what it changes"
    if pin is None:
        raise IntegrityError(f"the data {name!r} are not in the lock. {again}")
    found = pin_of(data)
    if found != pin:
        raise IntegrityError(
            f"the data {name!r} ({data.source}) are not what the lock pins\n"
            f"    locked sha256 {pin.sha256} (version {pin.version}, {pin.size} bytes)\n"
            f"    found  sha256 {found.sha256} (version {found.version}, {found.size} bytes)\n"
            f"{again}"
        )
    return data
