"""Round-to-nearest: grids as computed by hand, and a matrix that is off its grid is caught."""

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
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint

FLOATS = [torch.float32, torch.bfloat16, torch.float16]
SYMMETRIC: list[dict[str, Any]] = [
    {"bits": 8},
    {"bits": 4},
    {"bits": 3},
    {"bits": 2},
    {"levels": "ternary"},
    {"levels": "binary"},
]
ASYMMETRIC: list[dict[str, Any]] = [{"bits": bits, "symmetric": False} for bits in (8, 4, 3, 2)]


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def values_per_group(weight: torch.Tensor, group_size: int | None) -> int:
    """Counted by hand: the most different values in any group of any row."""
    size = group_size or weight.shape[1]
    rows: list[list[float]] = weight.tolist()
    return max(len(set(row[i : i + size])) for row in rows for i in range(0, len(row), size))


def label(options: dict[str, Any]) -> str:
    return "-".join(str(value) for value in options.values())


# Grids computed by hand


@pytest.mark.parametrize(
    ("options", "row", "wanted"),
    [
        # absmax 7 over 7 steps: the integers. 2.5 lies between 2 and 3 and goes to the even one.
        ({"bits": 4}, [7.0, -6.6, 0.4, 2.5, 3.4], [7.0, -7.0, 0.0, 2.0, 3.0]),
        ({"bits": 8}, [127.0, -3.4, 0.6], [127.0, -3.0, 1.0]),
        # absmax 6 over 3 steps of 2.
        ({"bits": 3}, [-6.0, 2.9, 3.1, 0.9], [-6.0, 2.0, 4.0, 0.0]),
        # 2 bits: -4, 0 and 4 only.
        ({"bits": 2}, [4.0, 1.9, 2.1, -3.0], [4.0, 0.0, 4.0, -4.0]),
        # From -1 to 14 in 15 steps of 1, the zero point at code 1.
        ({"bits": 4, "symmetric": False}, [-1.0, 14.0, 0.4, 7.6], [-1.0, 14.0, 0.0, 8.0]),
        # All positive: the range still begins at zero. 0 to 6 in 3 steps of 2.
        ({"bits": 2, "symmetric": False}, [6.0, 3.1, 0.5], [6.0, 4.0, 0.0]),
        # The range -1.2 to 1.8, in 3 steps of 1: the zero point 1.2 becomes 1, so -1 to 2.
        ({"bits": 2, "symmetric": False}, [-1.2, 1.8, 0.4], [-1.0, 2.0, 0.0]),
        # Mean magnitude 2, threshold 1.4: 1.35 goes, though nearer to the scale than to zero; the
        # others are kept, and their mean 6.65 / 3 is the scale.
        (
            {"levels": "ternary"},
            [1.35, -1.45, 3.0, 2.2],
            [0.0, -6.65 / 3, 6.65 / 3, 6.65 / 3],
        ),
        ({"levels": "binary"}, [1.0, -2.0, 3.0, 0.0], [1.5, -1.5, 1.5, 1.5]),
    ],
    ids=["4", "8", "3", "2", "4 asymmetric", "positive", "zero point", "ternary", "binary"],
)
def test_the_grid_is_the_one_computed_by_hand(
    options: dict[str, Any], row: list[float], wanted: list[float]
) -> None:
    found = quantize_dequantize(torch.tensor([row]), **options)
    torch.testing.assert_close(found, torch.tensor([wanted]), rtol=1e-6, atol=0.0)


def test_each_output_channel_has_its_own_scale() -> None:
    weight = torch.tensor([[7.0, 3.4], [0.07, 0.034]])
    found = quantize_dequantize(weight, bits=4)
    torch.testing.assert_close(found, torch.tensor([[7.0, 3.0], [0.07, 0.03]]))


def test_groups_end_where_they_should_and_the_last_may_be_shorter() -> None:
    row = [7.0, 1.4, 70.0, 14.0, 0.7]
    found = quantize_dequantize(torch.tensor([row]), bits=4, group_size=2)
    torch.testing.assert_close(found, torch.tensor([[7.0, 1.0, 70.0, 10.0, 0.7]]))


@pytest.mark.parametrize("options", SYMMETRIC + ASYMMETRIC, ids=label)
def test_groups_do_not_see_each_other(options: dict[str, Any]) -> None:
    weight = normal(5, 22)
    whole = quantize_dequantize(weight, group_size=8, **options)
    parts = [
        quantize_dequantize(part, **options) for part in torch.tensor_split(weight, [8, 16], dim=1)
    ]
    assert torch.equal(whole, torch.cat(parts, dim=1))


@pytest.mark.parametrize("options", SYMMETRIC + ASYMMETRIC, ids=label)
def test_a_group_larger_than_the_row_is_the_row(options: dict[str, Any]) -> None:
    weight = normal(3, 10)
    wide = quantize_dequantize(weight, group_size=64, **options)
    assert torch.equal(wide, quantize_dequantize(weight, **options))


# Properties of all grids


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("group_size", [None, 24])
@pytest.mark.parametrize("options", SYMMETRIC, ids=label)
def test_a_second_rounding_changes_no_bit(
    options: dict[str, Any], group_size: int | None, dtype: torch.dtype
) -> None:
    for seed in range(10):
        weight = normal(16, 100, dtype=dtype, seed=seed) * 0.05
        once = quantize_dequantize(weight, group_size=group_size, **options)
        assert once.dtype == dtype
        assert not torch.equal(once, weight)
        again = quantize_dequantize(once, group_size=group_size, **options)
        assert torch.equal(again, once)


@pytest.mark.parametrize("options", ASYMMETRIC, ids=label)
def test_a_second_asymmetric_rounding_keeps_every_code(options: dict[str, Any]) -> None:
    for seed in range(10):
        once = quantize_dequantize(normal(16, 100, seed=seed), **options)
        again = quantize_dequantize(once, **options)
        step = (once.amax(1) - once.amin(1)) / (2 ** options["bits"] - 1)
        assert float(((again - once).abs() / step[:, None]).max()) < 1e-4


@pytest.mark.parametrize("options", SYMMETRIC[:4] + ASYMMETRIC, ids=label)
def test_no_weight_moves_by_more_than_half_a_step(options: dict[str, Any]) -> None:
    bits = options["bits"]
    for seed in range(20):
        weight = normal(16, 64, seed=seed) + (seed % 3) * 0.5
        found = quantize_dequantize(weight, **options)
        if options.get("symmetric", True):
            step = weight.abs().amax(1) / (2 ** (bits - 1) - 1)
        else:
            span = weight.amax(1).clamp(min=0) - weight.amin(1).clamp(max=0)
            step = span / (2**bits - 1)
        moved = ((found - weight).abs() / step[:, None]).max()
        assert 0.4 < float(moved) <= 0.5 + 1e-4


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("options", SYMMETRIC + ASYMMETRIC, ids=label)
def test_a_group_holds_no_more_values_than_promised(
    options: dict[str, Any], dtype: torch.dtype
) -> None:
    found = quantize_dequantize(normal(4, 2000, dtype=dtype), group_size=1000, **options)
    most = expected(options).max_levels
    assert most is not None
    assert most / 2 < values_per_group(found, 1000) <= most


@pytest.mark.parametrize("options", SYMMETRIC + ASYMMETRIC, ids=label)
def test_zeros_stay_zero_in_groups_of_zeros_and_beside_others(options: dict[str, Any]) -> None:
    weight = torch.zeros(2, 16)
    weight[1, 8:] = normal(8)
    found = quantize_dequantize(weight, group_size=8, **options)
    assert torch.equal(found[0], torch.zeros(16))
    assert torch.equal(found[1, :8], torch.zeros(8))
    assert bool(found.isfinite().all())
    if options.get("levels") != "binary":
        assert float(quantize_dequantize(weight, **options)[1, 0]) == 0.0


@pytest.mark.parametrize("options", SYMMETRIC + ASYMMETRIC, ids=label)
def test_a_row_of_one_element_is_its_own_scale(options: dict[str, Any]) -> None:
    weight = torch.tensor([[0.3], [-0.7], [0.0], [3e38], [-1e-42]])
    assert torch.equal(quantize_dequantize(weight, **options), weight)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_an_error(wrong: float) -> None:
    weight = normal(4, 8)
    weight[1, 2] = wrong
    with pytest.raises(ValueError, match="1 of 32 weights are NaN or infinite"):
        quantize_dequantize(weight, bits=4)


def test_a_range_beyond_float32_is_an_error_and_no_nan() -> None:
    with pytest.raises(ValueError, match="beyond float32"):
        quantize_dequantize(torch.tensor([[3e38, -3e38]]), bits=4, symmetric=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one"),
        ({"bits": 4, "levels": "binary"}, "exactly one"),
        ({"bits": 1}, "2 to 8, not 1"),
        ({"levels": "quaternary"}, "ternary or binary"),
        ({"levels": "binary", "symmetric": False}, "symmetric always"),
        ({"bits": 4, "group_size": 0}, "at least 1"),
    ],
)
def test_options_out_of_range_are_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize_dequantize(normal(2, 8), **options)


def test_what_is_no_float_matrix_is_an_error() -> None:
    with pytest.raises(ValueError, match="codes, not floats"):
        quantize_dequantize(torch.ones(2, 8, dtype=torch.int8), bits=4)
    with pytest.raises(ValueError, match=r"shape \(2, 2, 8\)"):
        quantize_dequantize(normal(2, 2, 8), bits=4)


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
    with pytest.raises(NotCompressedError, match="all 3 linear layers are on that grid already"):
        apply(model, {"levels": "ternary"}, "cpu")


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(NotCompressedError, match="no linear layer"):
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
