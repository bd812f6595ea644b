"""The heads and channels of a decoder layer that is built as Llama's is (Mistral, Qwen, Gemma,
SmolLM and others): which projections belong to them, and how many there are."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from pytest_compsec.compression.blocks import decoder_layers
from pytest_compsec.errors import NotCompressedError


@dataclasses.dataclass(frozen=True, eq=False)
class Attention:
    """The attention of one decoder layer: ``heads`` query heads of ``head_dim`` features each.
    ``groups`` key-value heads are shared by ``heads / groups`` query heads each, in order."""

    module: torch.nn.Module
    query: torch.nn.Linear
    key: torch.nn.Linear
    value: torch.nn.Linear
    output: torch.nn.Linear
    heads: int
    groups: int
    head_dim: int


@dataclasses.dataclass(frozen=True, eq=False)
class MLP:
    """The gated MLP of one decoder layer: down(activation(gate(x)) · up(x)) over ``channels``."""

    module: torch.nn.Module
    gate: torch.nn.Linear
    up: torch.nn.Linear
    down: torch.nn.Linear
    channels: int


def attentions(module: torch.nn.Module) -> list[Attention]:
    """The attention of each decoder layer. Raises NotCompressedError ("layout not understood"),
    saying what was missing."""
    return [_attention(layer, index) for index, layer in enumerate(decoder_layers(module))]


def mlps(module: torch.nn.Module) -> list[MLP]:
    """The MLP of each decoder layer; same errors."""
    return [_mlp(layer, index) for index, layer in enumerate(decoder_layers(module))]


def _attention(layer: torch.nn.Module, index: int) -> Attention:
    attention = _child(layer, "self_attn", index)
    query, key, value, output = (
        _linear(attention, name, index) for name in ("q_proj", "k_proj", "v_proj", "o_proj")
    )
    head_dim: Any = getattr(attention, "head_dim", None)
    if not isinstance(head_dim, int) or head_dim < 1:
        raise _not_understood(index, "its attention says no head_dim")
    heads, groups = output.in_features // head_dim, key.out_features // head_dim
    sizes = (output.in_features, query.out_features, key.out_features, value.out_features)
    if sizes != (heads * head_dim,) * 2 + (groups * head_dim,) * 2 or heads % max(groups, 1):
        raise _not_understood(
            index,
            f"q_proj, k_proj, v_proj and o_proj have {query.out_features}, {key.out_features}, "
            f"{value.out_features} and {output.in_features} features, which are no heads of "
            f"{head_dim}",
        )
    return Attention(attention, query, key, value, output, heads, groups, head_dim)


def _mlp(layer: torch.nn.Module, index: int) -> MLP:
    mlp = _child(layer, "mlp", index)
    gate, up, down = (_linear(mlp, name, index) for name in ("gate_proj", "up_proj", "down_proj"))
    if not gate.out_features == up.out_features == down.in_features:
        raise _not_understood(
            index,
            f"gate_proj, up_proj and down_proj have {gate.out_features}, {up.out_features} and "
            f"{down.in_features} channels",
        )
    return MLP(mlp, gate, up, down, down.in_features)


def _child(layer: torch.nn.Module, name: str, index: int) -> torch.nn.Module:
    child = getattr(layer, name, None)
    if not isinstance(child, torch.nn.Module):
        raise _not_understood(index, f"{type(layer).__name__} has no {name!r}")
    return child


def _linear(parent: torch.nn.Module, name: str, index: int) -> torch.nn.Linear:
    child = getattr(parent, name, None)
    if not isinstance(child, torch.nn.Linear):
        raise _not_understood(index, f"{type(parent).__name__} has no linear layer {name!r}")
    return child


def _not_understood(index: int, reason: str) -> NotCompressedError:
    return NotCompressedError(f"layout not understood: decoder layer {index}: {reason}")
