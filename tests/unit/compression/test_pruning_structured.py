"""Heads, channels and layers, really removed: the same answers as with them silenced, fewer
weights, a cache that fits, and a config that says so."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_compsec.compression.decoder_parts import attentions, mlps
from pytest_compsec.models.loading import load
from pytest_compsec.models.weights import WeightReport
from tests.unit.compression.pruning_subjects import (
    gemma3,
    gpt2,
    llama,
    logits,
    pruned,
    pruned_and_measured,
    qwen2,
    qwen3,
    texts,
)
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint

FAMILIES = [llama, qwen2, qwen3, gemma3]
REMOVALS: list[dict[str, Any]] = [
    {"method": "heads", "share": 0.5},
    {"method": "channels", "share": 0.25},
    {"method": "layers", "drop": [1, 2]},
]


def kept_rows(small: torch.Tensor, large: torch.Tensor) -> list[int]:
    """Which rows of ``large`` the rows of ``small`` are."""
    return [int((large == row).all(1).nonzero()[0, 0]) for row in small]


@pytest.mark.parametrize("make", FAMILIES)
@pytest.mark.parametrize("share", [0.5, 0.75])
def test_removed_heads_answer_like_silenced_ones(make: Callable[[], Any], share: float) -> None:
    dense = make()
    found = pruned(dense, method="heads", share=share)
    silenced = copy.deepcopy(dense)
    for layer, small in zip(attentions(silenced), attentions(found), strict=True):
        assert small.groups == 4 - math.ceil(share * 4)
        assert small.heads == 2 * small.groups
        # The slice of a group: the outputs of the two query heads that read its keys.
        strength = layer.output.weight.square().sum(0).view(4, -1).sum(1)
        for group in strength.topk(4 - small.groups, largest=False).indices.tolist():
            layer.output.weight.data[:, group * 16 : (group + 1) * 16] = 0.0
    torch.testing.assert_close(logits(found), logits(silenced), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(found), logits(dense), atol=1e-2)


@pytest.mark.parametrize("make", FAMILIES)
def test_removed_channels_answer_like_silenced_ones(make: Callable[[], Any]) -> None:
    dense = make()
    found = pruned(dense, method="channels", share=0.3)
    silenced = copy.deepcopy(dense)
    for layer, small in zip(mlps(silenced), mlps(found), strict=True):
        assert small.channels == 48 - 15  # 14.4, rounded up
        strength = sum(
            weight.square().sum(1)
            for weight in (layer.gate.weight, layer.up.weight, layer.down.weight.t())
        )
        assert isinstance(strength, torch.Tensor)
        layer.down.weight.data[:, strength.topk(15, largest=False).indices] = 0.0
    torch.testing.assert_close(logits(found), logits(silenced), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(found), logits(dense), atol=1e-2)


@pytest.mark.parametrize("make", [*FAMILIES, gpt2])
def test_removed_layers_answer_like_skipped_ones(make: Callable[[], Any]) -> None:
    dense = make()
    drop = [0] if make is gpt2 else [0, 2]
    found = pruned(dense, method="layers", drop=drop)
    skipped = copy.deepcopy(dense)
    layers = skipped.transformer.h if make is gpt2 else skipped.model.layers
    for index in drop:
        _skip(layers[index])
    torch.testing.assert_close(logits(found), logits(skipped), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(found), logits(dense), atol=1e-2)


def _skip(layer: torch.nn.Module) -> None:
    def hook(layer: Any, args: Any, kwargs: Any, output: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    layer.register_forward_hook(hook, with_kwargs=True)


@pytest.mark.parametrize("make", FAMILIES)
@pytest.mark.parametrize("values", REMOVALS, ids=lambda values: values["method"])
def test_it_generates_with_a_cache_and_can_be_saved(
    make: Callable[[], Any], values: dict[str, Any], tmp_path: Path
) -> None:
    dense = make()
    found = pruned(dense, **values)
    (row,) = texts(("Tell me a story.",)).token_rows()
    asked: dict[str, Any] = {
        "inputs": torch.tensor([row]),
        "attention_mask": torch.ones(1, len(row), dtype=torch.long),
        "max_new_tokens": 12,
        "do_sample": False,
        "eos_token_id": None,
    }
    cached = found.generate(**asked, use_cache=True)
    assert cached.tolist() == found.generate(**asked, use_cache=False).tolist()
    assert cached.shape[1] == len(row) + 12
    with torch.no_grad():
        cache = found(torch.tensor([row]), use_cache=True).past_key_values
    assert len(cache.layers) == found.config.num_hidden_layers == len(found.model.layers)
    found.save_pretrained(tmp_path)
    again = type(found).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again), logits(found))
    assert again.num_parameters() == found.num_parameters() < dense.num_parameters()


def test_a_layer_keeps_its_kind_when_it_moves_up() -> None:
    """In Gemma 3 layers with and without a sliding window alternate."""
    found = pruned(gemma3(), method="layers", drop=[0, 1, 2])
    assert found.config.layer_types == ["full_attention"]
    assert found.model.layers[0].self_attn.layer_idx == 0
    assert not found.model.layers[0].self_attn.is_sliding


def test_what_is_left_is_bit_for_bit_what_was_there() -> None:
    dense = llama()
    small, large = (attentions(m)[2] for m in (pruned(dense, **REMOVALS[0]), dense))
    rows = kept_rows(small.query.weight, large.query.weight)
    groups = [row // 8 for row in kept_rows(small.key.weight, large.key.weight)][::8]
    assert rows == [row for group in groups for row in range(group * 16, group * 16 + 16)]
    assert torch.equal(small.query.bias, large.query.bias[rows])
    assert torch.equal(small.output.weight, large.output.weight[:, rows])
    assert torch.equal(small.output.bias, large.output.bias)
    narrow, wide = (mlps(m)[2] for m in (pruned(dense, **REMOVALS[1]), dense))
    channels = kept_rows(narrow.gate.weight, wide.gate.weight)
    assert channels == sorted(channels)
    assert torch.equal(narrow.up.weight, wide.up.weight[channels])
    assert torch.equal(narrow.up.bias, wide.up.bias[channels])
    assert torch.equal(narrow.down.weight, wide.down.weight[:, channels])


@pytest.mark.parametrize("values", REMOVALS, ids=lambda values: values["method"])
def test_through_the_loader_the_report_says_what_is_gone(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    make_tiny_checkpoint(tmp_path)
    chosen = {**values, "drop": [1]} if "drop" in values else values
    original = load(make_arm(tmp_path))
    model = load(make_arm(tmp_path, recipe=make_recipe("prune", **chosen)))
    assert original.weights.dense is None
    dense, now = model.weights.dense, model.weights.structure
    assert dense is not None
    assert now is not None
    assert (dense.layers, dense.heads, dense.channels) == (2, (4, 4), (128, 128))
    assert now.elements < dense.elements == sum(p.numel() for p in original.module.parameters())
    assert WeightReport.from_json(model.weights.to_json()) == model.weights
    expected = {
        "heads": (2, (2, 2), (128, 128)),
        "channels": (2, (4, 4), (96, 96)),
        "layers": (1, (4,), (128,)),
    }
    assert (now.layers, now.heads, now.channels) == expected[values["method"]]
    assert model.generate(["Hello"])[0].text == model.generate(["Hello"])[0].text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("values", REMOVALS, ids=lambda values: values["method"])
def test_the_float_type_stays(dtype: torch.dtype, values: dict[str, Any]) -> None:
    found = pruned(llama().to(dtype), **values)
    assert {parameter.dtype for parameter in found.parameters()} == {dtype}
    assert bool(logits(found).isfinite().all())


def test_of_equally_important_ones_the_first_go() -> None:
    dense = llama()
    for layer in attentions(dense):
        torch.nn.init.constant_(layer.output.weight, 0.1)
    found = pruned(dense, method="heads", share=0.5)
    assert torch.equal(attentions(found)[0].key.weight, attentions(dense)[0].key.weight[16:])


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    found = pruned(llama(tie_word_embeddings=True), method="layers", drop=[3])
    assert found.lm_head.weight is found.model.embed_tokens.weight
    found.save_pretrained(tmp_path)
    assert torch.equal(logits(type(found).from_pretrained(tmp_path)), logits(found))


def test_a_removal_is_one_compression_and_pruned_weights_another() -> None:
    """A smaller model measures no zeros: what it lacks is not there at all."""
    _, report = pruned_and_measured(llama(), method="channels", share=0.25)
    assert report.zeros == 0.0
