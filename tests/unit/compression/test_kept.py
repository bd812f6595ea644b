"""Layers kept in full precision: no method sees them, and what was kept is really kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pytest_compsec.compression.kept import Kept, hide, kept_layers, linear_layers, put_back
from pytest_compsec.errors import NotCompressedError
from pytest_compsec.models.loading import load
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint

KEPT = "model.layers.1.mlp.down_proj"
METHODS = [
    ("quantize", {"method": "bitsandbytes", "bits": 8}),
    ("quantize", {"method": "bitsandbytes", "bits": 4, "type": "nf4"}),
    ("quantize", {"method": "round-to-nearest", "bits": 3}),
    ("prune", {"method": "magnitude", "sparsity": 0.5}),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("model"))


def small() -> torch.nn.Module:
    return torch.nn.ModuleDict(
        {
            "first": torch.nn.Linear(8, 8),
            "block": torch.nn.ModuleDict({"a": torch.nn.Linear(8, 8), "b": torch.nn.Linear(8, 8)}),
        }
    )


@pytest.mark.parametrize(("section", "values"), METHODS, ids=lambda value: str(value))
def test_the_kept_layer_is_untouched_and_the_others_are_not(
    checkpoint: Path, section: str, values: dict[str, object]
) -> None:
    dense = load(make_arm(checkpoint)).module.state_dict()
    recipe = make_recipe(section, **values, keep_in_full_precision=[KEPT])
    loaded = load(make_arm(checkpoint, recipe=recipe))
    weight = loaded.module.get_submodule(KEPT).weight
    assert type(loaded.module.get_submodule(KEPT)) is torch.nn.Linear
    assert torch.equal(weight, dense[f"{KEPT}.weight"])  # type: ignore[arg-type]
    other = loaded.module.get_submodule("model.layers.0.mlp.down_proj").weight
    assert not torch.equal(other.float(), dense["model.layers.0.mlp.down_proj.weight"].float())  # type: ignore[arg-type]
    assert loaded.module(input_ids=torch.tensor([[1, 2, 3]])).logits.isfinite().all()


def test_patterns_name_layers_modules_and_globs() -> None:
    module = small()
    assert linear_layers(module) == ("first", "block.a", "block.b")
    assert kept_layers(module, ["block.a"]) == ("block.a",)
    assert kept_layers(module, ["block"]) == ("block.a", "block.b")
    assert kept_layers(module, ["*.b", "first"]) == ("first", "block.b")


def test_a_pattern_that_names_nothing_is_an_error_with_a_guess() -> None:
    with pytest.raises(NotCompressedError, match=r"'block\.aa'.*one is 'block\.a'"):
        kept_layers(small(), ["block.aa"])


def test_keeping_every_layer_is_no_compression(checkpoint: Path) -> None:
    with pytest.raises(NotCompressedError, match="keeps all 3 linear layers"):
        kept_layers(small(), ["*"])
    recipe = make_recipe("prune", method="magnitude", sparsity=0.5, keep_in_full_precision=["*"])
    with pytest.raises(NotCompressedError, match=r"tiny-variant: .*keeps all"):
        load(make_arm(checkpoint, recipe=recipe))


def test_an_unresolved_auto_loads_nothing(checkpoint: Path) -> None:
    recipe = make_recipe(
        "prune", method="magnitude", sparsity=0.5, keep_in_full_precision="auto", selection="own"
    )
    with pytest.raises(NotCompressedError, match="run `compsec pin`"):
        load(make_arm(checkpoint, recipe=recipe))


def test_a_hidden_layer_computes_and_moves_and_comes_back() -> None:
    module = small()
    layer = module.get_submodule("first")
    before = layer(torch.ones(8))
    hidden = hide(module, ["first"])
    stand_in = module.get_submodule("first")
    assert isinstance(stand_in, Kept)
    assert "first" not in linear_layers(module)
    assert torch.equal(stand_in(torch.ones(8)), before)
    assert stand_in.in_features == 8
    module.to(torch.float64)
    assert layer.weight.dtype == torch.float64
    put_back(module, hidden, "cpu")
    assert module.get_submodule("first") is layer
