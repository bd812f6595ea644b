"""Magnitude pruning of each layer, each row, and every four weights."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils import prune

from pytest_compsec.compression import layer_magnitude, two_four
from pytest_compsec.errors import NotCompressedError
from pytest_compsec.models.loading import load
from tests.unit.compression.pruning_subjects import gpt2, linears, llama, pruned
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint


@pytest.fixture(scope="module")
def dense() -> Any:
    return llama()


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.9])
def test_each_layer_loses_what_torchs_own_pruning_of_it_prunes(dense: Any, sparsity: float) -> None:
    found = linears(pruned(dense, method="layer-magnitude", sparsity=sparsity))
    for name, layer in linears(copy.deepcopy(dense)).items():
        l1_unstructured: Any = prune.l1_unstructured  # It has no types.
        l1_unstructured(layer, "weight", amount=math.ceil(sparsity * layer.weight.numel()))
        assert torch.equal(found[name].weight, layer.weight), name


def test_each_row_loses_its_own_smallest_weights(dense: Any) -> None:
    found = linears(pruned(dense, method="layer-magnitude", sparsity=0.3, per="row"))
    for name, layer in linears(dense).items():
        columns = layer.weight.shape[1]
        smallest = layer.weight.abs().topk(math.ceil(0.3 * columns), dim=1, largest=False).indices
        expected = layer.weight.detach().clone().scatter_(1, smallest, 0.0)
        assert torch.equal(found[name].weight, expected), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_of_every_four_the_two_largest_stay(dtype: torch.dtype) -> None:
    dense = llama().to(dtype)
    found = linears(pruned(dense, method="two-four"))
    for name, layer in linears(dense).items():
        before = layer.weight.reshape(-1, 4).abs()
        after = found[name].weight.reshape(-1, 4)
        assert after.dtype == dtype
        assert torch.equal(after.count_nonzero(1), torch.full((len(after),), 2))
        kept = after != 0
        lost = before.masked_fill(kept, -1.0).amax(1)
        assert bool((lost <= before.masked_fill(~kept, math.inf).amin(1)).all()), name
        assert torch.equal(after[kept], layer.weight.reshape(-1, 4)[kept]), name


def test_of_equal_magnitudes_the_first_go(dense: Any) -> None:
    same = copy.deepcopy(dense)
    for layer in linears(same).values():
        torch.nn.init.constant_(layer.weight, 0.5)
    fours = linears(pruned(same, method="two-four"))
    rows = linears(pruned(same, method="layer-magnitude", sparsity=0.25, per="row"))
    for name in fours:
        assert fours[name].weight[0, :8].tolist() == [0.0, 0.0, 0.5, 0.5] * 2
        quarter = rows[name].weight.shape[1] // 4
        assert not bool(rows[name].weight[:, :quarter].any())
        assert bool((rows[name].weight[:, quarter:] == 0.5).all())


def test_the_transposed_layers_of_gpt2_are_pruned_along_their_inputs() -> None:
    dense = gpt2()
    fours = linears(pruned(dense, method="two-four"))
    rows = linears(pruned(dense, method="layer-magnitude", sparsity=0.5, per="row"))
    layers = linears(pruned(dense, method="layer-magnitude", sparsity=0.5))
    overall = linears(pruned(dense, method="magnitude", sparsity=0.5))
    assert len(fours) == 8
    for name in fours:
        inputs, outputs = fours[name].weight.shape
        per_four = fours[name].weight.reshape(inputs // 4, 4, outputs).count_nonzero(1)
        assert bool((per_four == 2).all())
        assert bool((rows[name].weight.count_nonzero(0) == inputs // 2).all())
        assert int(layers[name].weight.count_nonzero()) == inputs * outputs // 2
    assert sum(int(layer.weight.count_nonzero()) for layer in overall.values()) == sum(
        layer.weight.numel() // 2 for layer in overall.values()
    )


@pytest.mark.parametrize("values", [{"sparsity": 0.5}, {"sparsity": 0.5, "per": "row"}, {}])
def test_through_the_loader_nothing_but_linear_weights_changes(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    make_tiny_checkpoint(tmp_path, tied=False)
    method = "layer-magnitude" if values else "two-four"
    original = load(make_arm(tmp_path)).module
    model = load(make_arm(tmp_path, recipe=make_recipe("prune", method=method, **values)))
    after, before = model.module.state_dict(), original.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {f"{name}.weight" for name in linears(original)}
    assert model.weights.zeros == pytest.approx(0.5)
    assert all(matrix.two_four == (not values) for matrix in model.weights.of("linear"))


def test_inputs_that_make_no_fours_are_named() -> None:
    with pytest.raises(NotCompressedError, match=r"layers\.0\.mlp\.down_proj has 50 inputs"):
        pruned(llama(intermediate_size=50), method="two-four")


def test_weights_that_are_no_numbers_are_named(dense: Any) -> None:
    broken = copy.deepcopy(dense)
    broken.model.layers[1].mlp.up_proj.weight.data[0, 0] = math.nan
    with pytest.raises(NotCompressedError, match=r"layers\.1\.mlp\.up_proj: 1 of 3,072 weights"):
        pruned(broken, method="layer-magnitude", sparsity=0.5)


@pytest.mark.parametrize(
    "values",
    [
        {"method": "layer-magnitude", "sparsity": 0.3},
        {"method": "two-four"},
        {"method": "magnitude", "sparsity": 0.3},
    ],
)
def test_pruning_what_is_pruned_already_is_no_compression(
    dense: Any, values: dict[str, Any]
) -> None:
    with pytest.raises(NotCompressedError, match="pruning changes nothing here: in all 28"):
        pruned(pruned(dense, **values), **values)


@pytest.mark.parametrize(
    ("method", "values", "promised"),
    [
        ("layer-magnitude", {"sparsity": 0.5}, "zeros in each were promised"),
        ("layer-magnitude", {"sparsity": 0.5, "per": "row"}, "in each output channel were"),
        ("two-four", {}, "two zeros in every four inputs were promised"),
        ("magnitude", {"sparsity": 0.5}, "of the weights are zero"),
    ],
)
@pytest.mark.parametrize("fault", ["nothing", "half of the layers", "a smaller share", "one row"])
def test_an_apply_that_does_less_than_promised_is_caught(
    dense: Any,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    values: dict[str, Any],
    promised: str,
    fault: str,
) -> None:
    from pytest_compsec.compression import magnitude

    implementation = {
        "layer-magnitude": layer_magnitude, "two-four": two_four, "magnitude": magnitude,
    }[method]  # fmt: skip
    real: Any = implementation.apply

    def faulty(module: Any, options: Any, device: str) -> Any:
        original = {name: layer.weight.clone() for name, layer in linears(module).items()}
        if fault != "nothing":
            real(module, options, device)
        for place, (name, layer) in enumerate(linears(module).items()):
            if fault == "half of the layers" and place % 2:
                layer.weight.data = original[name]
            elif fault == "a smaller share" or (fault == "one row" and name.endswith("up_proj")):
                layer.weight.data[-1] = original[name][-1]
        return module

    monkeypatch.setattr(implementation, "apply", faulty)
    with pytest.raises(NotCompressedError, match=f"not pruned as the recipe says.*{promised}"):
        pruned(dense, method=method, **values)
