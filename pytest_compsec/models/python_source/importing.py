"""Run a user's factory from its verified copies and return the untrained module."""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import IntegrityError, LoadError
from pytest_compsec.models.listing import printable
from pytest_compsec.models.python_source.installed import find_module
from pytest_compsec.models.python_source.staged import (
    StagedCode,
    leads_inside,
    lies_outside,
    outside_modules,
)
from pytest_compsec.models.python_source.text import PythonName, parse_python_source

if TYPE_CHECKING:
    import torch

_MAX_SHOWN = 500


def make_module(directory: Path, source: str, names: Sequence[str]) -> torch.nn.Module:
    """Import ``python:module:factory`` from ``directory``, call the factory, check what it returns.

    ``directory`` holds exactly the verified files ``names`` (relative POSIX names, as
    :func:`.closure.code_files` gives them); no ``names`` means a factory in an installed package.
    The module is as the factory left it (training mode and device too). It is built with a fixed
    seed, and the random numbers of the process are as before afterwards.

    Raises LoadError ``file:line:`` for errors of the user's code and for a factory that returns no
    plain module; IntegrityError when the code imported something that is neither pinned nor
    installed.
    """
    import torch

    name = parse_python_source(source)
    code = StagedCode(Path(directory).resolve(), names)
    before = frozenset(sys.modules)
    settings = _settings(torch)
    code.start()
    try:
        with _own_random_numbers(torch):
            module = _run(code, name, source, installed=not names)
        _require_pinned(code, source, before)
        _require_plain(torch, module, source)
        if not names:
            module = _copied(module, source)
        if _settings(torch) != settings:
            raise LoadError(f"{source}: changes torch's default dtype, device or gradient mode")
    except BaseException:
        code.stop()
        _restore(torch, settings)
        _require_pinned(code, source, before)
        raise
    assert isinstance(module, torch.nn.Module)  # _require_plain saw to it
    return module


def import_function(directory: Path, source: str, names: Sequence[str]) -> Callable[..., Any]:
    """The function that ``source`` names, imported as :func:`make_module` does and not called.

    Raises as :func:`make_module` does.
    """
    name = parse_python_source(source)
    code = StagedCode(Path(directory).resolve(), names)
    before = frozenset(sys.modules)
    code.start()
    try:
        function = _run(code, name, source, installed=not names, call=False)
        _require_pinned(code, source, before)
    except BaseException:
        code.stop()
        _require_pinned(code, source, before)
        raise
    assert callable(function)  # _run saw to it
    return function


def _run(
    code: StagedCode, name: PythonName, source: str, *, installed: bool, call: bool = True
) -> object:
    try:
        module = _installed_module(name, source) if installed else code.load(name.module)
        factory = getattr(module, name.factory, None)
        if not callable(factory):
            what = "has no" if factory is None else "has something that is no function under"
            raise LoadError(f"{source}: {name.module} {what} {name.factory!r}")
        if not call:
            return factory
        _require_no_arguments(factory, source)
        return factory()
    except (KeyboardInterrupt, LoadError, _NotInstalled):
        raise
    except BaseException as error:  # pytest.skip() and sys.exit() are no Exceptions
        raise LoadError(_message(code, source, error)) from None


def _copied(module: Any, source: str) -> Any:
    """A copy of what an installed factory returned. It may return one object to all who ask, and
    the weights of the second arm would then be those of the first one too."""
    try:
        return copy.deepcopy(module)
    except Exception as error:
        raise LoadError(
            f"{source}: returned a module that cannot be copied ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:_MAX_SHOWN]})"
        ) from None


class _NotInstalled(IntegrityError):
    """A factory of an installed package that is found somewhere else."""


def _installed_module(name: PythonName, source: str) -> Any:
    """The installed module. What lies under its name elsewhere is not run, or not used where the
    process has imported it already."""
    wrong = _NotInstalled(
        f"{source}: the lock pins it as part of an installed package, and {name.module!r} would be "
        "imported from elsewhere. Remove or rename the file of that name beside the tests, or run "
        "`compsec pin` and review the lock's change"
    )
    if find_module(name.module) is None or not leads_inside(name.top):
        raise wrong
    module = importlib.import_module(name.module)
    if lies_outside(module):
        raise wrong
    return module


def _require_no_arguments(factory: Any, source: str) -> None:
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise LoadError(f"{source}: the factory must work without arguments ({error})") from None
    except ValueError:
        return  # no signature to be had; the call will tell


def _message(code: StagedCode, source: str, error: BaseException) -> str:
    where = source
    if isinstance(error, SyntaxError) and error.filename and code.file_of(error.filename):
        where = f"{code.file_of(error.filename)}:{error.lineno}"
    else:
        for frame in traceback.extract_tb(error.__traceback__):
            own = code.file_of(frame.filename)
            if own is not None:
                where = f"{own}:{frame.lineno}"
    text = " ".join(code.own_name(str(error)).split())[:_MAX_SHOWN]
    return printable(f"{where}: {type(error).__name__}: {text} (while building {source})")


def _require_pinned(code: StagedCode, source: str, before: frozenset[str]) -> None:
    found = [*code.violations]
    found += [f"imported {name}" for name in outside_modules(before)]
    if found:
        raise IntegrityError(
            f"{source}: the code {'; '.join(dict.fromkeys(found))}. Only pinned files beside "
            "compsec.yaml, imported by name, and installed packages may take part in a model"
        )


def _require_plain(torch: Any, module: object, source: str) -> None:
    if isinstance(module, type):
        raise LoadError(
            f"{source}: returned the class {module.__name__}; return a module: {module.__name__}()"
        )
    if not isinstance(module, torch.nn.Module):
        raise LoadError(
            f"{source}: returned a {type(module).__name__}, which is no torch.nn.Module"
        )
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise LoadError(
                f"{source}: {name or 'the module'} is a TorchScript module, whose layers cannot be "
                "seen or compressed; return the plain module"
            )
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if torch.nn.parameter.is_lazy(tensor) or tensor.is_meta:
            raise LoadError(
                f"{source}: {name} has no memory yet (a lazy layer or the meta device); give the "
                "layers their sizes in the factory"
            )


def _settings(torch: Any) -> tuple[Any, Any, bool]:
    return torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()


def _restore(torch: Any, settings: tuple[Any, Any, bool]) -> None:
    if _settings(torch) != settings:
        torch.set_default_dtype(settings[0])
        torch.set_default_device(settings[1])
        torch.set_grad_enabled(settings[2])


@contextlib.contextmanager
def _own_random_numbers(torch: Any) -> Iterator[None]:
    """Fixed seeds inside, so that both arms are built alike; everything as before afterwards."""
    import numpy as np

    # Asking for the devices would start CUDA in a process that does not use it.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=list(devices)):
            torch.default_generator.manual_seed(0)
            for device in devices:
                torch.cuda.default_generators[device].manual_seed(0)
            random.seed(0)
            np.random.seed(0)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
