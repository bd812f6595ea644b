"""Magnitude pruning: exactly what torch's own global pruning prunes, for good."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils import prune

from pytest_compsec.compression import magnitude
from pytest_compsec.compression.magnitude import prune_globally
from pytest_compsec.errors import NotCompressedError
from pytest_compsec.models.loading import load
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint


def linear_weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: layer.weight
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear) and name != "lm_head"
    }


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.9])
def test_prunes_what_torchs_global_unstructured_prunes(tmp_path: Path, sparsity: float) -> None:
    make_tiny_checkpoint(tmp_path)
    reference = load(make_arm(tmp_path)).module
    layers = {name: reference.get_submodule(name) for name in linear_weights(reference)}
    total = sum(w.numel() for w in linear_weights(reference).values())
    global_unstructured: Any = prune.global_unstructured  # It has no types.
    global_unstructured(
        [(layer, "weight") for layer in layers.values()],
        pruning_method=prune.L1Unstructured,
        amount=math.ceil(sparsity * total),
    )
    recipe = make_recipe("prune", method="magnitude", sparsity=sparsity)
    pruned = load(make_arm(tmp_path, recipe=recipe))
    for name, weight in linear_weights(pruned.module).items():
        expected: Any = layers[name].weight
        assert torch.equal(weight, expected), name
    assert pruned.weights.zeros * total == pytest.approx(math.ceil(sparsity * total))


def test_nothing_but_linear_weights_changes_and_no_mask_stays(tmp_path: Path) -> None:
    make_tiny_checkpoint(tmp_path, tied=False)
    original = load(make_arm(tmp_path)).module.state_dict()
    recipe = make_recipe("prune", method="magnitude", sparsity=0.5)
    pruned = load(make_arm(tmp_path, recipe=recipe)).module
    after = pruned.state_dict()
    assert after.keys() == original.keys()
    linear = {f"{name}.weight" for name in linear_weights(pruned)}
    assert {name for name in after if not torch.equal(after[name], original[name])} == linear
    # What survived kept its value.
    for name in linear:
        kept = after[name] != 0
        assert torch.equal(after[name][kept], original[name][kept])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_count_is_exact_among_many_equal_magnitudes(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = [
        (torch.randint(-3, 4, (7, 11), generator=generator) / 4).to(dtype),
        (torch.randint(1, 4, (5, 13), generator=generator) / 4).to(dtype),
    ]
    before = [weight.clone() for weight in weights]
    prune_globally(weights, 0.8)
    total = 7 * 11 + 5 * 13
    assert sum(int((w == 0).sum()) for w in weights) == math.ceil(0.8 * total)
    pruned = torch.cat([b[w == 0].abs().flatten() for w, b in zip(weights, before, strict=True)])
    kept = torch.cat([w[w != 0].abs().flatten() for w in weights])
    assert pruned.max() <= kept.min()


def test_the_same_weights_go_on_every_run() -> None:
    weights = [torch.ones(6, 6), torch.ones(4, 4)]
    prune_globally(weights, 0.5)
    assert weights[0].flatten().tolist() == [0.0] * 26 + [1.0] * 10
    assert weights[1].flatten().tolist() == [1.0] * 16


def test_a_sparsity_with_an_inexact_float_product_prunes_the_meant_number() -> None:
    weights = [torch.arange(1.0, 101.0).view(10, 10)]
    prune_globally(weights, 0.07)  # 0.07 * 100 is 7.000000000000001
    assert int((weights[0] == 0).sum()) == 7


def test_an_apply_that_does_nothing_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny_checkpoint(tmp_path)
    monkeypatch.setattr(magnitude, "apply", lambda module, options, device: module)
    recipe = make_recipe("prune", method="magnitude", sparsity=0.3)
    with pytest.raises(NotCompressedError, match=r"tiny-variant: not pruned.*30\.0000%|29\.9999%"):
        load(make_arm(tmp_path, recipe=recipe))


def test_pruning_a_little_less_than_promised_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny_checkpoint(tmp_path)
    real = magnitude.apply
    monkeypatch.setattr(
        magnitude,
        "apply",
        lambda module, options, device: real(module, {"sparsity": 0.299}, device),
    )
    recipe = make_recipe("prune", method="magnitude", sparsity=0.3)
    with pytest.raises(NotCompressedError, match="not pruned as the recipe says"):
        load(make_arm(tmp_path, recipe=recipe))
