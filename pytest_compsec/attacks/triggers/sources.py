"""What decides a function, as plain values for a digest: its source text and what it uses.

The source text is that of the file (:func:`inspect.getsource`); where there is none, as at a
prompt, the compiled code takes its place. Captured variables, defaults and the module's variables
that the function names enter by value: numbers, text, containers and arrays as they are, functions
of the same module by their own source. Modules, classes and functions of other modules enter by
name alone, and other objects by their attributes.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import types
from collections.abc import Mapping, Set
from typing import Any

from pytest_compsec.models.python_source.text import own_module_name

_DEEPEST = 6


def content_of(function: Any) -> Any:
    """JSON-safe description of a callable that changes with whatever decides what it does."""
    return _value(function, _module(function), (), 0)


def _module(function: Any) -> str | None:
    if isinstance(function, functools.partial):
        return _module(function.func)
    return getattr(function, "__module__", None)


def _value(value: Any, home: str | None, above: tuple[int, ...], depth: int) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float, complex)):
        return {type(value).__name__: repr(value)}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": hashlib.sha256(value).hexdigest()}
    if id(value) in above or depth > _DEEPEST:
        return {"again": type(value).__qualname__}
    above = (*above, id(value))

    def inner(item: Any) -> Any:
        return _value(item, home, above, depth + 1)

    if isinstance(value, types.ModuleType):
        return {"module": value.__name__}
    if isinstance(value, type):
        return {"class": f"{own_module_name(value.__module__)}.{value.__qualname__}"}
    if isinstance(value, functools.partial):
        return {"partial": [inner(part) for part in (value.func, value.args, value.keywords)]}
    if isinstance(value, types.MethodType):
        return {"method": [inner(value.__func__), inner(value.__self__)]}
    if isinstance(value, types.FunctionType):
        return _function(value, home, inner)
    if isinstance(value, Mapping):
        return {"mapping": [[inner(key), inner(item)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [inner(item) for item in value]}
    if isinstance(value, Set):
        return {"set": sorted(repr(inner(item)) for item in value)}
    array = _array(value)
    return array if array is not None else _object(value, home, inner)


def _function(function: types.FunctionType, home: str | None, inner: Any) -> Any:
    name = f"{own_module_name(function.__module__)}.{function.__qualname__}"
    if function.__module__ != home:
        return {"function": name}
    try:
        used = inspect.getclosurevars(function)
        names = {**used.globals, **used.nonlocals}
    except ValueError:  # a captured variable that has no value yet
        names = {}
    return {
        "function": name,
        "source": _source(function),
        "defaults": inner([function.__defaults__, function.__kwdefaults__]),
        "uses": inner(dict(sorted(names.items()))),
    }


def _source(function: types.FunctionType) -> Any:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return _compiled(function.__code__)


def _compiled(code: types.CodeType) -> Any:
    constants = [
        _compiled(item) if isinstance(item, types.CodeType) else repr(item)
        for item in code.co_consts
    ]
    return [code.co_code.hex(), list(code.co_names), list(code.co_varnames), constants]


def _array(value: Any) -> Any:
    """Tensors and arrays by their numbers; None for what is neither."""
    if hasattr(value, "detach") and hasattr(value, "tolist") and hasattr(value, "dtype"):
        value = value.detach().cpu()
    if not (hasattr(value, "tolist") and hasattr(value, "shape") and hasattr(value, "dtype")):
        return None
    numbers = hashlib.sha256(repr(value.tolist()).encode()).hexdigest()
    return {"array": [str(value.dtype), list(value.shape), numbers]}


def _object(value: Any, home: str | None, inner: Any) -> Any:
    kind = type(value)
    seed = getattr(value, "initial_seed", None)  # a torch.Generator has no attributes to read
    return {
        "object": f"{own_module_name(kind.__module__)}.{kind.__qualname__}",
        "source": _class_source(kind) if kind.__module__ == home else None,
        "attributes": inner(dict(sorted(getattr(value, "__dict__", {}).items()))),
        "seed": str(seed()) if callable(seed) else None,
    }


def _class_source(kind: type) -> Any:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return {
            name: _compiled(item.__code__)
            for name, item in sorted(vars(kind).items())
            if isinstance(item, types.FunctionType)
        }
