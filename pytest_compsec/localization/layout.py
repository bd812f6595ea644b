"""What a transformers causal language model is made of: decoder layers, their attention, its heads.

Nothing is known by the name of an architecture. A layer's attention is found by what it is called
and what it holds, and what is found must add up (heads times width = inputs of the projection);
where it does not, the model is refused by name instead of measured wrongly.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from pytest_compsec.errors import MeasurementError

#: What the layer is called that mixes the heads back into the hidden state: Llama, Mistral, Qwen,
#: Gemma, Cohere (o_proj); OPT, GPT-J, GPT-Neo (out_proj); GPT-2 (c_proj); Phi, GPT-NeoX, Falcon,
#: BLOOM (dense).
PROJECTIONS = ("o_proj", "out_proj", "c_proj", "dense", "wo")
#: Towers of models that also see or hear; their layers are not the decoder's.
_OTHER_TOWERS = ("vision", "visual", "audio", "speech", "image")
_HEAD_WIDTHS = ("v_head_dim", "head_dim", "head_size", "head_width")
_KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads")


class LayoutError(MeasurementError):
    """A model whose layers or heads are not where they are looked for."""


@dataclasses.dataclass(frozen=True, eq=False)
class Attention:
    """One layer's attention. Query head ``h`` owns the inputs ``[h * head_width, (h + 1) *
    head_width)`` of ``projection``; with grouped-query attention several query heads read one
    key-value head."""

    name: str
    projection_name: str
    projection: torch.nn.Module
    query_heads: int
    key_value_heads: int
    head_width: int

    def inputs_of(self, head: int) -> slice:
        """Where query head ``head`` stands among the inputs of the projection."""
        return slice(head * self.head_width, (head + 1) * self.head_width)

    def key_value_head(self, head: int) -> int:
        """Which key-value head the query head reads."""
        return head // (self.query_heads // self.key_value_heads)


@dataclasses.dataclass(frozen=True, eq=False)
class DecoderLayer:
    """Layer ``index`` of the decoder. ``attention`` is None where the layer has none (the
    recurrent layers of hybrid models)."""

    index: int
    name: str
    module: torch.nn.Module
    attention: Attention | None
    attention_linears: tuple[str, ...]
    mlp_linears: tuple[str, ...]


def decoder_layers(module: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """(name, module) of the decoder layers in order; they need not have attention.

    Raises LayoutError when there is no list of layers.
    """
    lists: dict[str, torch.nn.ModuleList] = {}
    for name, part in module.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in lists)
        other = any(word in name.lower() for word in _OTHER_TOWERS)
        if isinstance(part, torch.nn.ModuleList) and len(part) and not inside and not other:
            lists[name] = part
    if not lists:
        raise LayoutError(
            f"{_class(module)}: its layout is not understood: no list of decoder layers "
            "(a torch.nn.ModuleList) was found"
        )
    configured = _configured(module, ("num_hidden_layers", "n_layer", "n_layers", "num_layers"))
    fitting = {name: part for name, part in lists.items() if len(part) == configured} or lists
    chosen = max(fitting, key=lambda name: sum(p.numel() for p in fitting[name].parameters()))
    return [(f"{chosen}.{place}", part) for place, part in enumerate(fitting[chosen])]


def layout_of(module: torch.nn.Module) -> tuple[DecoderLayer, ...]:
    """The decoder layers with their attention.

    Raises LayoutError, naming the class and what is missing, when there is no list of layers, when
    no layer has attention that is understood, or when heads and widths do not add up.
    """
    found = []
    for index, (name, part) in enumerate(decoder_layers(module)):
        attention = _attention(module, name, part)
        linears = [
            f"{name}.{inner}" for inner, layer in part.named_modules() if inner and is_linear(layer)
        ]
        own = "" if attention is None else f"{attention.name}."
        within = tuple(one for one in linears if own and one.startswith(own))
        rest = tuple(one for one in linears if one not in within)
        found.append(DecoderLayer(index, name, part, attention, within, rest))
    if all(layer.attention is None for layer in found):
        raise LayoutError(
            f"{_class(module)}: its layout is not understood: the layers ({_class(found[0].module)}"
            f") hold no attention module with an output projection. Looked for a module with "
            f"'attn' or 'attention' in its name that holds one of {', '.join(PROJECTIONS)}; it "
            f"has {', '.join(name for name, _ in found[0].module.named_children())}"
        )
    return tuple(found)


def is_linear(layer: torch.nn.Module) -> bool:
    """A linear layer in any storage: dense, bitsandbytes, GPT-2's ``Conv1D``, a layer with an
    adapter, or any other module that says how many features go in and out."""
    if isinstance(layer, torch.nn.Linear) or type(layer).__name__ == "Conv1D":
        return True
    sizes = (getattr(layer, "in_features", None), getattr(layer, "out_features", None))
    return all(isinstance(size, int) for size in sizes)


def input_width(layer: torch.nn.Module) -> int:
    """How many inputs a linear layer has."""
    width = getattr(layer, "in_features", None)
    if isinstance(width, int):
        return width
    weight: Any = layer.weight  # GPT-2's Conv1D: (inputs, outputs)
    return int(weight.shape[0])


def _attention(module: torch.nn.Module, name: str, layer: torch.nn.Module) -> Attention | None:
    places = []
    for inner, part in layer.named_modules():
        parent, _, own = inner.rpartition(".")
        holder = parent.rpartition(".")[2].lower()
        if own in PROJECTIONS and _is_attention(holder) and is_linear(part):
            places.append((parent, own, part))
    if not places:
        return None
    if len(places) > 1:
        listed = ", ".join(f"{parent}.{own}" for parent, own, _ in places)
        raise LayoutError(
            f"{_class(module)}: its layout is not understood: {name} ({_class(layer)}) has "
            f"{len(places)} output projections of attention where one is expected: {listed}"
        )
    parent, own, projection = places[0]
    attention = layer.get_submodule(parent)
    where = f"{name}.{parent}"
    width = input_width(projection)
    head_width = _head_width(module, attention, width, where)
    heads = width // head_width
    groups = _key_value_heads(module, attention, head_width, heads)
    if heads % groups:
        raise LayoutError(
            f"{_class(module)}: its layout is not understood: {where} has {heads} query heads, "
            f"which is no multiple of its {groups} key-value heads"
        )
    return Attention(where, f"{where}.{own}", projection, heads, groups, head_width)


def _is_attention(name: str) -> bool:
    return ("attn" in name or "attention" in name) and "cross" not in name and "norm" not in name


def _head_width(module: torch.nn.Module, attention: Any, width: int, where: str) -> int:
    heads = _configured(module, ("num_attention_heads", "n_head", "n_heads", "num_heads"))
    known = _size(attention, _HEAD_WIDTHS) or _configured(module, ("v_head_dim", "head_dim"))
    found = known or (width // heads if heads and width % heads == 0 else None)
    # Fewer heads than the config says is what structured pruning leaves; more cannot be.
    if found is None or width % found or (heads is not None and width // found > heads):
        raise LayoutError(
            f"{_class(module)}: its layout is not understood: {where} ({_class(attention)}) reads "
            f"{width} inputs, which do not add up to heads of {found} (the config says "
            f"{heads} heads)"
        )
    return found


def _key_value_heads(
    module: torch.nn.Module, attention: Any, head_width: int, query_heads: int
) -> int:
    # What the layer holds says most: pruning may have left fewer than the config says.
    values = getattr(attention, "v_proj", None)
    outputs = getattr(values, "out_features", None)
    if isinstance(outputs, int) and outputs % head_width == 0:
        return outputs // head_width
    return (
        _size(attention, _KEY_VALUE_HEADS)
        or (1 if getattr(attention, "multi_query", False) is True else None)
        or _configured(module, ("num_key_value_heads",))
        or query_heads
    )


def _size(holder: Any, names: tuple[str, ...]) -> int | None:
    for name in names:
        value = getattr(holder, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _configured(module: torch.nn.Module, names: tuple[str, ...]) -> int | None:
    config: Any = getattr(module, "config", None)
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    return _size(text, names)


def _class(module: Any) -> str:
    return type(module).__name__
