"""What the weights of a loaded module really are: bits, zeros and shapes, matrix by matrix.

Measured from the storage in memory, not read from a config: a checkpoint that was "saved after
quantization" and still holds full-precision numbers shows 16 or 32 bits here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

from pytest_compsec.compression.layouts import layout_of
from pytest_compsec.compression.structure import Structure, dense_structure, structure_of
from pytest_compsec.errors import NotCompressedError
from pytest_compsec.models.quantized_storage import PackedWeight, packed_weight
from pytest_compsec.models.sparsity import is_two_four, least_row_zeros, silent_channels

if TYPE_CHECKING:
    import torch

Role = Literal["linear", "embedding", "output", "convolution", "other"]

# The share by which zeros or bits must differ before a source variant counts as compressed. Well
# below any real compression, well above what a few changed weights or padding amount to.
_LEAST_DIFFERENCE = 0.001
# Linear layers that are no nn.Linear: of GPT-2 in transformers, and of hqq.
_LINEAR_BY_NAME = frozenset({"Conv1D", "HQQLinear"})
# What bare parameters that are added to the inputs of a vision transformer are called.
_EMBEDDING_PARTS = ("embed", "token", "position")


@dataclasses.dataclass(frozen=True)
class WeightMatrix:
    """One weight matrix. ``bits`` is bits per weight of the stored codes alone, ``overhead_bits``
    what the scales beside them add per weight; ``zeros`` is the fraction of weights that are
    exactly zero. ``role``: ``linear`` (a linear layer inside the model), ``output`` (the output
    embedding, where it is a matrix of its own), ``embedding``, ``convolution`` or ``other``.

    ``levels``, of a matrix on a grid: how many different values a group of ``group_size`` inputs of
    an output channel (all inputs: None) can hold, where every weight was found to be one of them,
    bit for bit; None where no grid is known, or a weight is off it. A matrix that simulates a
    quantized one, or keeps each small code in a byte of its own, has fewer levels than its bits
    could tell apart.

    ``row_zeros`` is the fraction of zeros in the output channel that has fewest, ``two_four``
    whether of every four consecutive inputs at least two are zero (known of linear layers and the
    output embedding, the former of convolutions too, unless their weights are packed).
    ``silent_channels``, of the same, is the fraction of output channels that have no weight and no
    bias other than zero."""

    name: str
    role: Role
    shape: tuple[int, ...]
    storage: str
    bits: float
    overhead_bits: float
    zeros: float
    levels: int | None = None
    group_size: int | None = None
    row_zeros: float = 0.0
    two_four: bool = False
    silent_channels: float = 0.0

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class WeightReport:
    """All weight matrices of one loaded module. ``stored_bits`` is bits per weight of the linear
    layers in the source file, scales included, where a loader may unpack it (GGUF, GPTQ, AWQ and
    other quantized checkpoints); else None.
    ``dense`` and ``structure``, of a model from which heads, channels or layers were removed: what
    it was made of before, and what it is found to be made of."""

    matrices: tuple[WeightMatrix, ...]
    stored_bits: float | None = None
    dense: Structure | None = None
    structure: Structure | None = None

    def of(self, *roles: Role) -> tuple[WeightMatrix, ...]:
        return tuple(matrix for matrix in self.matrices if matrix.role in roles)

    @property
    def bits(self) -> float:
        """Mean bits per weight in memory over linear layers (every matrix if there are none)."""
        return _mean(self._body, lambda matrix: matrix.bits)

    @property
    def zeros(self) -> float:
        """Fraction of zeros over linear layers (every matrix if there are none)."""
        return _mean(self._body, lambda matrix: matrix.zeros)

    @property
    def elements(self) -> int:
        """Number of weights in all matrices."""
        return sum(matrix.elements for matrix in self.matrices)

    @property
    def _body(self) -> tuple[WeightMatrix, ...]:
        return self.of("linear") or self.matrices

    def to_json(self) -> dict[str, Any]:
        return {
            "stored_bits": self.stored_bits,
            **{
                key: dataclasses.asdict(structure)
                for key, structure in (("dense", self.dense), ("structure", self.structure))
                if structure is not None
            },
            "matrices": [
                {**dataclasses.asdict(matrix), "shape": list(matrix.shape)}
                for matrix in self.matrices
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> WeightReport:
        return cls(
            matrices=tuple(
                WeightMatrix(**{**entry, "shape": tuple(entry["shape"])})
                for entry in value["matrices"]
            ),
            stored_bits=value["stored_bits"],
            **{
                key: Structure.from_json(value[key])
                for key in ("dense", "structure")
                if key in value
            },
        )


def measure_weights(module: torch.nn.Module, *, stored_bits: float | None = None) -> WeightReport:
    """Measure every parameter of two or more dimensions; a tied matrix counts once.

    A layer that holds packed codes counts as one matrix, called ``weight`` whatever the library
    calls its parts.
    """
    roles = _roles(module)
    packed = _packed(module)
    belonging = {f"{prefix}{part}" for prefix, weight in packed.values() for part in weight.beside}
    layers = {
        f"{name}.weight" if name else "weight": layer for name, layer in module.named_modules()
    }
    matrices = []
    for name, parameter in module.named_parameters():
        if name in packed:
            prefix, weight = packed[name]
            name = f"{prefix}weight"
            matrices.append(_of_packed(name, roles.get(name, "other"), weight))
        elif name not in belonging and len(_logical_shape(parameter)) >= 2:
            matrices.append(
                _measure(name, _role(name, parameter, roles), parameter, layers.get(name))
            )
    dense = dense_structure(module)
    return WeightReport(
        matrices=tuple(matrices),
        stored_bits=stored_bits,
        dense=dense,
        structure=None if dense is None else structure_of(module),
    )


def with_stored_buffers(report: WeightReport, module: torch.nn.Module) -> WeightReport:
    """The report with the buffers of a user's own module that are weights as well: floats of two or
    more dimensions that are stored, masks of zeros and ones apart. Without them, a module that
    keeps its weights in buffers would look smaller than the same one with parameters."""
    stored = module.state_dict(keep_vars=True)
    known = {id(parameter) for parameter in module.parameters()}
    buffers = [
        _measure(name, "other", value, None)
        for name, value in stored.items()
        if getattr(value, "ndim", 0) >= 2
        and value.is_floating_point()
        and id(value) not in known
        and not bool(((value == 0) | (value == 1)).all())
    ]
    return dataclasses.replace(report, matrices=(*report.matrices, *buffers))


def check_is_compressed(original: WeightReport, compressed: WeightReport) -> None:
    """Raise NotCompressedError when a source variant shows no compression against its original.

    It must have fewer weights, fewer bits per weight, or more zeros. Zeros count by the bits of the
    weights that are none: rounding makes some too, and more bits for nearly as many weights are no
    compression. Where both came from files
    that the loader unpacks, the bits in the files are compared; else the bits in memory of the
    original with those of the compressed one in its file, if known, or in memory.
    """
    if original.stored_bits is not None and compressed.stored_bits is not None:
        bits_before, bits_after = original.stored_bits, compressed.stored_bits
    else:
        bits_before = original.bits
        bits_after = compressed.bits if compressed.stored_bits is None else compressed.stored_bits
    share = 1.0 - _LEAST_DIFFERENCE
    # Layers that keep their codes in buffers (gptqmodel's) show no matrices: not fewer weights.
    shown = bool(compressed.of("linear")) or not original.of("linear")
    if (
        (shown and compressed.elements < original.elements * share)
        or bits_after < bits_before * share
        or bits_after * (1.0 - compressed.zeros) < bits_before * (1.0 - original.zeros) * share
    ):
        return
    raise NotCompressedError(
        f"the variant is not compressed: it has {compressed.elements:,} weights (original "
        f"{original.elements:,}), {bits_after:.2f} bits per weight (original {bits_before:.2f}) "
        f"and {compressed.zeros:.2%} zeros (original {original.zeros:.2%}). Was a full-precision "
        "copy saved in place of the compressed model, or do both sources name the same model?"
    )


def _mean(matrices: Iterable[WeightMatrix], value: Any) -> float:
    chosen = tuple(matrices)
    total = sum(matrix.elements for matrix in chosen)
    return sum(value(matrix) * matrix.elements for matrix in chosen) / total if total else 0.0


def _roles(module: torch.nn.Module) -> dict[str, Role]:
    import torch

    convolutions = (
        torch.nn.Conv1d,
        torch.nn.Conv2d,
        torch.nn.Conv3d,
        torch.nn.ConvTranspose1d,
        torch.nn.ConvTranspose2d,
        torch.nn.ConvTranspose3d,
    )
    output = output_embedding(module)
    roles: dict[str, Role] = {}
    for name, child in module.named_modules():
        role: Role
        if child is output:
            role = "output"
        elif isinstance(child, torch.nn.Embedding | torch.nn.EmbeddingBag):
            role = "embedding"
        elif isinstance(child, torch.nn.Linear) or type(child).__name__ in _LINEAR_BY_NAME:
            role = "linear"
        elif isinstance(child, convolutions):
            role = "convolution"
        else:
            continue
        roles[f"{name}.weight" if name else "weight"] = role
    return roles


def _role(name: str, parameter: torch.nn.Parameter, roles: Mapping[str, Role]) -> Role:
    """As :func:`_roles` has it. A parameter that belongs to no layer, is called a position, class
    token or the like and has one entry for all samples, is an embedding (vision transformers)."""
    if name in roles:
        return roles[name]
    own = name.rpartition(".")[2].lower()
    shape = _logical_shape(parameter)
    if len(shape) >= 3 and shape[0] == 1 and any(part in own for part in _EMBEDDING_PARTS):
        return "embedding"
    return "other"


def output_embedding(module: torch.nn.Module) -> torch.nn.Module | None:
    """The layer that turns hidden states into logits, or None."""
    get = getattr(module, "get_output_embeddings", None)
    return cast("torch.nn.Module | None", get()) if get is not None else None


def _packed(module: torch.nn.Module) -> dict[str, tuple[str, PackedWeight]]:
    """By the full name of the parameter with the codes: the prefix of its layer, and its weight."""
    found = {}
    for name, layer in module.named_modules():
        weight = packed_weight(layer)
        if weight is not None:
            prefix = f"{name}." if name else ""
            found[f"{prefix}{weight.parameter}"] = (prefix, weight)
    return found


def _of_packed(name: str, role: Role, weight: PackedWeight) -> WeightMatrix:
    elements = math.prod(weight.shape)
    return WeightMatrix(
        name=name,
        role=role,
        shape=weight.shape,
        storage=weight.storage,
        bits=8.0 * weight.code_bytes / elements,
        overhead_bits=8.0 * weight.overhead_bytes / elements,
        zeros=weight.zeros / elements,
        levels=weight.levels,
        group_size=weight.group_size,
    )


def _logical_shape(parameter: torch.nn.Parameter) -> tuple[int, ...]:
    state = getattr(parameter, "quant_state", None)
    return tuple(parameter.shape if state is None else state.shape)


def _measure(
    name: str, role: Role, parameter: torch.nn.Parameter, layer: torch.nn.Module | None
) -> WeightMatrix:
    shape = _logical_shape(parameter)
    elements = math.prod(shape)
    data = parameter.detach()
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        storage = str(state.quant_type)
        overhead, zeros = _state_bytes(state), _zeros_of_four_bits(data, state, elements)
    else:
        storage = str(data.dtype).removeprefix("torch.")
        scales = getattr(parameter, "SCB", None)
        overhead = 0 if scales is None else scales.numel() * scales.element_size()
        zeros = elements - int(data.count_nonzero()) if elements else 0
    # Left on the parameter by the method that claims it; what is reported is the check of it.
    rows = None
    layout = None if layer is None else layout_of(layer)
    if layout is not None and state is None and data.dim() >= 2:
        rows = layout.matrix(data)
    grid = getattr(parameter, "simulated_grid", None)
    on_grid = grid is not None and grid.holds(data)
    return WeightMatrix(
        name=name,
        role=role,
        shape=shape,
        storage=storage,
        bits=8.0 * data.numel() * data.element_size() / elements if elements else 0.0,
        overhead_bits=8.0 * overhead / elements if elements else 0.0,
        zeros=zeros / elements if elements else 0.0,
        levels=grid.levels if grid is not None and on_grid else None,
        group_size=grid.group_size if grid is not None and on_grid else None,
        # Looked for only where so many zeros are that they can be there.
        row_zeros=least_row_zeros(rows) if rows is not None and zeros else 0.0,
        # Along the inputs of a linear layer; a kernel's places are none of the pattern's inputs.
        two_four=rows is not None
        and data.dim() == 2
        and 2 * zeros >= elements
        and is_two_four(rows),
        silent_channels=silent_channels(rows, getattr(layer, "bias", None))
        if rows is not None and zeros
        else 0.0,
    )


def _state_bytes(state: Any) -> int:
    parts = [state.absmax]
    if state.state2 is not None:
        parts.append(state.state2.absmax)
    return sum(part.numel() * part.element_size() for part in parts if part is not None)


def _zeros_of_four_bits(data: torch.Tensor, state: Any, elements: int) -> int:
    """Count the codes that stand for 0.0: two codes a byte, looked up in a table of 256 bytes."""
    import torch

    if state.code is None:
        return 0
    zero = [float(value) == 0.0 for value in state.code.tolist()]
    per_byte = torch.tensor([zero[byte >> 4] + zero[byte & 15] for byte in range(256)])
    packed = data.contiguous().view(torch.uint8).flatten()
    counts = torch.bincount(packed, minlength=256).cpu()
    # An odd number of weights leaves half a byte over, which must not lift the share above one.
    return min(int((counts * per_byte).sum()), elements)
