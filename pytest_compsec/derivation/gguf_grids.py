"""The grid of every matrix of a GGUF file.

The block types differ in where they keep scales, and the loader renames and reorders matrices. Both
are left to the libraries: the file is copied twice, once with every code 0 and once with every code
1, scales untouched, and loaded as it would be. The difference is the step of each weight.
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

#: Of each block type: where in a block the lowest bits of its codes are, the byte that sets each of
#: these codes to one, where higher bits are, and how its quantizer rounds. Layout: ggml-common.h of
#: ggml; rounding: the reference quantizers of ggml-quants.c (those of the k types search for
#: scales, and the scale of Q4_0 and Q5_0 leaves one end half a step short).
_BLOCKS: dict[str, tuple[slice, int, slice, Rounding]] = {
    "Q4_0": (slice(2, 18), 0x11, slice(0), "searched"),
    "Q4_1": (slice(4, 20), 0x11, slice(0), "nearest"),
    "Q5_0": (slice(6, 22), 0x11, slice(2, 6), "searched"),
    "Q5_1": (slice(8, 24), 0x11, slice(4, 8), "nearest"),
    "Q8_0": (slice(2, 34), 0x01, slice(0), "nearest"),
    "Q2_K": (slice(16, 80), 0x55, slice(0), "searched"),
    "Q3_K": (slice(32, 96), 0x55, slice(0, 32), "searched"),
    "Q4_K": (slice(16, 144), 0x11, slice(0), "searched"),
    "Q5_K": (slice(48, 176), 0x11, slice(16, 48), "searched"),
    "Q6_K": (slice(0, 128), 0x11, slice(128, 192), "searched"),
}
_UNQUANTIZED = ("F32", "F16", "BF16", "F64")


def gguf_matrices(directory: Path, entry: str) -> dict[str, RoundedMatrix]:
    """By the layer's name in the transformers module. Raises MeasurementError for a block type
    whose codes are not known, MissingExtraError without the package ``gguf``."""
    from pytest_compsec.models.checkpoints import open_gguf

    rounding = _rounding(directory / entry)
    with tempfile.TemporaryDirectory(prefix="compsec-grids-") as folder:
        path = Path(folder) / "grid.gguf"
        ends = []
        for ones in (False, True):
            shutil.copyfile(directory / entry, path)
            path.chmod(0o600)
            _fill(path, ones=ones)
            module = open_gguf(path.parent, path.name, "float32")
            layers = linear_layers(module)
            layers |= {n: e for n, e in module.named_modules() if isinstance(e, torch.nn.Embedding)}
            ends.append({name: dense_weight(layer) for name, layer in layers.items()})
    matrices = {}
    for name, zero in ends[0].items():
        half = (ends[1][name] - zero).abs() / 2
        if bool(half.any()):
            matrices[name] = RoundedMatrix(half, half, rounding)
    return matrices


def _rounding(path: Path) -> Rounding:
    kinds = {tensor.tensor_type.name for tensor in _reader(path).tensors}
    unknown = sorted(kinds.difference(_BLOCKS, _UNQUANTIZED))
    if unknown:
        raise MeasurementError(
            f"{path.name} holds tensors of the type {', '.join(unknown)}, and what their quantizer "
            f"could have made of an original is not known here. Known: {', '.join(_BLOCKS)}"
        )
    searched = any(_BLOCKS[kind][3] == "searched" for kind in kinds if kind in _BLOCKS)
    return "searched" if searched else "nearest"


def _fill(path: Path, *, ones: bool) -> None:
    """Set all codes to zero, or to one, in place."""
    import gguf

    reader = _reader(path, "r+")
    for tensor in reader.tensors:
        kind = tensor.tensor_type
        if kind.name not in _BLOCKS:
            continue
        low, one, high, _ = _BLOCKS[kind.name]
        blocks = tensor.data.reshape(-1).view("uint8")
        blocks = blocks.reshape(-1, gguf.GGML_QUANT_SIZES[kind][1])
        blocks[:, low] = one if ones else 0
        blocks[:, high] = 0
    reader.data.flush()


def _reader(path: Path, mode: str = "r") -> Any:
    try:
        import gguf
    except ImportError as error:
        raise MissingExtraError("gguf", "gguf", f"loading the GGUF file {path.name}") from error
    return gguf.GGUFReader(path, mode)
