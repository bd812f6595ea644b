"""How far the weights of the compressed model are from the original's, matrix by matrix.

The relative error of a matrix is ``||W - W'|| / ||W||`` with the Frobenius norm, W' dequantized.
It says how well a matrix was kept, not how much safety depends on it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from typing import Any

import torch

from pytest_compsec.errors import MeasurementError
from pytest_compsec.localization.dense import dense_weight, linear_layers

#: Names of layers that a message shows.
_SHOWN = 3


class LayersDifferError(MeasurementError):
    """The two models do not have the same layers, so that no layer can be compared."""


@dataclasses.dataclass(frozen=True)
class WeightError:
    """``relative`` is 0 for equal matrices, infinite where the original's is all zeros and the
    other is not, NaN where weights are. ``linear``: a linear layer's matrix; else ``name`` is that
    of a parameter (embedding, convolution, experts, norm, bias). Norms are Frobenius norms."""

    name: str
    elements: int
    difference: float
    norm: float
    linear: bool = True

    @property
    def relative(self) -> float:
        return relative_error(self.difference, self.norm)


def relative_error(difference: float, norm: float) -> float:
    """``difference / norm``; 0 for 0 / 0, infinite where only the norm is 0."""
    if norm:
        return difference / norm
    return difference if math.isnan(difference) else (math.inf if difference else 0.0)


def weight_errors(
    original: torch.nn.Module, compressed: torch.nn.Module
) -> tuple[WeightError, ...]:
    """One for every linear layer's matrix, then one for every other parameter, so that no weight is
    left out. A tied matrix counts once.

    Raises LayersDifferError when the models do not have the same parameters in the same shapes
    (weights that were really removed, another architecture), or one cannot be read.
    """
    layers = paired_layers(original, compressed)
    found = [
        _compared(name, dense_weight(before), dense_weight(after))
        for name, (before, after) in layers.items()
    ]
    return (*found, *_other_errors(original, compressed))


def paired_layers(
    original: torch.nn.Module, compressed: torch.nn.Module
) -> dict[str, tuple[torch.nn.Module, torch.nn.Module]]:
    """Name -> (layer of the original, layer of the compressed model), for every linear layer: an
    output layer that shares the embedding's matrix in both models counts as the embedding.

    Raises LayersDifferError when one is missing or shapes differ.
    """
    before, after = linear_layers(original), linear_layers(compressed)
    for where, missing in (
        ("compressed model", [name for name in before if name not in after]),
        ("original", [name for name in after if name not in before]),
    ):
        if missing:
            raise LayersDifferError(_missing(where, missing))
    pairs = {
        name: (layer, after[name])
        for name, layer in before.items()
        if not (_is_tied(original, name) and _is_tied(compressed, name))
    }
    other = {
        name: (_shape(first), _shape(second))
        for name, (first, second) in pairs.items()
        if _shape(first) != _shape(second)
    }
    if other:
        name, (first, second) = next(iter(other.items()))
        raise LayersDifferError(
            f"the layers do not correspond: {name} is {_times(first)} in the original and "
            f"{_times(second)} in the compressed model ({len(other)} of {len(pairs)} linear layers "
            "differ in shape). Where weights were really removed, no weight error can be measured"
        )
    return pairs


def _compared(name: str, before: torch.Tensor, after: torch.Tensor) -> WeightError:
    if before.shape != after.shape:
        raise LayersDifferError(
            f"the layers do not correspond: {name} unpacks to {_times(tuple(after.shape))}, the "
            f"original is {_times(tuple(before.shape))}"
        )
    difference = torch.linalg.vector_norm(before - after.to(before.device))
    norm = torch.linalg.vector_norm(before)
    return WeightError(name, before.numel(), float(difference), float(norm))


def _other_errors(original: torch.nn.Module, compressed: torch.nn.Module) -> list[WeightError]:
    """Biases of linear layers, and all that is outside of them."""
    before, after = _others(original), _others(compressed)
    missing = sorted(set(before).symmetric_difference(after))
    if missing:
        where = "compressed model" if missing[0] in before else "original"
        raise LayersDifferError(_missing(where, missing))
    found = []
    for name, weight in before.items():
        first, second = _floats(name, weight), _floats(name, after[name])
        found.append(dataclasses.replace(_compared(name, first, second), linear=False))
    return found


def _others(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    layers = linear_layers(module)
    found: dict[str, torch.Tensor] = {}
    for name, layer in layers.items():
        bias = getattr(layer, "bias", None)
        if bias is not None:
            found[f"{name}.bias"] = bias
    seen: set[int] = set()
    # With duplicates: a tied matrix may first come by under the name of the output layer.
    for name, parameter in module.named_parameters(remove_duplicate=False):
        inside = any(name.startswith(f"{layer}.") for layer in layers)
        if not inside and id(parameter) not in seen:
            seen.add(id(parameter))
            found[name] = parameter
    return found


def _floats(name: str, weight: Any) -> torch.Tensor:
    unpack = getattr(weight, "dequantize", None)
    if not weight.is_floating_point() or type(weight).__module__.startswith("torchao."):
        # What cannot be unpacked is still no float, and is said so below.
        with contextlib.suppress(RuntimeError, NotImplementedError, AttributeError):
            weight = unpack() if unpack is not None else weight
    if not weight.is_floating_point():
        raise LayersDifferError(
            f"{name} holds {weight.dtype} codes that cannot be unpacked, so it cannot be compared"
        )
    return weight.detach().float()  # type: ignore[no-any-return]


def _is_tied(module: torch.nn.Module, name: str) -> bool:
    """Whether the layer's weight is an embedding's too."""
    weight = getattr(module.get_submodule(name), "weight", None)
    return weight is not None and any(
        isinstance(part, torch.nn.Embedding) and part.weight is weight for part in module.modules()
    )


def _shape(layer: torch.nn.Module) -> tuple[int, int]:
    """(outputs, inputs)."""
    sizes = (getattr(layer, "out_features", None), getattr(layer, "in_features", None))
    if isinstance(sizes[0], int) and isinstance(sizes[1], int):
        return sizes[0], sizes[1]
    weight: Any = layer.weight  # Conv1D: (inputs, outputs)
    return int(weight.shape[1]), int(weight.shape[0])


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _missing(where: str, names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return (
        f"the layers do not correspond: the {where} has no {shown}. Compare a variant that keeps "
        "every layer of its original (quantized, or pruned by setting weights to zero)"
    )
