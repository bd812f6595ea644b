"""Round-to-nearest on whole models: what is quantized, and a matrix off its grid is caught."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from pytest_compsec.compression import expectation, round_to_nearest
from pytest_compsec.compression.methods import validated_options
from pytest_compsec.compression.round_to_nearest import apply, expected, quantize_dequantize
from pytest_compsec.config.loading import load_config
from pytest_compsec.errors import ConfigError, NotCompressedError
from pytest_compsec.models.loading import load
from pytest_compsec.models.weights import measure_weights
from tests.unit.compression.grids import ASYMMETRIC, SYMMETRIC, label, normal
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint

# Any module


class Conv1D(nn.Module):
    """As GPT-2 has it: the weight is stored as (inputs, outputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(inputs, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


class Classifier(nn.Module):
    """No language model: tokens to one of three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.norm = nn.LayerNorm(32)
        self.hidden = nn.Linear(32, 48)
        self.mixed = Conv1D(48, 40)
        self.head = nn.Linear(40, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.hidden(self.norm(self.embedding(tokens).mean(1))).relu()
        found: torch.Tensor = self.head(self.mixed(hidden))
        return found


def promise_kept(module: nn.Module, options: dict[str, Any]) -> None:
    expectation.check(measure_weights(module), expected(options))


@pytest.mark.parametrize("options", SYMMETRIC + ASYMMETRIC, ids=label)
def test_a_classifier_is_quantized_and_verified(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Classifier()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    options = {**options, "group_size": 16}
    with pytest.raises(NotCompressedError, match="on no grid"):
        promise_kept(model, options)
    assert apply(model, options, "cpu") is model
    promise_kept(model, options)
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"hidden.weight", "mixed.weight", "head.weight"}
    for name in ("hidden.weight", "head.weight"):
        assert torch.equal(after[name], quantize_dequantize(before[name], **options))
    turned = quantize_dequantize(before["mixed.weight"].t(), **options)
    assert torch.equal(after["mixed.weight"], turned.t())
    assert bool(model(torch.arange(20).view(2, 10)).isfinite().all())


def test_a_changed_weight_is_caught_after_the_fact() -> None:
    """One weight of one matrix off its grid, by one bit: the mark alone proves nothing."""
    model = apply(Classifier(), {"bits": 8, "group_size": 16}, "cpu")
    weight: Any = model.get_submodule("hidden").weight
    row, column = (int(i) for i in (weight.data != 0).nonzero()[5])
    weight.data[row, column] = torch.nextafter(weight.data[row, column], torch.tensor(9.0))
    with pytest.raises(NotCompressedError, match=r"1 of 3 .*: hidden\.weight \(on no grid, float"):
        promise_kept(model, {"bits": 8, "group_size": 16})


def test_more_levels_or_other_groups_than_promised_are_caught() -> None:
    model = apply(Classifier(), {"bits": 4, "group_size": 16}, "cpu")
    with pytest.raises(NotCompressedError, match=r"at most 4 .*\(15 per group of 16\)"):
        promise_kept(model, {"bits": 2, "group_size": 16})
    with pytest.raises(NotCompressedError, match=r"per output channel were.*\(15 per group of 16"):
        promise_kept(model, {"bits": 4})


def test_weights_that_are_nan_name_their_layer() -> None:
    model = Classifier()
    model.hidden.weight.data[0, 0] = math.nan
    with pytest.raises(NotCompressedError, match=r"^hidden: 1 of 1,536 weights are NaN"):
        apply(model, {"bits": 4}, "cpu")


def test_a_weight_that_is_computed_is_an_error_and_not_lost() -> None:
    model = Classifier()
    nn.utils.parametrizations.weight_norm(model.hidden)
    with pytest.raises(NotCompressedError, match="hidden: the weight is computed"):
        apply(model, {"bits": 4}, "cpu")


def test_a_model_that_is_on_the_grid_already_is_refused() -> None:
    model = apply(Classifier(), {"levels": "ternary"}, "cpu")
    with pytest.raises(NotCompressedError, match="all 3 linear layers and convolutions are on"):
        apply(model, {"levels": "ternary"}, "cpu")


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(NotCompressedError, match="no linear layer or convolution"):
        apply(nn.Sequential(nn.Embedding(4, 4)), {"bits": 4}, "cpu")


# A language model through loading


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("options", SYMMETRIC + ASYMMETRIC, ids=label)
def test_a_language_model_answers_and_is_verified(
    tmp_path: Path, options: dict[str, Any], dtype: str
) -> None:
    make_tiny_checkpoint(tmp_path, dtype=dtype, tied=False)
    original = load(make_arm(tmp_path))
    recipe = make_recipe("quantize", method="round-to-nearest", group_size=32, **options)
    found = load(make_arm(tmp_path, recipe=recipe))
    linear = found.weights.of("linear")
    assert len(linear) == 14
    assert {matrix.group_size for matrix in linear} == {32}
    assert {matrix.levels for matrix in found.weights.of("embedding", "output")} == {None}
    before, after = original.module.state_dict(), found.module.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {matrix.name for matrix in linear}
    tokens = torch.arange(12).view(1, -1)
    answers: Any = found.module(tokens).logits
    assert bool(answers.isfinite().all())
    assert not torch.equal(answers, original.module(tokens).logits)


@pytest.mark.parametrize("options", [{"bits": 8, "group_size": 32}, {"bits": 2}], ids=label)
def test_a_layer_that_was_skipped_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    make_tiny_checkpoint(tmp_path)
    real = round_to_nearest.apply

    def skips_one(module: nn.Module, options: Any, device: str) -> nn.Module:
        layer = module.get_submodule("model.layers.1.mlp.up_proj")
        dense: Any = layer.weight
        kept = nn.Parameter(dense.data.clone(), requires_grad=False)
        real(module, options, device)
        layer.weight = kept
        return module

    monkeypatch.setattr(round_to_nearest, "apply", skips_one)
    recipe = make_recipe("quantize", method="round-to-nearest", **options)
    message = r"tiny-variant: not compressed.*1 of 14 .*: model\.layers\.1\.mlp\.up_proj\.weight"
    with pytest.raises(NotCompressedError, match=message):
        load(make_arm(tmp_path, recipe=recipe))


def test_an_apply_that_marks_but_does_not_round_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny_checkpoint(tmp_path, dtype="bfloat16")
    real = round_to_nearest.apply

    def undone(module: nn.Module, options: Any, device: str) -> nn.Module:
        dense = {name: value.clone() for name, value in module.state_dict().items()}
        real(module, options, device).load_state_dict(dense)
        return module

    monkeypatch.setattr(round_to_nearest, "apply", undone)
    recipe = make_recipe("quantize", method="round-to-nearest", bits=8, group_size=8)
    with pytest.raises(NotCompressedError, match="14 of 14 weight matrices"):
        load(make_arm(tmp_path, recipe=recipe))


# What a user writes


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("", "needs 'bits: 8', 4, 3 or 2, or 'levels: ternary' or 'binary'"),
        ("bits: 4, levels: ternary", "takes 'bits' or 'levels', not both"),
        ("bits: 5", "bits"),
        ("bits: 4, group_size: 4", "group_size"),
        ("bits: 4, group_size: all", "group_size"),
        ("levels: quaternary", "levels"),
        ("levels: ternary, symmetric: false", "'levels: ternary' is symmetric"),
        ("bits: 4, symetric: false", "did you mean 'symmetric'?"),
    ],
)
def test_a_wrong_recipe_is_one_message_with_its_line(
    tmp_path: Path, recipe: str, message: str
) -> None:
    path = tmp_path / "compsec.yaml"
    values = ", ".join(filter(None, ["method: round-to-nearest", recipe]))
    path.write_text(
        "version: 1\nmodels:\n  a:\n    original: {source: ./m}\n    compressed:\n"
        f"      b: {{quantize: {{{values}}}}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    (line,) = str(caught.value).splitlines()
    assert re.match(rf"{re.escape(str(path))}:6: .*{re.escape(message)}", line)


@pytest.mark.parametrize("options", SYMMETRIC + ASYMMETRIC, ids=label)
def test_a_right_recipe_is_accepted(options: dict[str, Any]) -> None:
    values = {"method": "round-to-nearest", "group_size": 64, **options}
    found = validated_options("quantize", values).model_dump(exclude_none=True)
    assert found == {"symmetric": True, **values}


def test_a_boolean_is_no_number_of_bits() -> None:
    with pytest.raises(ValidationError):
        validated_options("quantize", {"method": "round-to-nearest", "bits": True})
