"""Random noise of the same size as the error of a compressed model, added to the original.

Compression moves every weight matrix W to W' = W + E. Whether the loss of refusals comes from the
size of E or from where it points is seen by exchanging E for a matrix N of independent Gaussians,
scaled so that ``||N|| = ||E||`` (Frobenius norm): everything but the direction is then the same. In
many dimensions such an N is nearly orthogonal to anything that was chosen before, so it stands for
"an error of this size that nobody aimed".

Nothing here touches a weight. While :func:`adding` is in force the output of a layer is
``W x + N x``, whatever W is stored as; afterwards the model computes as before. The result is no
artefact: there is no file, and nothing to ship.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from pytest_compsec.errors import MeasurementError
from pytest_compsec.localization.dense import dense_weight
from pytest_compsec.localization.weight_error import paired_layers

#: Largest relative difference of the norms of a matrix's error and of its noise.
NORM_TOLERANCE = 1e-3
#: Roundings of the scale in the model's own float type.
_CORRECTIONS = 3


def error_matrices(
    original: torch.nn.Module, compressed: torch.nn.Module, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Name -> W' - W (outputs, inputs) in ``dtype`` on the original's device, for every linear
    layer whose weights differ; an output layer that shares the embedding's matrix is left out.

    Raises LayersDifferError (a MeasurementError) where the models do not have the same layers, and
    MeasurementError where weights are no numbers or no layer differs.
    """
    found: dict[str, torch.Tensor] = {}
    for name, (before, after) in paired_layers(original, compressed).items():
        weight = dense_weight(before)
        error = dense_weight(after).to(weight.device) - weight
        norm = frobenius(error)
        if not math.isfinite(norm):
            raise MeasurementError(f"{name} holds weights that are no numbers, so it has no error")
        if norm:
            found[name] = error.to(dtype)
    if not found:
        raise MeasurementError(
            "every linear layer of the compressed model has the weights of the original: there is "
            "no error to compare noise with. Choose a variant that changes weights"
        )
    return found


def noise_like(errors: Mapping[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """A matrix of independent Gaussians for each of ``errors``: the same name, shape, float type,
    device, and Frobenius norm (to one part in a thousand after rounding to the float type).

    Drawn on the CPU from ``seed`` and the layer's name, so neither the device nor the other layers
    change it. Raises MeasurementError where the float type is too coarse for the norm.
    """
    return {name: _noise(name, error, seed) for name, error in errors.items()}


def frobenius(matrix: torch.Tensor) -> float:
    """The Frobenius norm, computed in float32."""
    return float(torch.linalg.vector_norm(matrix.float()))


@contextlib.contextmanager
def adding(module: torch.nn.Module, additions: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Each layer named in ``additions`` computes with its matrix (outputs, inputs) added to its
    weight. Hooks do it and go whatever happens; no weight is changed.

    Raises MeasurementError when a layer was never called, since it then computed as before.
    """
    called = dict.fromkeys(additions, False)
    handles = [
        module.get_submodule(name).register_forward_hook(
            _adder(name, matrix, called), with_kwargs=True
        )
        for name, matrix in additions.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    unused = [name for name, seen in called.items() if not seen]
    if unused:
        raise MeasurementError(
            f"the model computes without calling {unused[0]}"
            + (f" and {len(unused) - 1} more layers" if len(unused) > 1 else "")
            + ", so nothing could be added to its weights"
        )


def _adder(name: str, matrix: torch.Tensor, called: dict[str, bool]) -> Any:
    def add(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        called[name] = True
        inputs = next(
            (value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), None
        )
        if inputs is None or not isinstance(output, torch.Tensor):
            raise MeasurementError(f"{name} does not compute a tensor from a tensor")
        return output + torch.nn.functional.linear(inputs.to(matrix), matrix).to(output)

    return add


def _noise(name: str, error: torch.Tensor, seed: int) -> torch.Tensor:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    # manual_seed takes 64 bits; one less keeps it positive.
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    drawn = torch.randn(error.shape, generator=generator)
    wanted = frobenius(error)
    scale = wanted / frobenius(drawn)
    for _ in range(_CORRECTIONS):
        noise = (drawn * scale).to(error)
        reached = frobenius(noise)
        if abs(reached - wanted) <= NORM_TOLERANCE * wanted:
            return noise
        if not reached or not math.isfinite(reached):
            break
        scale *= wanted / reached
    raise MeasurementError(
        f"{name}: noise of norm {wanted:.3g} cannot be held in {error.dtype}. Set `dtype: float32` "
        "for the model"
    )
