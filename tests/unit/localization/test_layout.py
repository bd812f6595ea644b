"""Layers and heads of many architectures, and models that are not understood."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_compsec.localization.layout import LayoutError, decoder_layers, layout_of
from tests.unit.localization.planted import MAKERS, SIZES, tiny

IDS = torch.arange(5, 17)[None]
#: (output projection, key-value heads, head width) of the second layer.
FOUND = {
    "llama": ("model.layers.1.self_attn.o_proj", 2, 16),
    "mistral": ("model.layers.1.self_attn.o_proj", 2, 16),
    "qwen2": ("model.layers.1.self_attn.o_proj", 2, 16),
    "qwen3": ("model.layers.1.self_attn.o_proj", 2, 32),
    "gemma2": ("model.layers.1.self_attn.o_proj", 2, 8),
    "gemma3": ("model.layers.1.self_attn.o_proj", 2, 8),
    "phi": ("model.layers.1.self_attn.dense", 4, 16),
    "phi3": ("model.layers.1.self_attn.o_proj", 2, 16),
    "neox": ("gpt_neox.layers.1.attention.dense", 4, 16),
    "falcon": ("transformer.h.1.self_attention.dense", 1, 16),
    "gpt2": ("transformer.h.1.attn.c_proj", 4, 16),
    "opt": ("model.decoder.layers.1.self_attn.out_proj", 4, 16),
}


@pytest.mark.parametrize("name", list(MAKERS))
def test_heads_of_an_architecture(name: str) -> None:
    layers = layout_of(tiny(name))
    assert len(layers) == 3
    attention = layers[1].attention
    assert attention is not None
    assert attention.query_heads == 4
    projection, groups, width = FOUND[name]
    assert attention.projection_name == projection
    assert (attention.key_value_heads, attention.head_width) == (groups, width)
    assert layers[1].mlp_linears
    assert projection in layers[1].attention_linears


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_slice_of_the_projection_is_what_a_head_computed(name: str) -> None:
    """Values of one key-value head set to zero: exactly the slices of its query heads are zero."""
    model = tiny(name)
    attention = layout_of(model)[0].attention
    assert attention is not None
    width = attention.head_width
    values = model.model.layers[0].self_attn.v_proj.weight
    values.data[width:] = 0
    seen: list[torch.Tensor] = []
    attention.projection.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(IDS)
    silent = [
        bool((seen[0][..., attention.inputs_of(head)] == 0).all())
        for head in range(attention.query_heads)
    ]
    assert silent == [attention.key_value_head(head) == 1 for head in range(4)]
    assert silent == [False, False, True, True]


def test_a_slice_of_gpt2s_projection_is_what_a_head_computed() -> None:
    model = tiny("gpt2")
    attention = layout_of(model)[0].attention
    assert attention is not None
    fused = model.transformer.h[0].attn.c_attn
    fused.weight.data[:, 128 + 16 : 128 + 32] = 0
    fused.bias.data[128 + 16 : 128 + 32] = 0
    seen: list[torch.Tensor] = []
    attention.projection.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(IDS)
    silent = [bool((seen[0][..., attention.inputs_of(head)] == 0).all()) for head in range(4)]
    assert silent == [False, True, False, False]


def test_a_model_without_attention_is_refused_by_name() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4)
    model = MambaForCausalLM(config)
    with pytest.raises(LayoutError, match=r"MambaForCausalLM.*MambaBlock.*output projection"):
        layout_of(model)
    assert len(decoder_layers(model)) == 2, "its layers can still be exchanged"


def test_a_module_without_layers_is_refused_by_name() -> None:
    with pytest.raises(LayoutError, match=r"Sequential.*no list of decoder layers"):
        layout_of(torch.nn.Sequential(torch.nn.Linear(2, 2)))


def test_heads_that_do_not_add_up_are_refused() -> None:
    model = tiny("llama")
    model.model.layers[1].self_attn.head_dim = 5
    with pytest.raises(LayoutError, match=r"layers\.1\.self_attn.*64 inputs.*heads of 5"):
        layout_of(model)
    # A width that divides, but makes more heads than there are.
    model.model.layers[1].self_attn.head_dim = 8
    with pytest.raises(LayoutError, match="the config says 4 heads"):
        layout_of(model)


def test_heads_that_were_removed_are_not_there() -> None:
    model = tiny("gpt2")
    attention: Any = model.transformer.h[0].attn
    attention.c_proj.weight = torch.nn.Parameter(attention.c_proj.weight[16:])
    found = layout_of(model)[0].attention
    assert found is not None
    assert found.query_heads == 3


def test_two_attentions_in_a_layer_are_refused() -> None:
    model = tiny("llama")
    layer: Any = model.model.layers[0]
    layer.other_attn = torch.nn.Module()
    layer.other_attn.o_proj = torch.nn.Linear(64, 64)
    with pytest.raises(LayoutError, match="2 output projections"):
        layout_of(model)


def test_quantized_projections_are_found() -> None:
    pytest.importorskip("bitsandbytes")
    from pytest_compsec.compression import bitsandbytes

    for options in (
        {"bits": 8},
        {"bits": 4, "type": "nf4", "double_quant": False},
    ):
        model = bitsandbytes.apply(tiny("llama"), options, "cpu")
        attention = layout_of(model)[2].attention
        assert attention is not None
        assert type(attention.projection).__name__.startswith("Linear")
        assert attention.query_heads == 4
        assert SIZES["num_attention_heads"] == 4
