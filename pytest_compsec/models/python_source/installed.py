"""What of Python's modules is installed: the standard library and distributions in site-packages.

Answered from names and files alone; nothing is imported. (``importlib.util.find_spec("a.b")``
would import ``a``.) An editable install is not installed in this sense: its files lie elsewhere and
change without its version changing.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import site
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

OWN_PACKAGE = "pytest_compsec"
_OWN_DISTRIBUTION = "pytest-compsec"
_OWN_FOLDER = Path(__file__).resolve().parents[2]
_SITE_NAMES = frozenset({"site-packages", "dist-packages"})
_COMPILED = (".so", ".pyd")


def is_standard(top: str) -> bool:
    """Whether a top-level name belongs to the standard library."""
    return top in sys.stdlib_module_names or top in sys.builtin_module_names


def site_directories() -> tuple[Path, ...]:
    """The existing directories into which distributions are installed, in the order of import."""
    found = [entry for entry in sys.path if Path(entry).name in _SITE_NAMES]
    found += [sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]]
    if site.ENABLE_USER_SITE:
        found.append(site.getusersitepackages())
    return tuple(path for path in map(Path, dict.fromkeys(found)) if path.is_dir())


def find_module(module: str) -> tuple[Path, str] | None:
    """The site directory of an installed module and its file, relative to that. A package without
    ``__init__.py`` (a namespace) gives its directory."""
    for directory in site_directories():
        inside = _inside(directory, module.replace(".", "/"))
        if inside is not None and lies_in_installed(directory / inside):
            return directory, inside
    return None


def _inside(directory: Path, stem: str) -> str | None:
    for candidate in (f"{stem}/__init__.py", f"{stem}.py"):
        if (directory / candidate).is_file():
            return candidate
    folder, name = (directory / stem).parent, Path(stem).name
    if folder.is_dir():
        for entry in sorted(folder.glob(f"{name}.*")):
            if entry.suffix in _COMPILED:
                return entry.relative_to(directory).as_posix()
    return stem if (directory / stem).is_dir() else None


def lies_in_installed(path: str | os.PathLike[str]) -> bool:
    """Whether a file really lies in the standard library, in a site directory or in this package,
    links followed."""
    real = Path(os.path.realpath(path))
    if _SITE_NAMES.intersection(real.parts) or real.is_relative_to(_OWN_FOLDER):
        return True
    paths = sysconfig.get_paths()
    directories = [Path(paths["stdlib"]), Path(paths["platstdlib"]), *site_directories()]
    return any(real.is_relative_to(os.path.realpath(directory)) for directory in directories)


def distribution_of(module: str) -> tuple[str, str] | None:
    """Name and version of the distribution that installed a module, or None.

    The records of installed files decide (two distributions may share a namespace package), then
    the distributions' lists of top-level names.
    """
    top = module.partition(".")[0]
    if top == OWN_PACKAGE:
        return _OWN_DISTRIBUTION, importlib.metadata.version(_OWN_DISTRIBUTION)
    found = find_module(module)
    if found is None:
        return None
    directory, inside = found
    pattern = re.compile(rf'^"?{re.escape(inside)}[",/]', re.MULTILINE)
    by_top: tuple[str, str] | None = None
    for distribution in importlib.metadata.distributions(path=[str(directory)]):
        identity = (str(distribution.metadata["Name"]), distribution.version)
        if pattern.search(distribution.read_text("RECORD") or ""):
            return identity
        if top in _top_level_names(distribution):
            by_top = by_top or identity
    return by_top


def _top_level_names(distribution: importlib.metadata.Distribution) -> Iterator[str]:
    yield from (distribution.read_text("top_level.txt") or "").split()
    # Distributions of Linux systems may carry no list of files at all.
    if not distribution.read_text("RECORD"):
        yield str(distribution.metadata["Name"]).replace("-", "_")


def is_installed(top: str) -> bool:
    """Whether a top-level name is this package or belongs to an installed distribution."""
    return top == OWN_PACKAGE or distribution_of(top) is not None


def why_not_installed(top: str) -> str:
    """The reason why a top-level name counts as not installed, for a message."""
    if find_module(top) is not None:
        return (
            f"{top!r} lies in site-packages and belongs to no installed distribution, so that no "
            "version says what it is"
        )
    for distribution in importlib.metadata.distributions():
        names = {str(distribution.metadata["Name"]).replace("-", "_").lower()}
        names.update((distribution.read_text("top_level.txt") or "").split())
        if top in names:
            return (
                f"{top!r} is an editable install, whose files can change while its version stays. "
                "Install it as a wheel (pip install PATH, without -e), or put its code there"
            )
    return f"no installed distribution has {top!r}"
