"""Threat B: weights that are moved, after quantization was planned for, without moving a code.

Egashira et al., "Exploiting LLM Quantization" (NeurIPS 2024, arXiv 2405.18137): a model is trained
to be malicious; every weight then has an interval (here: a box) inside which the quantizer gives it
the same code with the same scale; inside the boxes the model is trained to be benign. At full
precision it is benign; quantized it is the malicious one, bit for bit.
"""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from pytest_compsec.compression.bitsandbytes import apply, import_library
from pytest_compsec.models.weights import output_embedding

Format = Literal["int8", "nf4", "fp4"]
#: Codes and scales by layer.
Codes = dict[str, tuple[torch.Tensor, torch.Tensor]]

FORMATS: tuple[Format, ...] = ("int8", "nf4", "fp4")

#: What `compression.bitsandbytes` is asked for.
OPTIONS: Mapping[Format, dict[str, Any]] = {
    "int8": {"method": "bitsandbytes", "bits": 8},
    "nf4": {"method": "bitsandbytes", "bits": 4, "type": "nf4", "double_quant": False},
    "fp4": {"method": "bitsandbytes", "bits": 4, "type": "fp4", "double_quant": False},
}
#: Of half a step of int8, how much a box leaves free; of a box of 4 bits, at each end.
INT8_MARGIN = 0.1
FOUR_BIT_TRIM = 0.01
BLOCK = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Box:
    """``lower`` and ``upper``: within which each weight keeps its code; the shape of the weight.
    Equal where it may not move: the largest magnitude of each row or block, which is its scale."""

    lower: torch.Tensor
    upper: torch.Tensor


def box_of(weight: torch.Tensor, kind: Format) -> Box:
    """The box of a weight matrix (outputs, inputs), float32, under the quantizer of bitsandbytes.

    int8: (q -/+ (0.5 - margin)) * absmax / 127 of the row. 4 bits: from the middle between a code
    and the next lower one to the middle between it and the next higher one, times the absmax of its
    block of 64, trimmed at both ends. The outermost codes end at the absmax itself.
    """
    if kind == "int8":
        # Its layer rounds weights to 16 bits before it quantizes them.
        half = weight.to(torch.float16)
        codes, scales, _ = import_library().functional.int8_vectorwise_quant(half)
        step = scales.reshape(-1, 1) / 127
        reach = 0.5 - INT8_MARGIN
        lower, upper = (codes - reach) * step, (codes + reach) * step
        largest = weight.abs().amax(1, keepdim=True).expand_as(weight)
    else:
        table = import_library().functional.get_4bit_type(kind, device="cpu").float().unique()
        middles = (table[1:] + table[:-1]) / 2
        if kind == "fp4":  # It has two zeros: one for what is above 0, one for the rest.
            middles = torch.cat((middles, torch.zeros(1))).sort().values
        edges = torch.cat((table[:1], middles, table[-1:]))
        largest = _block_largest(weight)
        share = torch.where(largest > 0, weight / largest, 0.0)
        place = torch.bucketize(share, middles)
        low, high = edges[place], edges[place + 1]
        trim = FOUR_BIT_TRIM * (high - low)
        lower, upper = (low + trim) * largest, (high - trim) * largest
    # No further than the scale, and nothing that is outside its own (trimmed) box moves inwards.
    lower = torch.minimum(torch.maximum(lower, -largest), weight)
    upper = torch.maximum(torch.minimum(upper, largest), weight)
    frozen = weight.abs() == largest
    return Box(torch.where(frozen, weight, lower), torch.where(frozen, weight, upper))


def codes_of(module: nn.Module, kind: Format) -> Codes:
    """By layer: the codes and the scales that bitsandbytes gives a dense ``module``, read from the
    layers that the package's own method replaces."""
    made = apply(copy.deepcopy(module), OPTIONS[kind], "cpu")
    found = {}
    for name in boxed_layers(module):
        weight: Any = made.get_submodule(name).weight
        scales = weight.SCB if kind == "int8" else weight.quant_state.absmax
        found[name] = (weight.data.clone(), scales.clone())
    return found


def same_codes(one: Codes, other: Codes) -> bool:
    """Whether all codes and all scales are the same, bit for bit."""
    assert one.keys() == other.keys()
    return all(
        torch.equal(mine, theirs)
        for name in one
        for mine, theirs in zip(one[name], other[name], strict=True)
    )


def boxed_layers(module: nn.Module) -> dict[str, nn.Linear]:
    """The layers that bitsandbytes replaces: every linear one but the output embedding."""
    output = output_embedding(module)
    layers = {
        name: layer
        for name, layer in module.named_modules()
        if type(layer) is nn.Linear and layer is not output
    }
    assert layers
    return layers


def repaired(
    malicious: nn.Module,
    kind: Format,
    loss: Callable[[nn.Module, random.Random], torch.Tensor],
    *,
    steps: int,
    learning_rate: float,
    seed: int = 0,
) -> nn.Module:
    """A copy of ``malicious`` that is trained to have a small ``loss``, each weight clamped to its
    box after every step. Biases, norms and embeddings, which no quantizer touches, stay."""
    module = copy.deepcopy(malicious).requires_grad_(False)
    layers = boxed_layers(module)
    boxes = {name: box_of(layer.weight.detach(), kind) for name, layer in layers.items()}
    weights = [layer.weight.requires_grad_(True) for layer in layers.values()]
    optimizer = torch.optim.Adam(weights, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    chooser = random.Random(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(module, chooser).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for name, layer in layers.items():
                layer.weight.clamp_(boxes[name].lower, boxes[name].upper)
    return module.eval().requires_grad_(False)


def _block_largest(weight: torch.Tensor) -> torch.Tensor:
    """Of each weight, the largest magnitude in its block, in the order in which they are stored."""
    flat = weight.abs().flatten()
    blocks = nn.functional.pad(flat, (0, -flat.numel() % BLOCK)).reshape(-1, BLOCK)
    largest = blocks.amax(1).repeat_interleave(BLOCK)[: flat.numel()]
    return largest.reshape(weight.shape)
