"""Import the verified copies of a user's code, and of local code nothing else.

The modules live under a private package whose name is unique in the process, so two models may each
have a ``models.digits`` of their own. The code runs with its own ``__import__``, which leads the
absolute names among the files to their copies, now and in every later call (an import inside
``forward`` too), and which refuses what is neither a copy nor installed before any of it runs.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pytest_compsec.errors import IntegrityError
from pytest_compsec.models.python_source.installed import (
    OWN_PACKAGE,
    find_module,
    is_standard,
    lies_in_installed,
)
from pytest_compsec.models.python_source.text import PRIVATE_PREFIX

_REFUSED_BUILTINS = ("open", "exec", "eval", "compile", "input", "breakpoint")


class StagedCode(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """The files of one source, read once. ``violations`` collects what was refused, for code may
    catch the exception that refused it."""

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        self.directory = directory
        self.violations: list[str] = []
        self._names: dict[str, str] = {}
        self._contents: dict[str, bytes] = {}
        self._packages = {""}
        for name in names:
            self._add(name)
        self._tops = {module.partition(".")[0] for module in self._names}
        self._allowed: dict[str, bool] = {}
        self._builtins = self._own_builtins()
        digest = hashlib.sha256(repr(sorted(self._contents.items())).encode()).hexdigest()[:12]
        self.package = _claim(f"{PRIVATE_PREFIX}{digest}")

    def _add(self, name: str) -> None:
        path = PurePosixPath(name)
        if path.suffix != ".py" or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{name!r} is no relative name of a Python file")
        parts = path.with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        self._names[module] = name
        self._contents[name] = (self.directory / name).read_bytes()
        self._packages.update(".".join(parts[:depth]) for depth in range(1, len(parts)))

    def start(self) -> None:
        """Make the copies importable, from now to the end of the process."""
        sys.meta_path.insert(0, self)

    def stop(self) -> None:
        """Forget everything again, after a failure."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        for name in [key for key in sys.modules if (key + ".").startswith(self.package + ".")]:
            del sys.modules[name]

    def load(self, module: str) -> types.ModuleType:
        """Import one of the files by its own dotted name."""
        return importlib.import_module(f"{self.package}.{module}")

    def own_name(self, text: str) -> str:
        """Text without the private package's name and directory."""
        text = text.replace(f"{self.package}.", "")
        return text.replace(f"{self.directory}{os.sep}", "")

    def file_of(self, path: str) -> str | None:
        """The relative name of a staged file by the path in a traceback."""
        inside = path.removeprefix(f"{self.directory}{os.sep}").replace(os.sep, "/")
        return inside if inside in self._contents else None

    # The import system's interface.
    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(f"{self.package}."):
            return None
        module = fullname[len(self.package) + 1 :]
        if module not in self._names and module not in self._packages:
            return None
        is_package = module in self._packages
        return importlib.machinery.ModuleSpec(fullname, self, is_package=is_package)

    def exec_module(self, module: types.ModuleType) -> None:
        name = self._names.get(module.__name__[len(self.package) + 1 :])
        module.__dict__["__builtins__"] = self._builtins
        if name is None:
            return
        module.__file__ = str(self.directory / name)
        code = compile(self._contents[name], module.__file__, "exec", dont_inherit=True)
        exec(code, module.__dict__)

    def _own_builtins(self) -> dict[str, Any]:
        own = dict(vars(builtins))
        own["__import__"] = self._import
        for name in _REFUSED_BUILTINS:
            own[name] = self._refusing(name)
        return own

    def _refusing(self, name: str) -> Callable[..., Any]:
        def refuse(*_: object, **__: object) -> Any:
            raise self._violation(f"calls {name}(), and so reads or runs what no lock pins")

        return refuse

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> types.ModuleType:
        top = name.partition(".")[0]
        if level > 0:
            # importlib's own function: Python's built-in one is the same for these.
            return importlib.__import__(name, dict(globals or {}), None, fromlist or (), level)
        if top in self._tops:
            whole = f"{self.package}.{name}"
            module = importlib.__import__(whole, None, None, fromlist or (), 0)
            return module if fromlist else sys.modules[f"{self.package}.{top}"]
        if not self._is_allowed(top):
            raise self._violation(
                f"imports {name!r}, which is neither one of its pinned files nor installed"
            )
        module = builtins.__import__(name, globals, locals, fromlist or (), 0)
        # A package in several places may have gone on in another one.
        for whole in (name, *(f"{name}.{part}" for part in fromlist or ())):
            if whole in sys.modules and lies_outside(sys.modules[whole]):
                raise self._violation(f"imports {whole!r}, which is not installed")
        return module

    def _is_allowed(self, top: str) -> bool:
        if not self._allowed.get(top, False):
            known = is_standard(top) or top == OWN_PACKAGE or find_module(top) is not None
            self._allowed[top] = known and leads_inside(top)
        return self._allowed[top]

    def _violation(self, what: str) -> IntegrityError:
        self.violations.append(what)
        return IntegrityError(f"{', '.join(sorted(self._names.values()))}: the code {what}")


def _claim(wanted: str) -> str:
    """Put an empty package under a name that nothing in the process has, and return the name."""
    name, count = wanted, 1
    while True:
        package = types.ModuleType(name)
        package.__path__ = []
        if sys.modules.setdefault(name, package) is package:
            return name
        count += 1
        name = f"{wanted}_{count}"


def outside_modules(before: frozenset[str]) -> tuple[str, ...]:
    """``name (file)`` of every module that was imported since and lies neither in an installed
    package nor in the standard library nor in a private package of this file."""
    new = [(name, module) for name, module in list(sys.modules.items()) if name not in before]
    return tuple(
        f"{name} ({getattr(module, '__file__', None) or 'a directory'})"
        for name, module in sorted(new, key=lambda item: item[0])
        if not name.startswith(PRIVATE_PREFIX) and lies_outside(module)
    )


def leads_inside(top: str) -> bool:
    """Whether importing a first name gives what is installed: neither a file of that name beside
    the tests, which may go before it on the path, nor one that was imported already. Runs nothing.
    """
    if top in sys.modules:
        return not lies_outside(sys.modules[top])
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return False
    if spec is None:
        return False
    places = list(spec.submodule_search_locations or ())
    return not lies_outside(types.SimpleNamespace(__file__=spec.origin, __path__=places))


def lies_outside(module: object) -> bool:
    """Whether a module's file, or a namespace package's directory, is not an installed one. Modules
    without a place of their own (built in, frozen, or made by an installed module) are inside."""
    places = [getattr(module, "__file__", None)]
    if not isinstance(places[0], str):
        try:
            places = list(getattr(module, "__path__", None) or ())
        except Exception:  # an object in sys.modules may answer to any name, or fail to
            return False
    return any(
        isinstance(place, str) and Path(place).is_absolute() and not lies_in_installed(place)
        for place in places
    )
