"""Every local file that a factory's module needs, found by reading the code and running none of it.

An import either leads to a file beside ``compsec.yaml``, which is pinned and read in turn, or to
the standard library or an installed distribution; anything else is refused, and so is a name that
could mean both.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path

from pytest_compsec.errors import ConfigError
from pytest_compsec.models.identity import DISTRIBUTIONS
from pytest_compsec.models.python_source.dynamic import (
    refused_constructs,
    top_level_names,
    without_type_checking,
)
from pytest_compsec.models.python_source.installed import (
    distribution_of,
    find_module,
    is_installed,
    is_standard,
    why_not_installed,
)
from pytest_compsec.models.python_source.local_files import LocalFiles, LocalModule
from pytest_compsec.models.python_source.text import PythonName, parse_python_source

MAX_FILES = 200
_RUN_ON = frozenset({"numpy", "pytest-compsec", *(name.lower() for name in DISTRIBUTIONS)})


def code_files(source: str, root: Path) -> tuple[str, ...]:
    """Relative POSIX names, sorted, of every local file that ``python:module:factory`` needs.

    ``root`` is the directory of ``compsec.yaml``. Empty when the factory is in an installed package
    (see :func:`installed_distribution`). Raises ConfigError, beginning with ``file:line:`` where
    there is one, for whatever cannot be pinned. Nothing is imported.
    """
    name = _parse(source)
    walk = _Walk(LocalFiles(root))
    if not walk.is_local(name.module, source):
        installed_distribution(source, root)
        return ()
    walk.add(name.module, source)
    names = walk.run()
    _require_factory(name, source, walk)
    return names


def imported_distributions(source: str, root: Path) -> dict[str, str]:
    """Name and version of every installed distribution that the local files of a factory import by
    name: another version of it may be another model. Those that every model runs on (torch, NumPy,
    transformers and their like) are left out, as for models that are files.

    Raises as :func:`code_files` does.
    """
    name = _parse(source)
    walk = _Walk(LocalFiles(root))
    walk.add(name.module, source)
    walk.run()
    found = filter(None, (distribution_of(module) for module in sorted(walk.installed)))
    return {name: version for name, version in found if name.lower() not in _RUN_ON}


def installed_distribution(source: str, root: Path) -> tuple[str, str] | None:
    """Name and version of the distribution that the factory is in; None for a local factory.

    Raises ConfigError when the factory's module is in neither place.
    """
    name = _parse(source)
    if _Walk(LocalFiles(root)).is_local(name.module, source):
        return None
    if is_standard(name.top):
        raise ConfigError(f"{source}: {name.module!r} is a module of Python itself")
    distribution = distribution_of(name.module)
    if distribution is None:
        if find_module(name.top) is not None and is_installed(name.top):
            raise ConfigError(f"{source}: the installed {name.top!r} has no {name.module!r}")
        raise ConfigError(
            f"{source}: there is no module {name.module!r} beside compsec.yaml ({root}), and "
            f"{why_not_installed(name.top)}"
        )
    return distribution


def _parse(source: str) -> PythonName:
    try:
        return parse_python_source(source)
    except ValueError as error:
        raise ConfigError(str(error)) from None


class _Walk:
    """The files found so far and those not read yet. ``where`` is the ``file:line`` (or the
    source) that a message begins with."""

    def __init__(self, files: LocalFiles) -> None:
        self._files = files
        self._trees: dict[str, ast.Module] = {}
        self._pending: list[tuple[str, str]] = []
        self._outside: dict[str, bool] = {}
        self.installed: set[str] = set()
        self._names: dict[str, str] = {}

    def is_local(self, module: str, where: str) -> bool:
        """Whether a module's first name is local. Raises ConfigError when it could be both."""
        top = module.partition(".")[0]
        local = self._files.resolve(top)
        if local is not None and not local.files:
            # A directory without __init__.py: an installed package of that name goes before it,
            # unless it really holds the module.
            whole = self._files.resolve(module)
            if self._is_outside(top) and (whole is None or not whole.files):
                return False
        if local is None:
            return False
        if self._is_outside(top):
            kind = "the standard library" if is_standard(top) else "an installed package"
            raise ConfigError(
                f"{where}: {top!r} is both a module beside compsec.yaml and {kind}, and which one "
                "is imported depends on the run. Rename the local one"
            )
        return True

    def _is_outside(self, top: str) -> bool:
        if top not in self._outside:
            self._outside[top] = is_standard(top) or is_installed(top) or bool(find_module(top))
        return self._outside[top]

    def add(self, module: str, where: str) -> LocalModule:
        """Note a local module and its packages. Raises ConfigError when it does not exist."""
        found = self._files.resolve(module)
        if found is None:
            raise ConfigError(
                f"{where}: there is no module {module!r} beside compsec.yaml ({self._files.root})"
            )
        for name in found.files:
            if name not in self._names:
                self._names[name] = _package_of(name)
                self._pending.append((name, self._names[name]))
        if len(self._names) > MAX_FILES:
            raise ConfigError(f"{where}: the factory needs more than {MAX_FILES} files of code")
        return found

    def run(self) -> tuple[str, ...]:
        """Read file after file until nothing new is imported."""
        while self._pending:
            name, package = self._pending.pop()
            tree = self.tree(name)
            try:
                refused = refused_constructs(tree, self._local_tops(tree))
                nodes = list(without_type_checking(tree))
            except RecursionError:
                raise ConfigError(f"{name}:1: is nested too deeply to be read") from None
            for line, reason in refused:
                raise ConfigError(f"{name}:{line}: {reason}")
            for node in nodes:
                if isinstance(node, ast.Import):
                    for alias in node.names:
                        self._absolute(alias.name, (), f"{name}:{node.lineno}")
                elif isinstance(node, ast.ImportFrom):
                    module = _absolute_name(node, package, name)
                    parts = tuple(alias.name for alias in node.names)
                    self._absolute(module, parts, f"{name}:{node.lineno}", local=node.level > 0)
        return tuple(sorted(self._names))

    def _local_tops(self, tree: ast.Module) -> frozenset[str]:
        imported = [
            node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))
        ]
        names = [alias.name for node in imported for alias in node.names]
        names += [node.module or "" for node in imported if isinstance(node, ast.ImportFrom)]
        tops = {name.partition(".")[0] for name in names} - {"", "*"}
        return frozenset(
            top
            for top in tops
            if (found := self._files.resolve(top)) is not None
            and (found.files or not self._is_outside(top))
        )

    def tree(self, name: str) -> ast.Module:
        """The parsed file. Raises ConfigError ``file:line:`` for what is no Python."""
        if name not in self._trees:
            self._trees[name] = _parse_file(name, self._files.read(name))
        return self._trees[name]

    def _absolute(
        self, module: str, parts: tuple[str, ...], where: str, *, local: bool = False
    ) -> None:
        if not local and not any(self.is_local(full, where) for full in _candidates(module, parts)):
            top = module.partition(".")[0]
            if not (is_standard(top) or is_installed(top)):
                raise ConfigError(
                    f"{where}: imports {module!r}, which is neither a file beside compsec.yaml nor "
                    f"installed ({why_not_installed(top)}), so nothing could pin it"
                )
            if not is_standard(top):
                self.installed.update(_installed_among(module, parts))
            return
        found = self.add(module, where)
        for part in parts:
            if part == "*":
                for submodule in self._star(found, where):
                    self.add(submodule, where)
            elif found.is_package and self._files.resolve(f"{module}.{part}") is not None:
                self.add(f"{module}.{part}", where)
            elif not found.files:
                raise ConfigError(f"{where}: there is no module {module + '.' + part!r}")

    def _star(self, found: LocalModule, where: str) -> Iterator[str]:
        """The submodules that ``from package import *`` imports: those that ``__all__`` names."""
        if not found.is_package or not found.files:
            return
        init = found.files[-1]
        for node in without_type_checking(self.tree(init)):
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, (ast.AugAssign, ast.AnnAssign))
                else []
            )
            if not any(isinstance(to, ast.Name) and to.id == "__all__" for to in targets):
                continue
            try:
                value = ast.literal_eval(getattr(node, "value", None) or "()")
            except (ValueError, TypeError):
                raise ConfigError(
                    f"{where}: imports * from {found.name!r}, whose __all__ ({init}:"
                    f"{getattr(node, 'lineno', 1)}) is computed. Import by name"
                ) from None
            for part in value:
                if self._files.resolve(f"{found.name}.{part}") is not None:
                    yield f"{found.name}.{part}"


def _installed_among(module: str, parts: tuple[str, ...]) -> tuple[str, ...]:
    """The modules that an import names; the first names of the others, which may be compiled into
    their package."""
    found = [name for name in _candidates(module, parts) if find_module(name) is not None]
    return tuple(found) or (module.partition(".")[0],)


def _candidates(module: str, parts: tuple[str, ...]) -> tuple[str, ...]:
    return (module, *(f"{module}.{part}" for part in parts if part != "*"))


def _absolute_name(node: ast.ImportFrom, package: str, name: str) -> str:
    if node.level == 0:
        assert node.module is not None  # the grammar
        return node.module
    parts = package.split(".") if package else []
    if node.level > len(parts):
        raise ConfigError(
            f"{name}:{node.lineno}: a relative import that leads out of the package; a module "
            "directly beside compsec.yaml is in none. Import by the absolute name"
        )
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _package_of(name: str) -> str:
    return ".".join(name.split("/")[:-1])


def _parse_file(name: str, content: bytes) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(content, filename=name)
    except SyntaxError as error:
        raise ConfigError(f"{name}:{error.lineno or 1}: is no Python: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{name}:1: cannot be read as Python: {error}") from None


def _require_factory(name: PythonName, source: str, walk: _Walk) -> None:
    found = walk.add(name.module, source)
    expected = name.module.replace(".", "/")
    if not found.files or found.files[-1] not in (f"{expected}.py", f"{expected}/__init__.py"):
        raise ConfigError(f"{source}: {name.module!r} is a directory without __init__.py")
    names = top_level_names(walk.tree(found.files[-1]))
    if names is not None and name.factory not in names:
        raise ConfigError(f"{source}: {found.files[-1]} has no {name.factory!r}")
