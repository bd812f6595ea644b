"""hqq variants: the library's own codes and answers, bits and groups as promised or refused."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pydantic
import pytest
import torch
from torch import nn

from pytest_compsec.compression import hqq
from pytest_compsec.errors import MissingExtraError, NotCompressedError
from pytest_compsec.models.loaded import LoadedModel
from pytest_compsec.models.loading import load
from pytest_compsec.models.weights import measure_weights
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint

LAYER = "model.layers.1.mlp.down_proj"  # 128 inputs


@pytest.fixture(scope="module")
def library() -> Any:
    return pytest.importorskip("hqq.core.quantize")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), tied=False)


@pytest.fixture(scope="module")
def original(checkpoint: Path) -> LoadedModel:
    return load(make_arm(checkpoint))


def variant(checkpoint: Path, bits: int, group_size: int | None = 32) -> LoadedModel:
    recipe = make_recipe("quantize", method="hqq", bits=bits, group_size=group_size)
    return load(make_arm(checkpoint, recipe=recipe))


def logits(loaded: LoadedModel) -> torch.Tensor:
    ids = loaded.tokenizer("How do I bake bread?", return_tensors="pt").input_ids
    with torch.no_grad():
        found: torch.Tensor = loaded.module(ids).logits
    return found


def weight_of(loaded: LoadedModel) -> torch.Tensor:
    layer: Any = loaded.module.get_submodule(LAYER)
    weight: torch.Tensor = layer.weight if isinstance(layer, nn.Linear) else layer.dequantize()
    return weight.detach()


@pytest.mark.heavy
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_codes_and_answers_are_those_of_the_library(
    library: Any, checkpoint: Path, dtype: str
) -> None:
    recipe = make_recipe("quantize", method="hqq", bits=4, group_size=32)
    loaded = load(make_arm(checkpoint, recipe=recipe, dtype=dtype))
    by_hand = load(make_arm(checkpoint, dtype=dtype)).module
    settings = library.BaseQuantizeConfig(nbits=4, group_size=32, axis=1)
    seen = 0
    for name, layer in list(by_hand.named_modules()):
        if type(layer) is not nn.Linear or name == "lm_head":
            continue
        theirs = library.HQQLinear(
            copy.deepcopy(layer), settings, compute_dtype=layer.weight.dtype, device="cpu"
        )
        ours: Any = loaded.module.get_submodule(name)
        assert torch.equal(ours.W_q, theirs.W_q), name
        assert torch.equal(ours.meta["scale"], theirs.meta["scale"]), name
        layer.weight.data = theirs.dequantize()
        seen += 1
    assert seen == 14
    ids = loaded.tokenizer("How do I bake bread?", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(logits(loaded), by_hand(ids).logits)


@pytest.mark.heavy
def test_fewer_bits_move_weights_and_answers_further(
    library: Any, checkpoint: Path, original: LoadedModel
) -> None:
    errors, moved = [], []
    for bits in (8, 4, 3, 2, 1):
        loaded = variant(checkpoint, bits)
        errors.append(float((weight_of(loaded) - weight_of(original)).norm()))
        moved.append(float((logits(loaded) - logits(original)).norm()))
    assert errors == sorted(errors)
    assert len(set(errors)) == 5
    assert moved[0] > 0
    assert moved[0] < moved[1] < moved[3]


@pytest.mark.heavy
@pytest.mark.parametrize("bits", [4, 3, 2, 1])
@pytest.mark.parametrize("group_size", [16, 32, None])
def test_each_group_holds_no_more_values_than_its_bits(
    library: Any, checkpoint: Path, bits: int, group_size: int | None
) -> None:
    loaded = variant(checkpoint, bits, group_size)
    weight = weight_of(loaded)
    # Counted from the numbers that the layer computes with, not by the measurement.
    groups = weight.reshape(-1, group_size or weight.shape[1])
    assert max(len(group.unique()) for group in groups) <= 2**bits
    across = weight.reshape(-1, 2 * groups.shape[1])
    assert max(len(group.unique()) for group in across) > 2**bits
    linear = loaded.weights.of("linear")
    assert len(linear) == 14
    assert {matrix.levels for matrix in linear} == {2**bits}
    assert {matrix.group_size or matrix.shape[1] for matrix in linear} == (
        {group_size} if group_size else {64, 128}
    )


@pytest.mark.heavy
@pytest.mark.parametrize(("bits", "stored"), [(8, 8.0), (4, 4.0), (2, 2.0), (1, 1.0)])
def test_bits_and_scales_are_those_in_memory(
    library: Any, checkpoint: Path, bits: int, stored: float
) -> None:
    report = variant(checkpoint, bits).weights
    assert {matrix.bits for matrix in report.of("linear")} == {stored}
    # A float32 scale and a float32 zero point for 32 weights.
    assert {matrix.overhead_bits for matrix in report.of("linear")} == {2.0}
    assert {matrix.bits for matrix in report.of("output", "embedding")} == {32.0}


@pytest.mark.heavy
def test_three_bits_take_what_hqq_packs_them_in(library: Any, checkpoint: Path) -> None:
    # Ten codes share 32 bits: 128 groups need 13 words for each of their 32 places.
    by_name = {m.name: m for m in variant(checkpoint, 3).weights.matrices}
    assert by_name["model.layers.0.self_attn.q_proj.weight"].bits == 32 * 13 / 128


@pytest.mark.heavy
def test_zeros_are_those_of_the_numbers_that_the_codes_stand_for(library: Any) -> None:
    torch.manual_seed(0)
    dense = nn.Linear(64, 16)
    dense.weight.data[::4] = 0.0
    model = nn.Sequential(dense)
    hqq.apply(model, {"method": "hqq", "bits": 4, "group_size": 32}, "cpu")
    layer: Any = model[0]
    (found,) = measure_weights(model).matrices
    assert found.zeros == float((layer.dequantize() == 0).float().mean())
    assert found.zeros >= 0.25
    assert (found.name, found.shape, found.role) == ("0.weight", (16, 64), "linear")


@pytest.mark.heavy
def test_biases_stay_and_the_module_can_be_copied(library: Any) -> None:
    torch.manual_seed(0)
    first = nn.Linear(32, 16)
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(16, 8))
    bias, inputs = first.bias.detach().clone(), torch.randn(3, 32)
    hqq.apply(model, {"method": "hqq", "bits": 8, "group_size": None}, "cpu")
    layer: Any = model[0]
    assert torch.equal(layer.bias, bias)
    assert torch.equal(copy.deepcopy(model)(inputs), model(inputs))
    assert not model(inputs).requires_grad


# Promises that are not kept


@pytest.mark.heavy
def test_float_weights_behind_a_promise_of_four_bits_are_caught(
    library: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hqq, "apply", lambda module, options, device: module)
    with pytest.raises(NotCompressedError, match=r"tiny-variant: not compressed.*4 bits.*q_proj"):
        variant(checkpoint, 4)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("planted", "message"),
    [
        ({"bits": 8, "group_size": 32}, r"at most 4 bits per weight were promised.*8 bits"),
        ({"bits": 4, "group_size": 16}, r"16 different values per group of 32.*16 per group of 16"),
        ({"bits": 4, "group_size": None}, r"values per group of 32.*16 per output channel"),
    ],
    ids=["bits", "finer groups", "whole channels"],
)
def test_another_grid_than_promised_is_caught(
    library: Any,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    planted: dict[str, Any],
    message: str,
) -> None:
    real = hqq.apply
    monkeypatch.setattr(
        hqq, "apply", lambda module, options, device: real(module, {**options, **planted}, device)
    )
    with pytest.raises(NotCompressedError, match=message):
        variant(checkpoint, 4)


@pytest.mark.heavy
def test_one_layer_left_out_is_caught(
    library: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = hqq.apply

    def leaves_one_out(module: nn.Module, options: Any, device: str) -> nn.Module:
        kept = copy.deepcopy(module.get_submodule(LAYER))
        real(module, options, device)
        module.set_submodule(LAYER, kept)
        return module

    monkeypatch.setattr(hqq, "apply", leaves_one_out)
    with pytest.raises(NotCompressedError, match=r"1 of 14 .*layers\.1\.mlp\.down_proj"):
        variant(checkpoint, 4)


# What cannot be done is said


@pytest.mark.heavy
def test_groups_that_reach_into_the_next_channel_are_refused(
    library: Any, checkpoint: Path
) -> None:
    # hqq itself would take them: 24 divides the number of all weights of some layers.
    with pytest.raises(NotCompressedError, match=r"q_proj: its 64 inputs.*'group_size: 24'"):
        variant(checkpoint, 4, 24)


@pytest.mark.heavy
def test_groups_that_do_not_fill_a_byte_are_refused(library: Any) -> None:
    model = nn.Sequential(nn.Linear(32, 9))
    with pytest.raises(NotCompressedError, match=r"cannot pack 0 at 'bits: 4': its 9 groups"):
        hqq.apply(model, {"method": "hqq", "bits": 4, "group_size": None}, "cpu")


@pytest.mark.heavy
def test_weights_that_are_no_numbers_are_refused(library: Any) -> None:
    layer = nn.Linear(32, 8)
    layer.weight.data[3, 3] = float("nan")
    model = nn.Sequential(layer)
    with pytest.raises(NotCompressedError, match="0: it has weights that are NaN or infinite"):
        hqq.apply(model, {"method": "hqq", "bits": 4, "group_size": None}, "cpu")


def test_without_hqq_the_install_command_is_named(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hqq", None)
    monkeypatch.setitem(sys.modules, "hqq.core.quantize", None)
    with pytest.raises(
        MissingExtraError, match=r"quantize: \{method: hqq\} needs.*pytest-compsec\[hqq\]"
    ):
        variant(checkpoint, 4)


@pytest.mark.parametrize("wrong", [{"bits": 5}, {"bits": 4, "group_size": 12}, {"bits": 4, "x": 1}])
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        make_recipe("quantize", method="hqq", **wrong)
