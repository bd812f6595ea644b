"""torchao variants: the library's codes and answers, levels and groups as promised or refused."""

from __future__ import annotations

import copy
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pydantic
import pytest
import torch
from torch import nn

from pytest_compsec.compression import torchao
from pytest_compsec.errors import MissingExtraError, NotCompressedError
from pytest_compsec.models.loaded import LoadedModel
from pytest_compsec.models.loading import load
from pytest_compsec.models.weights import measure_weights
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint

TYPES: Any = torch  # Its integers of few bits are not in the stubs.
LAYER = "model.layers.1.mlp.down_proj"  # 128 inputs


@pytest.fixture(scope="module")
def library() -> Any:
    return pytest.importorskip("torchao.quantization")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), tied=False)


@pytest.fixture(scope="module")
def original(checkpoint: Path) -> LoadedModel:
    return load(make_arm(checkpoint))


def variant(checkpoint: Path, bits: int, group_size: int | None = 32, **more: Any) -> LoadedModel:
    recipe = make_recipe("quantize", method="torchao", bits=bits, group_size=group_size, **more)
    return load(make_arm(checkpoint, recipe=recipe))


def logits(loaded: LoadedModel) -> torch.Tensor:
    ids = loaded.tokenizer("How do I bake bread?", return_tensors="pt").input_ids
    with torch.no_grad():
        found: torch.Tensor = loaded.module(ids).logits
    return found


def weight_of(loaded: LoadedModel) -> torch.Tensor:
    weight: Any = loaded.module.get_submodule(LAYER).weight
    dense: torch.Tensor = weight.dequantize() if hasattr(weight, "qdata") else weight
    return dense.detach()


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("options", "make"),
    [
        (
            {"bits": 8, "group_size": None},
            lambda ao: ao.Int8WeightOnlyConfig(set_inductor_config=False),
        ),
        (
            {"bits": 4, "group_size": 32},
            lambda ao: ao.IntxWeightOnlyConfig(TYPES.int4, ao.PerGroup(32)),
        ),
        (
            {"bits": 2, "group_size": 64, "symmetric": False},
            lambda ao: ao.IntxWeightOnlyConfig(
                TYPES.int2, ao.PerGroup(64), ao.MappingType.ASYMMETRIC
            ),
        ),
    ],
    ids=["int8", "int4", "int2 asymmetric"],
)
def test_codes_and_answers_are_those_of_transformers(
    library: Any, checkpoint: Path, options: dict[str, Any], make: Any
) -> None:
    from transformers import AutoModelForCausalLM, TorchAoConfig

    config: Any = TorchAoConfig
    untyped: Any = AutoModelForCausalLM
    reference = untyped.from_pretrained(
        checkpoint, quantization_config=config(make(library)), device_map={"": "cpu"}
    )
    loaded = variant(checkpoint, **options)
    theirs = dict(reference.named_parameters())
    ours: Any
    for name, ours in loaded.module.named_parameters():
        if hasattr(ours, "qdata"):
            assert torch.equal(ours.qdata, theirs[name].qdata), name
            assert torch.equal(ours.scale, theirs[name].scale), name
        else:
            assert torch.equal(ours, theirs[name]), name
    ids = loaded.tokenizer("How do I bake bread?", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(logits(loaded), reference(ids).logits)


@pytest.mark.heavy
def test_fewer_bits_move_weights_and_answers_further(
    library: Any, checkpoint: Path, original: LoadedModel
) -> None:
    errors, moved = [], []
    for bits in (8, 4, 3, 2):
        loaded = variant(checkpoint, bits)
        errors.append(float((weight_of(loaded) - weight_of(original)).norm()))
        moved.append(float((logits(loaded) - logits(original)).norm()))
    assert errors == sorted(errors)
    assert len(set(errors)) == 4
    assert moved[0] > 0
    assert moved[0] < moved[1] < moved[3]


@pytest.mark.heavy
@pytest.mark.parametrize("bits", [4, 3, 2])
@pytest.mark.parametrize("group_size", [16, 32, None])
@pytest.mark.parametrize("symmetric", [True, False])
def test_each_group_holds_no_more_values_than_its_bits(
    library: Any, checkpoint: Path, bits: int, group_size: int | None, symmetric: bool
) -> None:
    loaded = variant(checkpoint, bits, group_size, symmetric=symmetric)
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
def test_memory_is_reported_as_it_is_and_not_as_the_bits_are_called(
    library: Any, checkpoint: Path
) -> None:
    report = variant(checkpoint, 4).weights
    assert {matrix.bits for matrix in report.of("linear")} == {8.0}
    # A float32 scale and a byte of zero point for 32 weights.
    assert {matrix.overhead_bits for matrix in report.of("linear")} == {1.25}
    assert {matrix.bits for matrix in report.of("output", "embedding")} == {32.0}


@pytest.mark.heavy
@pytest.mark.parametrize("symmetric", [True, False])
def test_zeros_are_those_of_the_numbers_that_the_codes_stand_for(
    library: Any, symmetric: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 16)
    layer.weight.data[:, ::4] = 0.0
    model = nn.Sequential(layer)
    options = {"method": "torchao", "bits": 4, "group_size": 32, "symmetric": symmetric}
    torchao.apply(model, options, "cpu")
    weight: Any = layer.weight
    (found,) = measure_weights(model).matrices
    assert found.zeros == float((weight.dequantize() == 0).float().mean())
    assert found.zeros >= 0.25
    assert (found.name, found.shape, found.role) == ("0.weight", (16, 64), "linear")


@pytest.mark.heavy
def test_settings_of_the_whole_process_are_left_alone(library: Any, checkpoint: Path) -> None:
    compiler: Any = importlib.import_module("torch._inductor.config")

    def settings() -> tuple[Any, ...]:
        return torch.get_float32_matmul_precision(), compiler.coordinate_descent_tuning

    before = settings()
    for bits, group_size in ((8, None), (4, 32)):
        variant(checkpoint, bits, group_size)
        assert settings() == before
    library.quantize_(nn.Linear(32, 8), library.Int8WeightOnlyConfig())
    changed = settings() != before
    torch.set_float32_matmul_precision(before[0])
    compiler.coordinate_descent_tuning = before[1]
    assert changed, "torchao no longer does this: drop the guard"


@pytest.mark.heavy
def test_loading_prints_nothing(library: Any, checkpoint: Path) -> None:
    code = (
        "from tests.unit.compression.test_torchao import variant\n"
        "from pathlib import Path\n"
        f"variant(Path({str(checkpoint)!r}), 4)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (run.stdout, run.stderr) == ("", "")


# Promises that are not kept


@pytest.mark.heavy
def test_float_weights_behind_a_promise_of_four_bits_are_caught(
    library: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchao, "apply", lambda module, options, device: module)
    with pytest.raises(NotCompressedError, match=r"at most 8 bits.*q_proj.*32 bits, float32"):
        variant(checkpoint, 4)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("planted", "message"),
    [
        ({"bits": 8}, r"at most 16 different values.*256 per group of 32"),
        ({"group_size": 16}, r"values per group of 32.*16 per group of 16"),
        ({"group_size": None}, r"values per group of 32.*16 per output channel"),
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
    real = torchao.apply
    monkeypatch.setattr(
        torchao,
        "apply",
        lambda module, options, device: real(module, {**options, **planted}, device),
    )
    with pytest.raises(NotCompressedError, match=message):
        variant(checkpoint, 4)


@pytest.mark.heavy
def test_eight_bit_codes_that_are_called_four_bits_are_caught(
    library: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torchao.apply

    def relabelled(module: nn.Module, options: Any, device: str) -> nn.Module:
        real(module, {**options, "bits": 8}, device)
        for parameter in module.parameters():
            if hasattr(parameter, "qdata"):
                claimed: Any = parameter
                claimed.target_dtype = TYPES.int4
        return module

    monkeypatch.setattr(torchao, "apply", relabelled)
    with pytest.raises(NotCompressedError, match=r"14 of 14.*256 per group of 32"):
        variant(checkpoint, 4)


@pytest.mark.heavy
def test_one_layer_left_out_is_caught(
    library: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torchao.apply

    def leaves_one_out(module: nn.Module, options: Any, device: str) -> nn.Module:
        kept = copy.deepcopy(module.get_submodule(LAYER))
        real(module, options, device)
        module.set_submodule(LAYER, kept)
        return module

    monkeypatch.setattr(torchao, "apply", leaves_one_out)
    with pytest.raises(NotCompressedError, match=r"1 of 14 .*layers\.1\.mlp\.down_proj"):
        variant(checkpoint, 4)


# What cannot be done is said


@pytest.mark.heavy
def test_groups_that_do_not_divide_the_inputs_are_refused(library: Any, checkpoint: Path) -> None:
    with pytest.raises(NotCompressedError, match=r"q_proj: its 64 inputs.*'group_size: 48'"):
        variant(checkpoint, 4, 48)


def test_without_torchao_the_install_command_is_named(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(make_arm(checkpoint))  # transformers imports torchao itself, where it is installed.
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(
        MissingExtraError, match=r"quantize: \{method: torchao\} needs.*pytest-compsec\[torchao\]"
    ):
        variant(checkpoint, 4)


@pytest.mark.parametrize("wrong", [{"bits": 1}, {"bits": 4, "group_size": 4}, {"bits": "4"}])
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        make_recipe("quantize", method="torchao", **wrong)
