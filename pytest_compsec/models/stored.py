"""Bits per weight of a GGUF file or a packed GPTQ or AWQ checkpoint, from the headers of the files:
loading unpacks them, so memory cannot show them.

GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3).
"""

from __future__ import annotations

import importlib.util
import math
import os
import struct
from pathlib import Path
from typing import BinaryIO

from pytest_compsec.errors import LoadError, MissingExtraError
from pytest_compsec.models import quantized_checkpoints
from pytest_compsec.models.arm import StagedFiles
from pytest_compsec.models.packed.layers import inventory
from pytest_compsec.models.packed.settings import packed_settings, quantization_of

_FIXED = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_NOT_LINEAR = ("token_embd.weight", "output.weight", "position_embd.weight")


def stored_bits(files: StagedFiles) -> float | None:
    """Mean bits per weight of the linear layers in the files, scales (GPTQ and AWQ: also zero
    points and group indices) included; None when the source is neither a GGUF file nor a packed
    checkpoint. Raises LoadError when a header cannot be read or does not fit the config."""
    if files.entry is None:
        settings = packed_settings(files.directory)
        if settings is None:
            if quantization_of(files.directory) is None:
                return None
            return quantized_checkpoints.stored_bits(files.directory)
        return inventory(files.directory, settings).bits
    sizes = _block_sizes(files.entry)
    bits = weights = 0
    for name, shape, kind in read_tensor_infos(files.directory / files.entry):
        if len(shape) >= 2 and name not in _NOT_LINEAR:
            elements = math.prod(shape)
            block, size = sizes[kind]
            bits += 8 * elements // block * size
            weights += elements
    return bits / weights if weights else None


def _block_sizes(entry: str) -> dict[int, tuple[int, int]]:
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("gguf", "gguf", f"loading the GGUF file {entry}")
    import gguf

    return {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}


def read_tensor_infos(path: Path) -> list[tuple[str, tuple[int, ...], int]]:
    """``(name, shape as stored, type)`` of each tensor of a GGUF file. Raises LoadError for a
    header that does not fit the file."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF" or _number(file, "I") not in (2, 3):
                raise ValueError("no GGUF file of version 2 or 3")
            tensors, pairs = _number(file, "Q"), _number(file, "Q")
            for _ in range(pairs):
                _string(file)
                _skip_value(file, _number(file, "I"))
            return [_tensor_info(file) for _ in range(tensors)]
    except (ValueError, KeyError, struct.error, OverflowError, RecursionError, OSError) as error:
        raise LoadError(
            f"{path.name} is not a readable GGUF file ({error}): it is truncated or corrupted. "
            "Fetch it again, then run `compsec pin`"
        ) from error


def _tensor_info(file: BinaryIO) -> tuple[str, tuple[int, ...], int]:
    name = _string(file).decode("utf-8", "replace")
    shape = tuple(_number(file, "Q") for _ in range(_number(file, "I")))
    kind = _number(file, "I")
    _number(file, "Q")  # Where the data begins; not needed.
    return name, shape, kind


def _skip_value(file: BinaryIO, kind: int) -> None:
    if kind == _STRING:
        _string(file)
    elif kind == _ARRAY:
        inner, count = _number(file, "I"), _number(file, "Q")
        if inner in _FIXED:
            file.seek(_FIXED[inner] * count, 1)
        else:
            for _ in range(count):
                _skip_value(file, inner)
    else:
        file.seek(_FIXED[kind], 1)


def _string(file: BinaryIO) -> bytes:
    length = _number(file, "Q")
    if length > os.fstat(file.fileno()).st_size:  # before memory is taken for it
        raise ValueError("the header ends too early")
    text = file.read(length)
    if len(text) != length:
        raise ValueError("the header ends too early")
    return text


def _number(file: BinaryIO, code: str) -> int:
    size = struct.calcsize(code)
    return int(struct.unpack(f"<{code}", file.read(size))[0])
