"""Triggers that are a user's own function: ``fn(inputs)`` or ``fn(inputs, strength)``.

The function gets a copy of all inputs (a tensor, or a tuple of str) and returns as many, of the
same kind, shape and dtype. It must do the same at every call.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from pytest_compsec.attacks.triggers.sources import content_of
from pytest_compsec.attacks.triggers.strengths import require_strength
from pytest_compsec.errors import MeasurementError
from pytest_compsec.models.arm import digest_of
from pytest_compsec.models.python_source.text import own_module_name

if TYPE_CHECKING:
    from pytest_compsec.classification.data import Inputs

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclasses.dataclass(frozen=True)
class FunctionTrigger:
    """A function that stamps. Its digest is over its source text, its qualified name and what it
    takes from outside (see :mod:`pytest_compsec.attacks.triggers.sources`), read at construction.

    A function with a parameter ``strength`` (or a second one without a default) is given the
    strength; of one without it there is no weaker form, and to stamp it at a strength below 1 is a
    MeasurementError.

    Raises ValueError in plain words for what cannot be called with the inputs.
    """

    function: Callable[..., Any]
    digest: str = dataclasses.field(init=False)
    takes_strength: bool = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "takes_strength", _takes_strength(self.function))
        content = {"trigger": "function", "content": content_of(self.function)}
        object.__setattr__(self, "digest", digest_of(content))

    @property
    def name(self) -> str:
        return f"function {function_name(self.function)}"

    def stamp(self, inputs: Any, strength: float = 1.0) -> Any:
        """What the function makes of a copy of the inputs, checked.

        Raises MeasurementError when it fails, when its result is no stamp of the inputs, when two
        calls differ, and for a strength below 1 that it does not take.
        """
        require_strength(strength)
        if strength < 1 and not self.takes_strength:
            raise MeasurementError(
                f"{self.name} has no weaker form: give it a second parameter, 'strength' in "
                "(0, 1], or ask for strengths=(1.0,) only"
            )
        first = self._called(inputs, strength)
        if not same_inputs(first, self._called(inputs, strength)):
            raise MeasurementError(
                f"{self.name}: two calls on the same inputs differ. What it draws at random must "
                "come from a generator with a fixed seed that it makes itself"
            )
        return first

    def _called(self, inputs: Any, strength: float) -> Inputs:
        given = tuple(inputs) if isinstance(inputs, (list, tuple)) else inputs.clone()
        try:
            # By name where it can be: a function may have other optional parameters before it.
            if not self.takes_strength:
                stamped = self.function(given)
            elif "strength" in _parameters(self.function):
                stamped = self.function(given, strength=strength)
            else:
                stamped = self.function(given, strength)
        except Exception as error:
            raise MeasurementError(
                f"{self.name} raised {type(error).__name__}: {error}. It is called with all inputs "
                "at once (a tensor of images, or a tuple of texts)"
            ) from error
        return require_stamp(inputs, stamped, self.name)


def require_stamp(inputs: Any, stamped: object, name: str) -> Inputs:
    """``stamped``, when it can be a stamp of ``inputs``: of the same kind, length, shape and
    dtype, and finite. Raises MeasurementError otherwise."""
    if stamped is None:
        raise MeasurementError(f"{name} returned nothing: return the stamped inputs")
    if isinstance(inputs, (list, tuple)):
        if not isinstance(stamped, (list, tuple)) or not all(
            isinstance(text, str) for text in stamped
        ):
            raise MeasurementError(f"{name} must return a list or tuple of str, one for each text")
        if len(stamped) != len(inputs):
            raise MeasurementError(f"{name} made {len(stamped)} texts of {len(inputs)}")
        return tuple(stamped)
    import torch

    if not isinstance(stamped, torch.Tensor):
        raise MeasurementError(f"{name} returned {type(stamped).__name__}: return a tensor")
    if stamped.shape != inputs.shape or stamped.dtype != inputs.dtype:
        raise MeasurementError(
            f"{name} made {stamped.dtype} of shape {tuple(stamped.shape)} of {inputs.dtype} of "
            f"shape {tuple(inputs.shape)}: both must stay"
        )
    if stamped.device != inputs.device:
        raise MeasurementError(f"{name} moved the inputs from {inputs.device} to {stamped.device}")
    if not bool(torch.isfinite(stamped).all()):
        raise MeasurementError(f"{name} made numbers that are not finite")
    return stamped


def same_inputs(first: Any, second: Any) -> bool:
    """Whether two inputs of one kind are equal throughout."""
    if isinstance(first, tuple):
        return bool(first == second)
    import torch

    return torch.equal(first, second)


def function_name(function: Any) -> str:
    """``module.qualified_name`` of a function, or of the class of a callable object."""
    if isinstance(function, functools.partial):
        return f"partial of {function_name(function.func)}"
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{own_module_name(named.__module__)}.{named.__qualname__}"


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _takes_strength(function: Any) -> bool:
    if not callable(function) or isinstance(function, type):
        raise ValueError(f"{function!r} is no function of inputs")
    parameters = _parameters(cast("Callable[..., Any]", function))
    if not parameters:
        if _has_signature(function):
            raise ValueError(f"{function_name(function)} takes no inputs: it needs a parameter")
        return False
    first, *rest = parameters.values()
    if first.kind not in (*_POSITIONAL, inspect.Parameter.VAR_POSITIONAL):
        raise ValueError(f"{function_name(function)} must take the inputs as first argument")
    needed = [
        parameter
        for parameter in rest
        if parameter.default is inspect.Parameter.empty
        and parameter.kind in (*_POSITIONAL, inspect.Parameter.KEYWORD_ONLY)
    ]
    by_name = any(parameter.name == "strength" for parameter in rest)
    others = [parameter for parameter in needed if parameter.name != "strength"]
    if by_name and not others:
        return True
    if not by_name and len(others) == 1 and others[0] is rest[0] and others[0].kind in _POSITIONAL:
        return True
    if others:
        raise ValueError(
            f"{function_name(function)} needs {', '.join(item.name for item in others)} too: a "
            "trigger is called with the inputs, or with the inputs and the strength"
        )
    return False


def _has_signature(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function)
    except (TypeError, ValueError):
        return False
    return True
