"""The matrix that a linear layer really multiplies by, whatever it is stored as."""

from __future__ import annotations

import copy
from typing import Any

import torch

from pytest_compsec.localization.layout import input_width, is_linear

#: Rows of the identity that go through a layer at once, where its storage is not known.
_ROWS = 256


def linear_layers(module: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """All linear layers by name, in any storage, the output layer among them. The parts of a layer
    with an adapter belong to it and are not listed."""
    found: dict[str, torch.nn.Module] = {}
    for name, layer in module.named_modules():
        parents = (name[:at] for at, character in enumerate(name) if character == ".")
        if is_linear(layer) and not any(parent in found for parent in parents):
            found[name] = layer
    return found


def dense_weight(layer: torch.nn.Module) -> torch.Tensor:
    """(outputs, inputs) in float32, on the layer's device.

    Through the library that packed it where that can unpack (bitsandbytes, torchao, HQQ); with the
    change of an unmerged LoRA added; else by what the layer makes of the identity matrix, which is
    exact up to the rounding of its float type.
    """
    inner = getattr(layer, "base_layer", None)
    if isinstance(inner, torch.nn.Module):
        return _adapted(layer, inner)
    weight: Any = getattr(layer, "weight", None)
    kind = type(weight).__name__
    found: torch.Tensor
    if kind in ("Params4bit", "Int8Params"):
        found = _bitsandbytes(layer, weight)
    elif hasattr(layer, "dequantize"):  # HQQ
        unpack: Any = layer.dequantize
        found = unpack()
    elif type(weight).__module__.startswith("torchao."):
        found = weight.dequantize()
    elif isinstance(weight, torch.Tensor) and weight.is_floating_point() and weight.dim() == 2:
        found = weight.detach().t() if type(layer).__name__ == "Conv1D" else weight.detach()
    else:
        return _by_trying(layer)
    return found.to(torch.float32)


def _bitsandbytes(layer: Any, weight: Any) -> torch.Tensor:
    from pytest_compsec.compression.bitsandbytes import import_library

    functional = import_library().functional
    unpacked: torch.Tensor
    if type(weight).__name__ == "Params4bit":
        if getattr(weight.quant_state, "packing_format_for_cpu", False):
            return _repacked(functional, layer, weight)
        unpacked = functional.dequantize_4bit(weight.data, weight.quant_state)
        return unpacked
    # The first forward pass moves codes and scales from the parameter to the layer's state.
    state = getattr(layer, "state", None)
    codes = state.CB if state is not None and state.CB is not None else weight.data
    scales = state.SCB if state is not None and state.SCB is not None else weight.SCB
    unpacked = functional.int8_vectorwise_dequant(codes, scales.to(codes.device))
    return unpacked


def _repacked(functional: Any, layer: Any, weight: Any) -> torch.Tensor:
    """Four bits after the first forward pass on a processor with AVX512-BF16: bitsandbytes has put
    the codes into another order by then, and rounded the scales to bfloat16."""
    inverse = getattr(functional, "_convert_weight_packed_for_cpu_inverse", None)
    if inverse is None:
        return _by_trying(layer)
    # The library's inverse works in place and leaves the scales as (blocks of a row, rows).
    state = copy.copy(weight.quant_state)
    state.original_nested = False
    codes, state = inverse(weight.data, state)
    state.absmax = state.absmax.t().reshape(-1).float().contiguous()
    state.dtype = torch.float32
    unpacked: torch.Tensor = functional.dequantize_4bit(codes, state)
    return unpacked


def _adapted(layer: Any, inner: torch.nn.Module) -> torch.Tensor:
    """The layer of an adapter: LoRA's change is a matrix to add; of others it is not known."""
    active = getattr(layer, "active_adapters", None)
    known = hasattr(layer, "get_delta_weight") and not any(getattr(layer, "use_dora", {}).values())
    if active is None or not known:
        return _by_trying(layer)
    found = dense_weight(inner)
    if layer.merged or layer.disable_adapters:
        return found
    for name in active:
        if name in layer.lora_A:
            change = layer.get_delta_weight(name).detach().to(found)
            found = found + (change.t() if type(inner).__name__ == "Conv1D" else change)
    return found


def _by_trying(layer: Any) -> torch.Tensor:
    width = input_width(layer)
    floating = [value for value in layer.parameters() if value.is_floating_point()]
    first: Any = next(iter((*layer.parameters(), *layer.buffers())), None)
    device = None if first is None else first.device
    dtype = floating[0].dtype if floating else torch.float32
    with torch.inference_mode():
        offset = layer(torch.zeros(1, width, dtype=dtype, device=device)).float()
        columns = []
        for start in range(0, width, _ROWS):
            rows = torch.zeros(min(_ROWS, width - start), width, dtype=dtype, device=device)
            rows[torch.arange(len(rows)), start + torch.arange(len(rows))] = 1
            columns.append(layer(rows).float() - offset)
        return torch.cat(columns).t()
