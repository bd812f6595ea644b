"""Layers whose weight is no plain matrix of numbers: what codes they hold, and on what grid.

Known: ``HQQLinear`` of hqq, the tensor types of torchao, and linear layers as compressed-tensors
makes them, packed or unpacked again. Nothing is imported to find out: a model has such layers only
when the library that made them is loaded.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class PackedWeight:
    """The weight of one layer, of ``shape`` (output channels, inputs).

    ``parameter`` is the layer's own parameter that holds the codes; the others in ``beside`` belong
    to it (scales, zero points, shapes) and are no matrices. ``code_bytes`` is what the codes take
    in memory, ``overhead_bytes`` what the scales and zero points do. ``zeros`` is the number of
    weights that stand for exactly 0. ``levels`` is how many different values a group can hold (a
    group: ``group_size`` inputs of an output channel, None: all of them), found from the codes
    themselves and not from what the layer says of itself; None where there is no such grid.
    """

    parameter: str
    shape: tuple[int, ...]
    storage: str
    code_bytes: int
    overhead_bytes: int
    zeros: int
    levels: int | None
    group_size: int | None
    beside: tuple[str, ...] = ()


def packed_weight(layer: torch.nn.Module) -> PackedWeight | None:
    """What ``layer`` holds in place of a plain weight matrix; None when its weight is plain."""
    if type(layer).__name__ == "HQQLinear" and getattr(layer, "W_q", None) is not None:
        return _of_hqq(layer)
    if getattr(layer, "quantization_scheme", None) is not None:
        return _of_compressed_tensors(layer)
    weight = getattr(layer, "weight", None)
    if hasattr(weight, "tensor_data_names") and hasattr(weight, "qdata"):
        return _of_torchao(weight)
    return None


def _of_hqq(layer: Any) -> PackedWeight:
    meta = layer.meta
    shape = tuple(int(size) for size in meta["shape"])
    dense, codes = layer.dequantize(), layer.unpack(dtype=layer.W_q.dtype)
    size = int(meta["group_size"])
    groups = math.prod(shape) // size
    # hqq fills the last 32 bits of 3-bit codes up with groups that are none.
    lowest, highest = _range(codes[:groups])
    along_inputs = meta["axis"] == 1 and shape[1] % size == 0 and meta["scale"].numel() == groups
    return PackedWeight(
        parameter="W_q",
        shape=shape,
        storage=f"hqq {_name(layer.W_q.dtype)}",
        code_bytes=_bytes([layer.W_q]),
        overhead_bytes=_bytes([meta["scale"], meta["zero"]]),
        zeros=_zeros(dense),
        levels=highest - lowest + 1 if along_inputs else None,
        group_size=_group(size, shape) if along_inputs else None,
    )


def _of_torchao(weight: Any) -> PackedWeight:
    shape = tuple(weight.shape)
    names = {*weight.tensor_data_names, *getattr(weight, "optional_tensor_data_names", ())}
    codes: torch.Tensor = weight.qdata
    beside = [getattr(weight, name, None) for name in names - {"qdata"}]
    block = tuple(getattr(weight, "block_size", ()))
    levels = None
    if _is_integer(codes) and tuple(codes.shape) == shape and len(block) == len(shape) == 2:
        blocks = math.prod(shape) // math.prod(block)
        if block[0] == 1 and weight.scale.numel() == blocks:
            lowest, highest = _range(codes)
            levels = highest - lowest + 1
    return PackedWeight(
        parameter="weight",
        shape=shape,
        storage=f"torchao {_name(codes.dtype)}",
        code_bytes=_bytes([codes]),
        overhead_bytes=_bytes(beside),
        # Types for one accelerator only do not unpack themselves; then no zero is claimed.
        zeros=_zeros(weight.dequantize()) if _unpacks(weight) else 0,
        levels=levels,
        group_size=_group(int(block[1]), shape) if levels is not None else None,
    )


def _of_compressed_tensors(layer: Any) -> PackedWeight | None:
    own = dict(layer.named_parameters(recurse=False))
    parameter = "weight_packed" if "weight_packed" in own else "weight"
    if parameter not in own:
        return None
    stored = own.pop(parameter)
    beside = {name: value for name, value in own.items() if name.startswith(("weight_", "input_"))}
    overhead = [beside[n] for n in ("weight_scale", "weight_zero_point") if n in beside]
    arguments = layer.quantization_scheme.weights
    dense = stored if stored.dtype.is_floating_point and stored.element_size() > 1 else None
    if dense is None:
        dense = _unpacked_by_compressed_tensors(layer)
    return PackedWeight(
        parameter=parameter,
        shape=tuple(dense.shape),
        storage=f"compressed-tensors {_name(stored.dtype)}",
        code_bytes=_bytes([stored]),
        overhead_bytes=_bytes(overhead),
        zeros=_zeros(dense),
        levels=_levels_by_compressed_tensors(layer, dense, arguments),
        group_size=_group(arguments.group_size, tuple(dense.shape))
        if arguments is not None and arguments.strategy == "group"
        else None,
        beside=tuple(beside),
    )


def _unpacked_by_compressed_tensors(layer: Any) -> torch.Tensor:
    compressors = importlib.import_module("compressed_tensors.compressors")
    scheme = layer.quantization_scheme
    layout = str(getattr(scheme.format, "value", scheme.format))
    compressor = compressors.BaseCompressor.get_value_from_registry(layout)
    state = {name: value.data for name, value in layer.named_parameters(recurse=False)}
    weight: torch.Tensor = compressor.decompress(state, scheme)["weight"]
    return weight


def _levels_by_compressed_tensors(layer: Any, dense: torch.Tensor, arguments: Any) -> int | None:
    """2^bits when the library's own rounding changes no bit of the weights, else None."""
    import torch

    if arguments is None or arguments.type != "int" or getattr(layer, "weight_scale", None) is None:
        return None
    zero_point = getattr(layer, "weight_zero_point", None)
    if zero_point is not None and zero_point.shape != layer.weight_scale.shape:
        return None  # Packed itself.
    quantization = importlib.import_module("compressed_tensors.quantization.lifecycle.forward")
    rounded = quantization.fake_quantize(dense, layer.weight_scale, zero_point, arguments)
    return 2**arguments.num_bits if torch.equal(rounded.to(dense.dtype), dense) else None


def _group(size: int, shape: tuple[int, ...]) -> int | None:
    return None if size >= shape[-1] else size


def _range(codes: torch.Tensor) -> tuple[int, int]:
    lowest, highest = codes.aminmax()
    return int(lowest), int(highest)


def _zeros(dense: torch.Tensor) -> int:
    return int(dense.numel() - int(dense.detach().count_nonzero()))


def _bytes(tensors: Iterable[Any]) -> int:
    return sum(part.numel() * part.element_size() for part in tensors if part is not None)


def _is_integer(codes: torch.Tensor) -> bool:
    return not codes.dtype.is_floating_point and not codes.dtype.is_complex


def _unpacks(weight: Any) -> bool:
    import torch

    # Every tensor has a method of this name; the types that unpack have one of their own.
    return type(weight).dequantize is not torch.Tensor.dequantize


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
