"""From the text of a source to the place where its files are, without opening any of them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
from pathlib import Path, PurePosixPath

from pytest_compsec.config.schema import SourceEntry
from pytest_compsec.config.source_text import PACKAGE_PREFIX, is_file, package_path, path_of
from pytest_compsec.errors import ConfigError
from pytest_compsec.models.integrity import local_location
from pytest_compsec.models.listing import IGNORED, Location
from pytest_compsec.models.lock import SourcePin


def locate(entry: SourceEntry, root: Path, pin: SourcePin) -> Location:
    """Where a pinned source is. A hub source that is not in the local cache is downloaded, at the
    pinned commit and only the pinned names.

    Raises ConfigError when there is nothing; CompsecError when the hub cannot be reached.
    """
    text = entry.classified(root)
    if text.kind == "hub":
        from pytest_compsec.models.hub import pinned_snapshot

        if pin.commit is None:
            raise ConfigError(
                f"{entry.source}: its pin has no commit. Run `compsec pin` and review the change"
            )
        names = [file.name for file in pin.files]
        return pinned_snapshot(entry.source, text.location, pin.commit, names, text.file)
    return locate_local(entry.source, root)


def locate_local(source: str, root: Path, *, adapter: bool = False) -> Location:
    """Where a path or ``pkg:`` source (or adapter) is. Relative paths start from ``root``."""
    if source.startswith(PACKAGE_PREFIX):
        path = find_in_package(source)
    else:
        path = path_of(source, root)
    if not (is_file(path) or path.is_dir()):
        kind = "adapter directory" if adapter else "model"
        raise ConfigError(
            f"{source}: there is no such {kind} ({path}). Paths in compsec.yaml are relative to "
            "the directory that holds it"
        )
    if adapter and not path.is_dir():
        raise ConfigError(f"{source}: is no directory; name the directory that holds the adapter")
    if path.is_file() and path.suffix.lower() != ".gguf":
        raise ConfigError(f"{source}: is one file and no .gguf; name the model's directory instead")
    location = local_location(path, adapter=adapter)
    return Location(
        label=source,
        directory=location.directory,
        only=location.only,
        adapter=adapter,
        pass_over=() if source.startswith(PACKAGE_PREFIX) else location.pass_over,
    )


def find_in_package(source: str) -> Path:
    """The file or directory that ``pkg:package/path`` names. The package is never imported.

    ``package`` is the import name or the distribution's name. Raises ConfigError when the package
    is not installed, when it ships no such path, or when the path leaves the package.
    """
    try:
        package, _, inside = package_path(source).partition("/")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    folders = _package_folders(package)
    if not folders:
        raise ConfigError(
            f"{source}: the package {package!r} is not installed. Install it with: "
            f"pip install {package.replace('_', '-')}"
        )
    for folder in folders:
        path = folder / PurePosixPath(inside)
        if path.exists():
            if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
                raise ConfigError(f"{source}: leads out of the package {package!r}")
            return path
    raise ConfigError(
        f"{source}: the installed package {package!r} ({folders[0]}) has no {inside!r}. Another "
        "version of the package may have it"
    )


def _package_folders(package: str) -> list[Path]:
    """Directories of an installed package, found through its metadata, then through the import
    system's finders (editable installs); neither runs code of the package."""
    folders: list[Path] = []
    try:
        distribution = importlib.metadata.distribution(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        names = importlib.metadata.packages_distributions().get(package, [])
        distributions = [importlib.metadata.distribution(name) for name in dict.fromkeys(names)]
    else:
        distributions = [distribution]
    for distribution in distributions:
        for name in _top_level_names(distribution, package):
            folders.append(Path(str(distribution.locate_file(name))))
    if re.fullmatch(r"[A-Za-z_]\w*", package):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            folders += [Path(location) for location in spec.submodule_search_locations]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _top_level_names(distribution: importlib.metadata.Distribution, package: str) -> list[str]:
    names = [package, package.replace("-", "_")]
    names += (distribution.read_text("top_level.txt") or "").split()
    return list(dict.fromkeys(names))


__all__ = ["IGNORED", "Location", "find_in_package", "locate", "locate_local"]
