"""The dense matrix of a layer in any storage, before and after it has worked."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_compsec.localization.dense import dense_weight, linear_layers
from pytest_compsec.localization.weight_error import LayersDifferError, weight_errors
from tests.unit.localization.planted import copy_of, tiny

OPTIONS: dict[str, dict[str, Any]] = {
    "int8": {"bits": 8},
    "nf4": {"bits": 4, "type": "nf4", "double_quant": False},
    "fp4": {"bits": 4, "type": "fp4", "double_quant": False},
    "nested": {"bits": 4, "type": "nf4", "double_quant": True},
}


def test_dense_layers_are_what_they_hold() -> None:
    layer = torch.nn.Linear(3, 2).bfloat16()
    assert torch.equal(dense_weight(layer), layer.weight.float())
    fused = tiny("gpt2").transformer.h[0].attn.c_attn
    assert torch.equal(dense_weight(fused), fused.weight.t())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", list(OPTIONS))
def test_a_quantized_layer_is_what_it_multiplies_by(name: str, dtype: torch.dtype) -> None:
    pytest.importorskip("bitsandbytes")
    from pytest_compsec.compression import bitsandbytes

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = torch.nn.Sequential(torch.nn.Linear(128, 64), torch.nn.Linear(64, 32))
    plain = plain.to(dtype).eval().requires_grad_(False)
    before = dense_weight(plain[0]).clone()
    module: Any = bitsandbytes.apply(copy_of(plain), OPTIONS[name], "cpu")
    layer: Any = module[0]
    first = dense_weight(layer)
    error = float((first - before).norm() / before.norm())
    assert (0.001 if name == "int8" else 0.05) < error < (0.02 if name == "int8" else 0.15)
    with torch.inference_mode():
        shown = layer(torch.eye(128, dtype=dtype)).float() - layer.bias.float()
        layer(torch.eye(128, dtype=dtype))
    again = dense_weight(layer)
    # Working may have put codes in another order and scales in bfloat16 (eight bits of mantissa).
    torch.testing.assert_close(again, first, rtol=0.005, atol=1e-6)
    torch.testing.assert_close(again, shown.t(), rtol=0.02, atol=2e-3)
    assert torch.equal(dense_weight(layer), again), "looking changes nothing"


def test_the_change_of_an_adapter_belongs_to_its_layer() -> None:
    peft = pytest.importorskip("peft")
    model = tiny("llama")
    before = copy_of(model)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(model, config).eval()
    inner = wrapped.get_base_model()
    assert list(linear_layers(inner)) == list(linear_layers(before))
    found = {error.name: error.relative for error in weight_errors(before, inner)}
    changed = {name for name, error in found.items() if error > 0}
    assert changed == {name for name in found if name.endswith(("q_proj", "down_proj"))}
    layer = inner.model.layers[0].mlp.down_proj
    with torch.inference_mode():
        shown = layer(torch.eye(128))
    torch.testing.assert_close(dense_weight(layer), shown.t(), rtol=1e-4, atol=1e-5)


def test_a_layer_in_an_unknown_storage_is_tried() -> None:
    class Codes(torch.nn.Module):
        in_features, out_features = 300, 7
        codes: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("codes", torch.arange(-1050, 1050).reshape(7, 300))
            self.bias = torch.nn.Parameter(torch.ones(7))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, self.codes * 0.25, self.bias)

    layer = Codes()
    assert torch.equal(dense_weight(layer), layer.codes * 0.25)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_equal_models_have_no_error_and_every_parameter_is_compared(name: str) -> None:
    model = tiny(name)
    found = weight_errors(model, copy_of(model))
    assert {error.relative for error in found} == {0.0}
    assert sum(error.elements for error in found) == sum(p.numel() for p in model.parameters())


def test_a_tied_output_layer_counts_once_also_against_one_that_is_not() -> None:
    model = tiny("llama")
    model.lm_head.weight = model.model.embed_tokens.weight
    names = [error.name for error in weight_errors(model, copy_of(model))]
    assert "model.embed_tokens.weight" in names
    assert "lm_head" not in names
    other = copy_of(model)
    other.lm_head.weight = torch.nn.Parameter(other.lm_head.weight * 2)
    found = {error.name: error.relative for error in weight_errors(model, other)}
    assert found["lm_head"] == pytest.approx(1.0)


def test_one_error_per_tensor() -> None:
    model = tiny("llama")
    other = copy_of(model)
    other.model.layers[1].mlp.up_proj.weight.data *= 1.25
    other.model.embed_tokens.weight.data *= 0.5
    other.model.norm.weight.data[3] += 8.0
    found = {error.name: error for error in weight_errors(model, other)}
    changed = {name: error.relative for name, error in found.items() if error.relative}
    assert changed == pytest.approx(
        {
            "model.layers.1.mlp.up_proj": 0.25,
            "model.embed_tokens.weight": 0.5,
            "model.norm.weight": 1.0,
        }
    )
    assert found["model.layers.1.mlp.up_proj"].linear
    assert not found["model.norm.weight"].linear


def smaller(model: Any) -> Any:
    layer = model.model.layers[1].mlp
    layer.up_proj = torch.nn.Linear(64, 96, bias=False)
    return model


def shorter(model: Any) -> Any:
    del model.model.layers[2]
    return model


def longer(model: Any) -> Any:
    model.extra = torch.nn.Linear(2, 2)
    return model


def embedded(model: Any) -> Any:
    model.model.embed_tokens = torch.nn.Embedding(100, 64)
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (smaller, r"layers\.1\.mlp\.up_proj is 128 x 64 in the original and 96 x 64"),
        (shorter, r"compressed model has no model\.layers\.2\.self_attn\.q_proj"),
        (longer, "original has no extra"),
        (embedded, r"embed_tokens\.weight unpacks to 100 x 64"),
    ],
)
def test_models_with_other_layers_are_not_compared(change: Any, message: str) -> None:
    model = tiny("llama")
    with pytest.raises(LayersDifferError, match=message):
        weight_errors(model, change(copy_of(model)))
