"""The grid of every matrix of a GGUF file.

The block types differ in where they keep scales, and the loader renames and reorders matrices. Both
are left to the libraries: copies of the file, with the lowest code everywhere, the one above it and
the highest, scales untouched, are loaded as it would be. What they differ by is the step of each
weight, and how far its grid reaches.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from pytest_compsec.derivation.grids import RoundedMatrix, Rounding
from pytest_compsec.errors import MeasurementError, MissingExtraError
from pytest_compsec.localization.dense import dense_weight, linear_layers

#: Bytes that set the codes in them to the lowest value, the one above it and the highest.
_FOUR_BITS = (0x00, 0x11, 0xFF)
_TWO_BITS = (0x00, 0x55, 0xFF)
_EIGHT_BITS = (0x81, 0x82, 0x7F)  # signed; -128 is not used
_NONE = slice(0)
#: Of each block type: where in a block the lowest bits of its codes are, the bytes for them, where
#: the higher bits are, and how its quantizer rounds. Layout: ggml-common.h of ggml; rounding: the
#: reference quantizers of ggml-quants.c (those of the k types search for scales, and the scale of
#: Q4_0 and Q5_0 leaves one end half a step short).
_BLOCKS: dict[str, tuple[slice, tuple[int, int, int], slice, Rounding]] = {
    "Q4_0": (slice(2, 18), _FOUR_BITS, _NONE, "searched"),
    "Q4_1": (slice(4, 20), _FOUR_BITS, _NONE, "nearest"),
    "Q5_0": (slice(6, 22), _FOUR_BITS, slice(2, 6), "searched"),
    "Q5_1": (slice(8, 24), _FOUR_BITS, slice(4, 8), "nearest"),
    "Q8_0": (slice(2, 34), _EIGHT_BITS, _NONE, "nearest"),
    "Q2_K": (slice(16, 80), _TWO_BITS, _NONE, "searched"),
    "Q3_K": (slice(32, 96), _TWO_BITS, slice(0, 32), "searched"),
    "Q4_K": (slice(16, 144), _FOUR_BITS, _NONE, "searched"),
    "Q5_K": (slice(48, 176), _FOUR_BITS, slice(16, 48), "searched"),
    "Q6_K": (slice(0, 128), _FOUR_BITS, slice(128, 192), "searched"),
}
#: Weights of a block, and of one of the k types.
_SMALL, _LARGE = 32, 256
_UNQUANTIZED = ("F32", "F16", "BF16", "F64")


def gguf_matrices(directory: Path, entry: str) -> dict[str, RoundedMatrix]:
    """By the layer's name in the transformers module. Raises MeasurementError for a block type
    whose codes are not known, MissingExtraError without the package ``gguf``."""
    kinds = _kinds(directory / entry)
    searched = any(_BLOCKS[kind][3] == "searched" for kind in kinds)
    large = any(kind.endswith("_K") for kind in kinds)
    with tempfile.TemporaryDirectory(prefix="compsec-grids-") as folder:
        path = Path(folder) / "grid.gguf"
        lowest, next_to_it, highest = (
            _filled(directory / entry, path, place) for place in range(3)
        )  # fmt: skip
    matrices = {}
    for name, low in lowest.items():
        step, reach = (next_to_it[name] - low).abs(), (highest[name] - low).abs()
        if not bool(step.any()):
            continue
        inputs = low.shape[1]
        block = _LARGE if large and inputs % _LARGE == 0 else _SMALL
        # Which type a matrix has is known by its number of values: no other type has Q8_0's.
        nearest = not searched or bool((reach - 254 * step).abs().max() <= 1e-3 * reach.max())
        rounding: Rounding = "nearest" if nearest else "searched"
        groups = torch.arange(inputs) // block
        matrices[name] = RoundedMatrix(step / 2, step / 2, reach, groups, rounding)
    return matrices


def _filled(source: Path, path: Path, place: int) -> dict[str, torch.Tensor]:
    """The matrices of ``source`` with codes set to one value, through a copy at ``path``."""
    from pytest_compsec.models.checkpoints import open_gguf

    shutil.copyfile(source, path)
    path.chmod(0o600)
    _fill(path, place)
    module = open_gguf(path.parent, path.name, "float32")
    layers = linear_layers(module)
    layers |= {n: e for n, e in module.named_modules() if isinstance(e, torch.nn.Embedding)}
    return {name: dense_weight(layer) for name, layer in layers.items()}


def _kinds(path: Path) -> set[str]:
    """The types of the quantized tensors of a file."""
    tensors = [t for t in _reader(path).tensors if t.tensor_type.name not in _UNQUANTIZED]
    kinds = {tensor.tensor_type.name for tensor in tensors}
    unknown = sorted(kinds.difference(_BLOCKS))
    if unknown:
        raise MeasurementError(
            f"{path.name} holds tensors of the type {', '.join(unknown)}, and what their quantizer "
            f"could have made of an original is not known here. Known: {', '.join(_BLOCKS)}"
        )
    stacked = [str(tensor.name) for tensor in tensors if len(tensor.shape) > 2]
    if stacked:
        raise MeasurementError(
            f"{path.name} holds the matrices of many experts in one tensor ({stacked[0]}), which "
            "are not compared here"
        )
    return kinds


def _fill(path: Path, place: int) -> None:
    """Set all codes to the lowest value (``place`` 0), the next (1) or the highest (2), in place.
    Only for the highest are the higher bits set."""
    import gguf

    reader = _reader(path, "r+")
    for tensor in reader.tensors:
        kind = tensor.tensor_type
        if kind.name not in _BLOCKS:
            continue
        low, values, high, _ = _BLOCKS[kind.name]
        blocks = tensor.data.reshape(-1).view("uint8")
        blocks = blocks.reshape(-1, gguf.GGML_QUANT_SIZES[kind][1])
        blocks[:, low] = values[place]
        blocks[:, high] = 0xFF if place == 2 else 0
    reader.data.flush()


def _reader(path: Path, mode: str = "r") -> Any:
    try:
        import gguf
    except ImportError as error:
        raise MissingExtraError("gguf", "gguf", f"loading the GGUF file {path.name}") from error
    return gguf.GGUFReader(path, mode)
