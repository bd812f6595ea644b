"""Which files beside ``compsec.yaml`` the name of a module means; nothing is imported."""

from __future__ import annotations

import dataclasses
import os
import stat
from pathlib import Path, PurePosixPath

from pytest_compsec.errors import ConfigError

MAX_BYTES = 1024 * 1024
_COMPILED = (".so", ".pyd", ".pyc", ".pyo")


@dataclasses.dataclass(frozen=True)
class LocalModule:
    """A module below the root. ``files`` (relative POSIX names) are the ``__init__.py`` of its
    packages and its own file, which is missing when it is a directory without ``__init__.py``."""

    name: str
    files: tuple[str, ...]
    is_package: bool


class LocalFiles:
    """The Python files of one directory tree. ``root`` is the directory of ``compsec.yaml``."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))

    def resolve(self, module: str) -> LocalModule | None:
        """What an absolute name means here, or None.

        Raises ConfigError for links, compiled modules, and names that mean two files.
        """
        files: list[str] = []
        folder = PurePosixPath()
        parts = module.split(".")
        for depth, part in enumerate(parts):
            here = _entries(self.root / folder)
            inside = _entries(self.root / folder / part) if part in here else frozenset()
            package, single = "__init__.py" in inside, f"{part}.py" in here
            _refuse_compiled(folder, part, here)
            if package and single:
                raise ConfigError(
                    f"{folder / part}.py and {folder / part}/__init__.py are both the module "
                    f"{module!r}. Remove or rename one of them"
                )
            if single:
                self._require_plain(folder / f"{part}.py")
                files.append(f"{folder / part}.py")
                last = depth == len(parts) - 1
                return LocalModule(module, tuple(files), False) if last else None
            _refuse_compiled(folder / part, "__init__", inside)
            if not package and not _holds_python(self.root / folder / part, inside):
                return None
            folder = folder / part
            self._require_plain(folder, directory=True)
            if package:
                self._require_plain(folder / "__init__.py")
                files.append(f"{folder}/__init__.py")
        return LocalModule(module, tuple(files), True)

    def read(self, name: str) -> bytes:
        """The bytes of one file. Raises ConfigError when it cannot be read or is too large."""
        try:
            with (self.root / name).open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"{name}: cannot be read ({error.strerror})") from None
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{name}: is larger than {MAX_BYTES} bytes; is it a model's code?")
        return content

    def _require_plain(self, name: PurePosixPath, *, directory: bool = False) -> None:
        mode = (self.root / name).lstat().st_mode
        if stat.S_ISLNK(mode):
            target = os.path.realpath(self.root / name)
            raise ConfigError(
                f"{name}: is a link to {target!r}. Links are refused: put the file itself there"
            )
        if not (stat.S_ISDIR(mode) if directory else stat.S_ISREG(mode)):
            raise ConfigError(f"{name}: is no regular file and is never opened")


def _refuse_compiled(folder: PurePosixPath, stem: str, entries: frozenset[str]) -> None:
    for entry in sorted(entries):
        if entry.partition(".")[0] == stem and entry.endswith(_COMPILED):
            raise ConfigError(
                f"{folder / entry}: is a compiled module, which nobody can read or pin as source. "
                "Remove it, or ship it as an installed package"
            )


def _entries(folder: Path) -> frozenset[str]:
    # A listing, not a test for existence: file systems may ignore the case of names.
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208 - names alone
    except OSError:
        return frozenset()


def _holds_python(folder: Path, inside: frozenset[str]) -> bool:
    """Whether a directory without ``__init__.py`` can be a package at all: directories of data,
    which may carry any name, are none."""
    if any(entry.endswith(".py") for entry in inside):
        return True
    return any(
        name.endswith(".py")
        for entry in inside
        if entry.isidentifier()
        for name in _entries(folder / entry)
    )
