"""How large a loaded model is: what it holds in memory, and what it would take when packed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytest_compsec.models.weights import WeightMatrix, WeightReport

if TYPE_CHECKING:
    import torch

    from pytest_compsec.compression.grid import Grid


@dataclasses.dataclass(frozen=True)
class ModelSize:
    """``parameters``: weights of all matrices, biases and norms, tied ones once, whatever number of
    bits each is held in. ``bytes_in_memory``: of everything that a forward pass reads, the scales
    and tables of quantized weights and stored buffers included. ``bytes_when_packed``: the same,
    with the codes of matrices on a verified grid packed as a deployed file packs them."""

    parameters: int
    bytes_in_memory: int
    bytes_when_packed: int

    @property
    def bytes_per_parameter(self) -> float:
        """In memory; NaN for a model without parameters."""
        return self.bytes_in_memory / self.parameters if self.parameters else math.nan

    @property
    def packed_bytes_per_parameter(self) -> float:
        """When packed; NaN for a model without parameters."""
        return self.bytes_when_packed / self.parameters if self.parameters else math.nan


def model_bytes(report: WeightReport, module: torch.nn.Module) -> ModelSize:
    """The size of ``module``, of which ``report`` is the measurement.

    Packed differently from how they are held are only matrices that ``report`` found to be on a
    grid, every weight of them: those that simulate a quantized one
    (:meth:`pytest_compsec.compression.grid.Grid.packed_bytes`), and those that keep each small code
    in a byte or a float of its own, whose scales are counted as they are. Weights that a loader
    unpacked (GGUF) count as the floats that run.
    """
    vectors = sum(
        vector.numel()
        for vector in (*module.parameters(), *_plain_biases(module))
        # Matrices are in the report; integers are no weights of their own but describe some.
        if vector.dim() == 1 and vector.is_floating_point()
    )
    in_memory = _distinct_bytes(module)
    parameters = dict(module.named_parameters())
    saved = sum(
        _bytes_saved(matrix, getattr(parameters.get(matrix.name), "simulated_grid", None))
        for matrix in report.matrices
    )
    return ModelSize(report.elements + vectors, in_memory, in_memory - saved)


def _bytes_saved(matrix: WeightMatrix, grid: Grid | None) -> int:
    """Bytes that packing takes off ``matrix``; never below zero, since nobody packs to grow."""
    # Fewer than 8 bits means that its library has packed it.
    if matrix.levels is None or matrix.bits < 8:
        return 0
    held = round(matrix.elements * matrix.bits / 8)
    if grid is not None:
        packed = grid.packed_bytes(matrix.shape)
    else:
        packed = math.ceil(matrix.elements * math.ceil(math.log2(max(matrix.levels, 2))) / 8)
    return max(0, held - packed)


def _distinct_bytes(module: torch.nn.Module) -> int:
    """Bytes of all tensors of ``module``, what is shared once."""
    seen: dict[Any, int] = {}
    for tensor in _tensors(module):
        size = tensor.numel() * tensor.element_size()
        place = tensor.data_ptr()
        seen[(tensor.device, place, size) if place else id(tensor)] = size
    return sum(seen.values())


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from _plain_biases(module)
    for parameter in module.parameters():
        yield from _parts(parameter)
        # bitsandbytes keeps the scales beside the codes, as attributes of the parameter.
        yield from _held_by(getattr(parameter, "quant_state", None))
        yield from _held_by(getattr(parameter, "SCB", None))
    for layer in module.modules():
        for name, buffer in layer.named_buffers(recurse=False):
            # What is not stored is computed anew when a model is built: no part of its size.
            if name not in layer._non_persistent_buffers_set:
                yield from _parts(buffer)
        if type(layer).__name__ == "HQQLinear":
            yield from _held_by(getattr(layer, "W_q", None))
            yield from _held_by(getattr(layer, "meta", None))
        # From its first forward pass on, an 8-bit layer of bitsandbytes holds its scales here.
        state = getattr(layer, "state", None)
        yield from _held_by(getattr(state, "SCB", None))


def _plain_biases(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """The biases that layers of hqq keep as a plain tensor, which is no parameter of theirs."""
    import torch

    for layer in module.modules():
        bias = getattr(layer, "bias", None)
        if (
            type(layer).__name__ == "HQQLinear"
            and isinstance(bias, torch.Tensor)
            and not isinstance(bias, torch.nn.Parameter)
        ):
            yield bias


def _held_by(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in a tensor, a dictionary or an object of quantization settings."""
    import torch

    if isinstance(value, torch.Tensor):
        yield from _parts(value)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _held_by(each)
    elif type(value).__name__ == "QuantState":
        yield from _held_by(vars(value))


def _parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The plain tensors that a tensor of another library is made of; a plain one itself."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        yield tensor
        return
    names, _ = flatten()
    for name in names:
        yield from _parts(getattr(tensor, name))
