"""What the weights of a GGUF file are, matrix by matrix, as its runtime computes with them.

transformers unpacks such a file, and memory then shows dense matrices. llama.cpp keeps the blocks
that are stored, so here the file itself is measured.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pytest_compsec.errors import LoadError, MissingExtraError
from pytest_compsec.models.arm import StagedFiles
from pytest_compsec.models.stored import stored_bits
from pytest_compsec.models.weights import Role, WeightMatrix, WeightReport

#: Bits of the codes alone, where a type has codes of one width beside its scales
#: (https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h, the ``block_*`` structures).
CODE_BITS = {
    "Q4_0": 4,
    "Q4_1": 4,
    "Q5_0": 5,
    "Q5_1": 5,
    "Q8_0": 8,
    "Q2_K": 2,
    "Q3_K": 3,
    "Q4_K": 4,
    "Q5_K": 5,
    "Q6_K": 6,
    "IQ4_NL": 4,
    "IQ4_XS": 4,
    "MXFP4": 4,
}
_ROLES: dict[str, Role] = {
    "token_embd.weight": "embedding",
    "position_embd.weight": "embedding",
    "output.weight": "output",
}
#: Weights that are unpacked at a time while zeros are counted.
_PIECE = 1 << 22


def measure_gguf(files: StagedFiles) -> WeightReport:
    """The matrices of the file under their names there, shapes as torch has them (outputs first).

    ``bits`` are those of the codes and ``overhead_bits`` those of scales and offsets; of a type
    without codes of one width, all are in ``bits``. Zeros are counted in the unpacked weights.

    Raises LoadError when the file cannot be read or a type cannot be unpacked, MissingExtraError
    without the package ``gguf``.
    """
    assert files.entry is not None, "only a single GGUF file has blocks"
    try:
        import gguf
    except ImportError as error:
        raise MissingExtraError("gguf", "gguf", f"loading the GGUF file {files.entry}") from error
    bits = stored_bits(files)  # First: it names a truncated file, which the reader below maps.
    try:
        tensors = list(gguf.GGUFReader(files.directory / files.entry).tensors)
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        raise LoadError(
            f"{files.entry} is not a readable GGUF file ({error}): it is truncated or corrupted. "
            "Fetch it again, then run `compsec pin`"
        ) from error
    return WeightReport(
        matrices=tuple(
            _measure(gguf, Path(files.entry).name, tensor)
            for tensor in tensors
            if len(tensor.shape) >= 2
        ),
        stored_bits=bits,
    )


def _measure(gguf: Any, entry: str, tensor: Any) -> WeightMatrix:
    shape = tuple(int(size) for size in reversed(tensor.shape))
    kind, elements = tensor.tensor_type, math.prod(shape)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    total = 8.0 * size / block
    codes = min(float(CODE_BITS.get(kind.name, total)), total)
    return WeightMatrix(
        name=str(tensor.name),
        role=_ROLES.get(str(tensor.name), "linear"),
        shape=shape,
        storage=str(kind.name),
        bits=codes,
        overhead_bits=total - codes,
        zeros=_zeros(gguf, entry, tensor) / elements if elements else 0.0,
    )


def _zeros(gguf: Any, entry: str, tensor: Any) -> int:
    import numpy as np

    rows = tensor.data.reshape(-1, tensor.data.shape[-1])
    step = max(1, _PIECE // int(tensor.shape[0]))
    zeros = 0
    try:
        for start in range(0, len(rows), step):
            weights = gguf.dequantize(rows[start : start + step], tensor.tensor_type)
            zeros += int(weights.size - np.count_nonzero(weights))
    except NotImplementedError as error:
        raise LoadError(
            f"{entry}: the tensor {tensor.name} is stored as {tensor.tensor_type.name}, which the "
            "installed gguf cannot unpack, so its weights cannot be measured. Upgrade it: "
            "pip install --upgrade gguf"
        ) from error
    return zeros
