"""How a checkpoint's ``quantization_config`` says that weights are stored: bits, grid, groups.

Three dialects: of compressed-tensors (``config_groups``, https://github.com/vllm-project/
compressed-tensors), of torchao as transformers saves it (``quant_type``, nested ``_type`` and
``_data``), and of transformers' own block-wise FP8 (``weight_block_size``; DeepSeek-V3, arXiv
2412.19437, section 3.3). No library is needed to read any.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

# The formats of compressed-tensors whose tensors are known here.
FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")
_STRATEGIES = ("tensor", "channel", "group")


@dataclasses.dataclass(frozen=True)
class Scheme:
    """What one part of the config promises. ``field`` is its place in ``config.json``;
    ``bits_field`` and ``group_field`` the places of those two. ``packed``: several codes share a
    32-bit word. ``group_size``: inputs per scale (None: ``per_channel`` scales, or one scale for
    the whole matrix); ``block``: rows and inputs that share a scale, in place of these."""

    field: str
    bits_field: str
    group_field: str
    bits: int
    is_float: bool
    packed: bool
    group_size: int | None
    per_channel: bool
    symmetric: bool | None = None
    block: tuple[int, int] | None = None


def compressed_tensors_schemes(quantization: Mapping[str, Any]) -> tuple[Scheme, ...]:
    """Raises ValueError, beginning with the field's place, for what cannot be understood."""
    groups = quantization.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise ValueError("'quantization_config.config_groups' holds no scheme")
    schemes = []
    for key, group in groups.items():
        place = f"quantization_config.config_groups.{key}"
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if not isinstance(weights, Mapping):
            raise ValueError(f"'{place}.weights' is missing: no weights are quantized by it")
        if not isinstance(group.get("targets"), list):
            raise ValueError(f"'{place}.targets' is no list of layers")
        schemes.append(_compressed_tensors_scheme(quantization, group, weights, place))
    return tuple(schemes)


def _compressed_tensors_scheme(
    quantization: Mapping[str, Any],
    group: Mapping[str, Any],
    weights: Mapping[str, Any],
    place: str,
) -> Scheme:
    layout = group.get("format") or quantization.get("format")
    if layout not in FORMATS:
        raise ValueError(f"'{place}.format' is {layout!r}; supported are {', '.join(FORMATS)}")
    bits = _integer(weights.get("num_bits"), f"{place}.weights.num_bits", 1, 8)
    kind = weights.get("type", "int")
    if kind not in ("int", "float") or (kind == "float" and bits != 8):
        raise ValueError(f"'{place}.weights.type' is {kind!r} of {bits} bits, which is not known")
    strategy = weights.get("strategy")
    group_size = weights.get("group_size")
    if strategy is None:  # What the library infers.
        strategy = "group" if group_size not in (None, -1) else "tensor"
    if strategy not in _STRATEGIES:
        raise ValueError(
            f"'{place}.weights.strategy' is {strategy!r}; supported are {', '.join(_STRATEGIES)}"
        )
    if weights.get("actorder") in ("group", True):
        raise ValueError(f"'{place}.weights.actorder' (reordered groups) is not supported")
    return Scheme(
        field=f"{place}.weights",
        bits_field=f"{place}.weights.num_bits",
        group_field=f"{place}.weights.{'group_size' if strategy == 'group' else 'strategy'}",
        bits=bits,
        is_float=kind == "float",
        packed=layout == "pack-quantized",
        group_size=_integer(group_size, f"{place}.weights.group_size", 1, None)
        if strategy == "group"
        else None,
        per_channel=strategy == "channel",
        symmetric=bool(weights.get("symmetric", True)),
    )


def torchao_schemes(quantization: Mapping[str, Any]) -> tuple[Scheme, ...]:
    """Raises ValueError, beginning with the field's place, for what cannot be understood."""
    schemes = tuple(
        _torchao_scheme(kind, data, place)
        for kind, data, place in _configs(
            quantization.get("quant_type"), "quantization_config.quant_type"
        )
    )
    if not schemes:
        raise ValueError("'quantization_config.quant_type' names no way of quantizing weights")
    return schemes


def _configs(value: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Every torchao config, also of those that map layers to configs."""
    if not isinstance(value, Mapping):
        return
    kind, data = value.get("_type"), value.get("_data")
    if isinstance(kind, str) and isinstance(data, Mapping) and re.search(r"Weight\w*Config$", kind):
        yield kind, data, place
        return
    for key, inner in value.items():
        yield from _configs(inner, f"{place}.{key}")


def _torchao_scheme(kind: str, data: Mapping[str, Any], place: str) -> Scheme:
    named = re.search(r"(Int|Float)(\d)Weight", kind)
    bits_field = f"{place}._type"
    if named is None:
        bits_field = f"{place}._data.weight_dtype"
        declared = data.get("weight_dtype")
        text = str(declared.get("_data")) if isinstance(declared, Mapping) else ""
        if re.fullmatch(r"int[1-8]", text) is None:
            raise ValueError(f"'{bits_field}' is {text or declared!r}, no integer type")
        bits, is_float = int(text[3:]), False
    else:
        bits, is_float = int(named[2]), named[1] == "Float"
    granularity = data.get("granularity")
    inner = granularity.get("_data", {}) if isinstance(granularity, Mapping) else {}
    group_size = inner.get("group_size", data.get("group_size"))
    group_field = (
        f"{place}._data.granularity._data.group_size"
        if "group_size" in inner
        else f"{place}._data.granularity"
    )
    per_tensor = isinstance(granularity, Mapping) and granularity.get("_type") == "PerTensor"
    return Scheme(
        field=place,
        bits_field=bits_field,
        group_field=group_field,
        bits=bits,
        is_float=is_float,
        packed=False,
        group_size=None if group_size is None else _integer(group_size, group_field, 1, None),
        per_channel=not per_tensor,
    )


def block_fp8_schemes(quantization: Mapping[str, Any]) -> tuple[Scheme, ...]:
    """Raises ValueError, beginning with the field's place, for what cannot be understood."""
    place = "quantization_config.weight_block_size"
    block = quantization.get("weight_block_size")
    if not isinstance(block, list) or len(block) != 2:
        raise ValueError(f"'{place}' is {block!r}, no pair of sizes")
    rows, inputs = (_integer(size, place, 1, None) for size in block)
    return (
        Scheme(
            field="quantization_config",
            bits_field="quantization_config.quant_method",
            group_field=place,
            bits=8,
            is_float=True,
            packed=False,
            group_size=None,
            per_channel=False,
            block=(rows, inputs),
        ),
    )


def _integer(value: Any, place: str, lowest: int, highest: int | None) -> int:
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or value < lowest
        or (highest is not None and value > highest)
    ):
        limits = f"from {lowest} to {highest}" if highest is not None else f"at least {lowest}"
        raise ValueError(f"'{place}' is {value!r}, no whole number {limits}")
    return value
