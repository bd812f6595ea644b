"""How many bits each weight matrix of a loaded model has: of several measures the lowest.

What memory holds (:mod:`pytest_compsec.models.weights`), what the files hold where the loader
unpacks them, and what the values themselves show: a matrix that was rounded to 2 bits and then
saved in 8, 16 or 32 holds 4 different values in each group of its inputs, whatever it is stored in.
No average, and no word of a config or a file name.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import LoadError, MissingExtraError
from pytest_compsec.models.held_values import held_values

if TYPE_CHECKING:
    import torch

    from pytest_compsec.models.arm import StagedFiles
    from pytest_compsec.models.loaded import LoadedModel


@dataclasses.dataclass(frozen=True)
class MatrixBits:
    """``bits`` per weight of one matrix, scales and zero points not counted, and ``how`` that was
    found: ``int8 in memory``, ``Q2_K in the file``."""

    name: str
    bits: float
    how: str


@dataclasses.dataclass(frozen=True)
class BitsFound:
    """Every weight matrix of a model, and what of it could not be measured, in words."""

    matrices: tuple[MatrixBits, ...]
    unmeasured: tuple[str, ...] = ()

    @property
    def lowest(self) -> MatrixBits | None:
        """The matrix with the fewest bits, the first of several; None when there is no matrix."""
        return min(self.matrices, key=lambda matrix: matrix.bits, default=None)

    def below(self, bits: float) -> tuple[MatrixBits, ...]:
        """Those with fewer bits, the fewest first."""
        found = [matrix for matrix in self.matrices if matrix.bits < bits]
        return tuple(sorted(found, key=lambda matrix: matrix.bits))


def bits_of_matrices(model: LoadedModel) -> BitsFound:
    """Measure every weight matrix of ``model``.

    Of a model in llama.cpp only the file shows anything: the blocks in which it stores weights, as
    that program computes with them, and not the values in them.

    Raises MeasurementError for a served model, LoadError when a file cannot be read.
    """
    arm = model.arm
    found = {
        matrix.name: MatrixBits(matrix.name, *_in_memory(matrix))
        for matrix in model.weights.matrices
    }
    if arm.runtime is not None:
        return BitsFound(tuple(found.values()), () if found else (_NOTHING,))
    module = model.module
    # What a recipe made, or a merge, is no longer what the files hold.
    stored = list(_stored(arm.files)) if arm.recipe is None and not _merged(model) else []
    if stored and arm.files.entry is not None:
        found = {}  # The names of a GGUF file are its own: its matrices stand for the module's.
    for matrix in stored:
        _lower(found, matrix, module)
    lowest = min((matrix.bits for matrix in found.values()), default=math.inf)
    for name, rows in _rows_of(module):
        held = held_values(rows, below=found[name].bits if name in found else lowest)
        if held is not None:
            _lower(found, MatrixBits(name, held.bits, held.text), module)
    hidden = [
        f"{name} keeps its weights where they are not seen"
        for name, layer in _linear_layers(module)
        if not _shows(layer)
        and not any(known in found for known in _names(f"{name}.weight", module))
    ]
    return BitsFound(tuple(found.values()), tuple(hidden) if found else (_NOTHING,))


_NOTHING = "it shows no weight matrix"


def code_bits(levels: int) -> int:
    """Bits of a code: the fewest that tell so many values apart (three values: 2)."""
    return max(1, math.ceil(math.log2(levels))) if levels > 0 else 1


def _in_memory(matrix: Any) -> tuple[float, str]:
    stored, levels = float(matrix.bits), matrix.levels
    if levels is None or code_bits(levels) >= stored:
        return stored, f"{matrix.storage}"
    return float(code_bits(levels)), f"a grid of {levels} values, held as {matrix.storage}"


def _merged(model: LoadedModel) -> bool:
    """Whether an adapter was merged into the files' weights: an original's is, a variant's with
    files of its own goes on top of them."""
    return model.arm.adapter is not None and model.arm.variant is None


def _lower(found: dict[str, MatrixBits], matrix: MatrixBits, module: torch.nn.Module) -> None:
    """Take ``matrix`` in, under the name that the module has for it, where it is lower."""
    name = next((name for name in _names(matrix.name, module) if name in found), matrix.name)
    if name not in found or matrix.bits < found[name].bits:
        found[name] = dataclasses.replace(matrix, name=name)


def _names(name: str, module: torch.nn.Module) -> tuple[str, ...]:
    """What a tensor of the files may be called in the module: with or without the base model's
    prefix."""
    prefix = f"{getattr(module, 'base_model_prefix', '')}."
    return name, f"{prefix}{name}", name.removeprefix(prefix)


def _stored(files: StagedFiles) -> Iterator[MatrixBits]:
    """The matrices of files that a loader unpacks, with the bits of their codes there."""
    from pytest_compsec.models.packed.layers import inventory
    from pytest_compsec.models.packed.settings import packed_settings, quantization_of
    from pytest_compsec.models.stored_codes import read_checkpoint

    if files.entry is not None:
        yield from _of_gguf(files)
        return
    settings = packed_settings(files.directory)
    if settings is not None:
        for layer in inventory(files.directory, settings).layers.values():
            how = f"{settings.method} of {layer.bits} bits in {layer.file}"
            yield MatrixBits(f"{layer.name}.weight", float(layer.bits), how)
    elif quantization_of(files.directory) is not None:
        for codes in read_checkpoint(files.directory).codes.values():
            # Words are padded at the end of a row: the whole bits that fit into them.
            bits = 32 * codes.words // codes.shape[-1] if codes.packed else 8
            bits = min(bits, codes.declared_bits or bits)
            how = f"codes of {bits} bits in {codes.file}"
            yield MatrixBits(f"{codes.layer}.weight", float(bits), how)


def _of_gguf(files: StagedFiles) -> Iterator[MatrixBits]:
    from pytest_compsec.models.gguf_weights import CODE_BITS

    assert files.entry is not None
    try:
        import gguf
    except ImportError as error:
        raise MissingExtraError("gguf", "gguf", f"measuring the GGUF file {files.entry}") from error
    try:
        tensors = list(gguf.GGUFReader(files.directory / files.entry).tensors)
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        raise LoadError(
            f"{files.entry} is not a readable GGUF file ({error}): it is truncated or corrupted. "
            "Fetch it again, then run `compsec pin`"
        ) from error
    for tensor in tensors:
        if len(tensor.shape) >= 2:
            block, size = gguf.GGML_QUANT_SIZES[tensor.tensor_type]
            kind = tensor.tensor_type.name
            bits = float(min(CODE_BITS.get(kind, 8.0 * size / block), 8.0 * size / block))
            yield MatrixBits(str(tensor.name), bits, f"{kind} in {files.entry}")


def _linear_layers(module: torch.nn.Module) -> Iterable[tuple[str, Any]]:
    """Linear layers in any storage, without what an adapter puts around them."""
    from pytest_compsec.localization.dense import linear_layers

    for name, layer in linear_layers(module).items():
        yield name, getattr(layer, "base_layer", layer)


def _shows(layer: Any) -> bool:
    """Whether a linear layer has its weights in parameters, which memory shows."""
    return any(parameter.dim() >= 2 for parameter in layer.parameters(recurse=False))


def _rows_of(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and values of every matrix that can be read, one after the other: (output channels,
    inputs)."""
    from pytest_compsec.compression.layouts import layout_of
    from pytest_compsec.errors import MeasurementError
    from pytest_compsec.localization.dense import dense_weight

    layers = dict(_linear_layers(module))
    seen: set[int] = set()
    for name, layer in layers.items():
        weight = getattr(layer, "weight", None)
        if id(weight) in seen or not _shows(layer):
            continue
        seen.add(id(weight))
        if weight is not None and weight.is_floating_point() and _is_plain(weight):
            yield f"{name}.weight", weight.t() if type(layer).__name__ == "Conv1D" else weight
            continue
        try:
            yield f"{name}.weight", dense_weight(layer)
        except (MeasurementError, RuntimeError, NotImplementedError):
            continue  # Its codes are known from memory; the values in them are not.
    for name, child in module.named_modules():
        if name in layers or f"{name}.base_layer" in layers:
            continue
        for own, parameter in child.named_parameters(recurse=False):
            if (
                id(parameter) in seen
                or parameter.dim() < 2
                or not parameter.is_floating_point()
                or not _is_plain(parameter)
                or "lora_" in name
            ):
                continue
            seen.add(id(parameter))
            layout = layout_of(child) if own == "weight" else None
            rows = layout.matrix(parameter.data) if layout is not None else parameter.flatten(0, -2)
            yield f"{name}.{own}" if name else own, rows


def _is_plain(weight: torch.Tensor) -> bool:
    """No tensor type of another library, and no packed codes."""
    return (
        type(weight).__module__.startswith("torch.")
        and not hasattr(weight, "quant_state")
        and weight.element_size() > 1
    )
