"""The parts of each layer that bitsandbytes saved: there, of the types and sizes that belong
together, and of the kind that ``config.json`` claims.

transformers hands them to bitsandbytes as they are; what does not fit fails inside the first
answer, or reads memory that is not the layer's. Layout: ``Linear8bitLt`` keeps ``weight`` (int8)
with ``SCB`` (a scale for each output channel); ``Linear4bit`` keeps two codes a byte in ``weight``
with ``absmax`` for each block, ``quant_map`` (16 values) and ``quant_state.bitsandbytes__TYPE``,
JSON in bytes, and with double quantization ``nested_absmax`` and ``nested_quant_map``
(``QuantState.as_dict`` in bitsandbytes 0.49).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_compsec.errors import LoadError
from pytest_compsec.models.headers import StoredTensor
from pytest_compsec.models.packed.settings import Quantization

_STATE = ".quant_state.bitsandbytes__"
_AGAIN = "Fetch or save the model again, complete, then run `compsec pin`"


def check(
    name: str, directory: Path, quantization: Quantization, stored: Mapping[str, StoredTensor]
) -> None:
    """Hold every layer of ``stored`` (the headers of the files in ``directory``) against what its
    kind needs. Raises LoadError that begins with ``name`` and names file, tensor and field."""
    for key, tensor in stored.items():
        if key.endswith(".weight") and tensor.dtype == "I8":
            _check_claim(name, key, "load_in_8bit", quantization, tensor)
            _check_eight_bits(name, key, stored)
        elif key.endswith(".SCB") and f"{key.removesuffix('.SCB')}.weight" not in stored:
            raise LoadError(
                f"{name}: {tensor.file}: {key} is there, but its weight is not. {_AGAIN}"
            )
        elif _STATE in key:
            weight, _, kind = key.partition(_STATE)
            _check_claim(name, key, "load_in_4bit", quantization, tensor)
            _check_type(name, key, kind, quantization, tensor)
            _check_four_bits(name, weight, _state(name, directory, key, tensor), stored)


def _check_eight_bits(name: str, key: str, stored: Mapping[str, StoredTensor]) -> None:
    weight = stored[key]
    if len(weight.shape) != 2:
        raise LoadError(f"{name}: {weight.file}: {key} is int8 codes and no matrix. {_AGAIN}")
    scales = f"{key.removesuffix('.weight')}.SCB"
    _require(name, scales, "F32", weight.shape[0], stored, beside=key)


def _check_four_bits(
    name: str, key: str, state: Mapping[str, Any], stored: Mapping[str, StoredTensor]
) -> None:
    elements = math.prod(state["shape"])
    blocks = math.ceil(elements / state["blocksize"])
    if key not in stored:
        raise LoadError(f"{name}: {key} is missing beside its quant_state. {_AGAIN}")
    # Two codes to a byte, in whatever type the bytes are kept.
    held, needed = stored[key].bytes, math.ceil(elements / 2)
    if held != needed:
        raise LoadError(
            f"{name}: {stored[key].file}: {key} holds {held} bytes; its quant_state says shape "
            f"{list(state['shape'])}, which takes {needed}. {_AGAIN}"
        )
    nested = state.get("nested_blocksize")
    _require(name, f"{key}.absmax", "F32" if nested is None else "U8", blocks, stored, beside=key)
    _require(name, f"{key}.quant_map", "F32", 16, stored, beside=key)
    if nested is not None:
        second = math.ceil(blocks / nested)
        _require(name, f"{key}.nested_absmax", "F32", second, stored, beside=key)
        _require(name, f"{key}.nested_quant_map", "F32", 256, stored, beside=key)


def _require(
    name: str,
    key: str,
    dtype: str,
    elements: int,
    stored: Mapping[str, StoredTensor],
    *,
    beside: str,
) -> None:
    tensor = stored.get(key)
    if tensor is None:
        raise LoadError(
            f"{name}: {stored[beside].file}: {key} is missing beside {beside}. {_AGAIN}"
        )
    if (tensor.dtype, tensor.elements) != (dtype, elements):
        raise LoadError(
            f"{name}: {tensor.file}: {key} holds {tensor.elements} numbers of type {tensor.dtype}; "
            f"{beside} needs {elements} of type {dtype}. {_AGAIN}"
        )


def _check_claim(
    name: str, key: str, field: str, quantization: Quantization, tensor: StoredTensor
) -> None:
    if not quantization.config.get(field):
        bits = 4 if field == "load_in_4bit" else 8
        raise LoadError(
            f"{name}: {quantization.where}{field} is not true, but {tensor.file}: {key} is of a "
            f"layer in {bits} bits: one of the two is not of this model. Fetch or save it again"
        )


def _check_type(
    name: str, key: str, kind: str, quantization: Quantization, tensor: StoredTensor
) -> None:
    claimed = quantization.config.get("bnb_4bit_quant_type")
    if claimed is not None and claimed != kind:
        raise LoadError(
            f"{name}: {quantization.where}bnb_4bit_quant_type is {claimed!r}, but {tensor.file}: "
            f"{key} says {kind!r}: one of the two is not of this model. Fetch or save it again"
        )


def _state(name: str, directory: Path, key: str, tensor: StoredTensor) -> Mapping[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(directory / tensor.file, framework="pt") as file:
            state = json.loads(bytes(file.get_tensor(key).flatten().tolist()))
        sizes = [state["blocksize"], *state["shape"]]
        if "nested_blocksize" in state:
            sizes.append(state["nested_blocksize"])
        if not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"its sizes are {sizes}")
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise LoadError(
            f"{name}: {tensor.file}: {key} is not readable ({error}). {_AGAIN}"
        ) from error
    found: Mapping[str, Any] = state
    return found
