"""Make one part of a model compute something else for a while, without touching a weight.

Each context manager puts everything back whatever happens inside of it. Hooks and an attribute on
the one instance are used, not exchanged modules: names, parameters and what other code reads of a
layer stay where they are, and quantized layers work as dense ones do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from pytest_compsec.errors import MeasurementError


@contextlib.contextmanager
def silenced(projection: torch.nn.Module, inputs: slice, width: int, name: str) -> Iterator[None]:
    """``projection`` (a linear layer of ``width`` inputs) reads zeros at ``inputs``.

    Raises MeasurementError when the model did not call the layer: its heads are then not where
    they seem to be.
    """
    calls = 0

    def zero(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal calls
        calls += 1
        place = next((at for at, value in enumerate(args) if _is_input(value, width)), None)
        if place is not None:
            changed = list(args)
            changed[place] = _zeroed(args[place], inputs)
            return tuple(changed), kwargs
        key = next((key for key, value in kwargs.items() if _is_input(value, width)), None)
        if key is None:
            raise MeasurementError(f"{name} was called without an input of width {width}")
        return args, {**kwargs, key: _zeroed(kwargs[key], inputs)}

    handle = projection.register_forward_pre_hook(zero, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
    if not calls:
        raise MeasurementError(
            f"the model computes without calling {name}, so its heads cannot be silenced there"
        )


@contextlib.contextmanager
def computing(part: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """``part`` computes ``forward`` instead of its own. Its hooks stay in force."""
    attributes = part.__dict__
    before = attributes.get("forward", _NOTHING)
    attributes["forward"] = forward
    try:
        yield
    finally:
        if before is _NOTHING:
            del attributes["forward"]
        else:
            attributes["forward"] = before


def computing_as(
    part: torch.nn.Module, other: torch.nn.Module, own: torch.dtype, others: torch.dtype
) -> contextlib.AbstractContextManager[None]:
    """``part`` (of a model that computes in ``own``) computes as ``other`` (of one that computes in
    ``others``), on the device of ``other``."""
    here, there = _device(part), _device(other)
    if own == others and here == there:
        return computing(part, other)

    def forward(*args: Any, **kwargs: Any) -> Any:
        inputs = converted((args, kwargs), others, there)
        return converted(other(*inputs[0], **inputs[1]), own, here)

    return computing(part, forward)


def converted(value: Any, dtype: torch.dtype | None, device: torch.device | None) -> Any:
    """Tensors in tuples, lists and dicts moved to ``device``, floating ones to ``dtype``."""
    if isinstance(value, torch.Tensor):
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None)
    if type(value) in (tuple, list):
        return type(value)(converted(item, dtype, device) for item in value)
    if type(value) is dict:
        return {key: converted(item, dtype, device) for key, item in value.items()}
    return value


def copied(value: Any) -> Any:
    """The same with its own tensors, of a layer's output: a tensor, or a tuple that holds some."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if type(value) in (tuple, list):
        return type(value)(copied(item) for item in value)
    return value


_NOTHING: Any = object()


def _is_input(value: Any, width: int) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0 and value.shape[-1] == width


def _zeroed(value: torch.Tensor, inputs: slice) -> torch.Tensor:
    changed = value.clone()
    changed[..., inputs] = 0
    return changed


def _device(part: torch.nn.Module) -> torch.device | None:
    first = next(part.parameters(), None)
    return None if first is None else first.device
