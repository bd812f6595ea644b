"""GPTQ by GPTQModel: its own weights, promises kept or refused, reasons named.

What needs GPTQModel itself is marked ``heavy`` and skipped without it; the rest runs everywhere.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_compsec.compression import gptq
from pytest_compsec.compression.calibration import CalibrationTexts
from pytest_compsec.compression.gptq_grid import GptqGrid
from pytest_compsec.compression.methods import find, validated_options
from pytest_compsec.errors import LoadError, MissingExtraError, NotCompressedError
from pytest_compsec.models.loading import load
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint

GPTQ = {"method": "gptq", "bits": 4, "group_size": 32, "calibration": "texts"}
PROMPTS = tuple(
    f"{i}: how do I bake bread number {i * 37 % 101} for {i} guests?" for i in range(16)
)


def needs_gptqmodel(test: Any) -> Any:
    """Not importorskip: what is tested never imports it into this process."""
    absent = importlib.util.find_spec("gptqmodel") is None
    return pytest.mark.heavy(pytest.mark.skipif(absent, reason="needs gptqmodel")(test))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny") / "bfloat16"
    return make_tiny_checkpoint(directory, dtype="bfloat16")


def options_of(**changes: Any) -> dict[str, Any]:
    return validated_options("quantize", {**GPTQ, **changes}).model_dump()


def arm_of(checkpoint: Path, **changes: Any) -> Any:
    recipe = make_recipe("quantize", **{**GPTQ, **changes})
    return make_arm(checkpoint, recipe=recipe, calibration=PROMPTS)


def dense(checkpoint: Path) -> tuple[Any, CalibrationTexts]:
    loaded = load(make_arm(checkpoint))
    return loaded.module, CalibrationTexts(loaded.tokenizer, PROMPTS)


@pytest.fixture
def usable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if GPTQModel were installed beside a torch that it can use."""
    monkeypatch.setattr(gptq, "check_usable", lambda: None)
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "7.7.0" if name == "gptqmodel" else real(name)
    )


class Ended:
    """A worker process that wrote ``files`` and ended with ``returncode``."""

    def __init__(self, returncode: int, **files: str) -> None:
        self.returncode = returncode
        self._files = files

    def __call__(self, command: list[str], **_: Any) -> Ended:
        for name, text in self._files.items():
            (Path(command[-1]) / f"{name}.txt").write_text(text, encoding="utf-8")
        return self


def grid(*, bits: int = 4, dtype: torch.dtype = torch.bfloat16) -> GptqGrid:
    """Three groups of 32 of 96 inputs, in act-order, for 8 outputs."""
    generator = torch.Generator().manual_seed(bits)
    return GptqGrid(
        scales=(0.01 + 0.1 * torch.rand(3, 8, generator=generator)).to(dtype),
        zeros=torch.randint(0, 2**bits, (3, 8), generator=generator, dtype=torch.int16),
        groups=torch.randperm(96, generator=generator) % 3,
        bits=bits,
        group_size=32,
    )


def every_code(of: GptqGrid) -> torch.Tensor:
    """Weights that go through all codes, in the arithmetic of the unpacked checkpoint."""
    codes = (torch.arange(96 * 8).view(8, 96) * 37) % of.levels
    steps = codes - of.zeros[of.groups].T
    return steps.to(of.scales.dtype) * of.scales[of.groups].T


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_grid_holds_every_code_of_every_group(bits: int, dtype: torch.dtype) -> None:
    of = grid(bits=bits, dtype=dtype)
    assert of.levels == 2**bits
    assert of.holds(every_code(of))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_one_weight_off_the_grid_is_seen(bits: int) -> None:
    of = grid(bits=bits)
    weight = every_code(of)
    weight[3, 70] += 0.4 * float(of.scales[of.groups[70], 3])
    assert not of.holds(weight)


def test_a_code_beyond_the_last_is_seen() -> None:
    of = grid()
    weight = every_code(of)
    group = int(of.groups[5])
    weight[2, 5] = (16 - of.zeros[group, 2]).to(weight.dtype) * of.scales[group, 2]
    assert not of.holds(weight)


def test_a_group_larger_than_promised_is_seen() -> None:
    of = grid()
    assert not dataclasses.replace(of, group_size=31).holds(every_code(of))
    assert dataclasses.replace(of, group_size=None).holds(every_code(of))


def test_packed_size_is_codes_scales_and_zero_points() -> None:
    # 8 × 96 codes of 4 bits, and 24 groups of a float16 and 4 bits.
    assert grid().packed_bytes((8, 96)) == (8 * 96 * 4 + 24 * 20) // 8
    assert grid().packed_bits_per_weight((8, 96)) == 4.625


def test_without_gptqmodel_the_install_command_is_named(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "gptqmodel" else real(name)
    )
    with pytest.raises(MissingExtraError, match=r"method: gptq.*pytest-compsec\[gptq\]"):
        load(arm_of(checkpoint))


def test_a_torch_that_gptqmodel_cannot_use_is_named(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    versions = {"gptqmodel": "7.7.0", "torch": "2.13.0+cpu"}
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["numpy", "torch>=2.14.1"])
    with pytest.raises(LoadError, match=r"7\.7\.0 needs torch>=2\.14\.1, and torch 2\.13\.0\+cpu"):
        gptq.check_usable()
    versions["torch"] = "2.15.0+cu132"
    gptq.check_usable()


@pytest.mark.parametrize(("processors", "workers"), [(1, "2"), (2, "2"), (None, "2"), (3, None)])
def test_few_processors_get_the_threads_that_gptqmodel_starts_with(
    processors: int | None, workers: str | None
) -> None:
    environment = gptq.worker_environment({}, processors)
    assert environment.get("GPTQMODEL_CPU_WORKERS") == workers
    assert environment["HF_HUB_OFFLINE"] == "1"
    chosen = gptq.worker_environment({"GPTQMODEL_CPU_WORKERS": "5"}, processors)
    assert chosen["GPTQMODEL_CPU_WORKERS"] == "5"


@pytest.mark.usefixtures("usable")
def test_a_group_size_that_does_not_fit_names_layer_and_field(checkpoint: Path) -> None:
    with pytest.raises(
        NotCompressedError, match=r"tiny-variant: gptq.*q_proj: its 64 inputs.*'group_size: 128'"
    ):
        load(arm_of(checkpoint, group_size=128))


@pytest.mark.usefixtures("usable")
def test_a_layer_that_cannot_be_packed_is_named(checkpoint: Path) -> None:
    module, texts = dense(checkpoint)
    module.model.layers[1].mlp.up_proj = torch.nn.Linear(64, 130, bias=False)
    with pytest.raises(NotCompressedError, match=r"layers\.1\.mlp\.up_proj: it has 64 .* 130 out"):
        gptq.apply(module, options_of(), "cpu", calibration=texts)


@pytest.mark.usefixtures("usable")
def test_a_failure_of_the_tool_comes_with_its_reason(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ended, reason in (
        (Ended(1, error="ValueError: no kernel"), r"exit status 1\): ValueError: no kernel"),
        (Ended(-9, output="progress 1\rprogress 2\n\n"), r"exit status -9\): progress 2"),
    ):
        monkeypatch.setattr(subprocess, "run", ended)
        with pytest.raises(LoadError, match=rf"gptqmodel 7\.7\.0 could not .*{reason}"):
            load(arm_of(checkpoint))


@pytest.mark.usefixtures("usable")
def test_an_empty_calibration_set_is_refused(checkpoint: Path) -> None:
    module, texts = dense(checkpoint)
    nothing = dataclasses.replace(texts, prompts=())
    with pytest.raises(LoadError, match="'calibration' holds no text"):
        gptq.apply(module, options_of(), "cpu", calibration=nothing)


def test_a_module_that_is_no_language_model_is_refused(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gptq, "check_usable", lambda: None)
    _, texts = dense(checkpoint)
    with pytest.raises(LoadError, match=r"language models of transformers only, not on a Seq"):
        gptq.apply(
            torch.nn.Sequential(torch.nn.Linear(64, 64)), options_of(), "cpu", calibration=texts
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 5}, "bits"),
        ({"group_size": 48}, "group_size"),
        ({"calibration": ""}, "calibration"),
        ({"act_order": True}, "act_order"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options_of(**changes)


def test_the_calibration_set_is_required_and_the_tool_is_pinned() -> None:
    with pytest.raises(ValueError, match="calibration"):
        validated_options("quantize", {"method": "gptq", "bits": 4})
    method = find("quantize", "gptq")
    assert (method.tools, method.calibrated) == (("gptqmodel",), True)


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> Any:
    return load(arm_of(checkpoint))


@needs_gptqmodel
def test_every_linear_layer_is_on_its_grid_and_the_others_are_untouched(
    checkpoint: Path, loaded: Any
) -> None:
    original = load(make_arm(checkpoint))
    assert {(m.levels, m.group_size) for m in loaded.weights.of("linear")} == {(16, 32)}
    before, after = original.module.state_dict(), loaded.module.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {matrix.name for matrix in loaded.weights.of("linear")}


@needs_gptqmodel
def test_the_model_still_answers_and_gptqmodel_stays_out_of_this_process(loaded: Any) -> None:
    ids = loaded.tokenizer("hello", return_tensors="pt").input_ids
    with torch.no_grad():
        assert bool(loaded.module(ids).logits.isfinite().all())
    assert "gptqmodel" not in sys.modules


@needs_gptqmodel
def test_gptq_errs_less_on_the_texts_than_rounding_does(checkpoint: Path, loaded: Any) -> None:
    # The point of the method: the same grid sizes, a smaller error of what the layer computes.
    original: Any = load(make_arm(checkpoint))
    rounded = load(
        make_arm(
            checkpoint,
            recipe=make_recipe("quantize", method="round-to-nearest", bits=4, group_size=32),
        )
    )
    batch = next(CalibrationTexts(original.tokenizer, PROMPTS).batches("cpu", size=16))
    with torch.no_grad():
        model: Any = original.module.model
        hidden = model.embed_tokens(batch["input_ids"])
        inputs = model.layers[0].input_layernorm(hidden)[batch["attention_mask"] > 0]
    name = "model.layers.0.self_attn.q_proj"

    def error(of: Any) -> float:
        difference = (
            of.module.get_submodule(name).weight - original.module.get_submodule(name).weight
        )
        return float((inputs.float() @ difference.float().T).square().mean())

    assert error(loaded) < 0.9 * error(rounded)


@needs_gptqmodel
def test_the_checkpoint_made_a_second_time_holds_the_same_weights(
    checkpoint: Path, loaded: Any, tmp_path: Path
) -> None:
    module, texts = dense(checkpoint)
    directory = tmp_path / "deployed"
    gptq.write_checkpoint(module, options_of(), "cpu", directory, calibration=texts)
    deployed, variant = load(make_arm(directory)), loaded.module.state_dict()
    answered = deployed.module.state_dict()
    assert [name for name in variant if not torch.equal(variant[name], answered[name])] == []
    # Nothing that differs from one time to the next, such as durations.
    assert not list(directory.glob("*log*"))


@needs_gptqmodel
@pytest.mark.parametrize(
    "changes",
    [
        {"bits": 2, "symmetric": False, "desc_act": True},
        {"bits": 3, "desc_act": True},
        {"bits": 8, "group_size": None, "symmetric": False},
    ],
    ids=["2-asymmetric-act-order", "3-act-order", "8-channel-asymmetric"],
)
def test_other_bits_groups_and_orders(checkpoint: Path, changes: dict[str, Any]) -> None:
    report = load(arm_of(checkpoint, **changes)).weights
    expected = (2 ** changes["bits"], changes.get("group_size", 32))
    assert {(m.levels, m.group_size) for m in report.of("linear")} == {expected}
    assert len(report.of("linear")) == 14


@needs_gptqmodel
def test_kept_layers_keep_their_weights(checkpoint: Path) -> None:
    original = load(make_arm(checkpoint)).module
    names = ["model.layers.0.mlp.*", "*.v_proj"]
    kept = load(arm_of(checkpoint, keep_in_full_precision=names))
    untouched = {
        matrix.name
        for matrix in kept.weights.of("linear")
        if torch.equal(kept.module.get_parameter(matrix.name), original.get_parameter(matrix.name))
    }
    assert untouched == {
        *(f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
        *(f"model.layers.{index}.self_attn.v_proj.weight" for index in (0, 1)),
    }


@needs_gptqmodel
def test_a_layer_that_the_tool_leaves_alone_is_caught(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = gptq._run

    def leaves_one_out(directory: Path, task: Any) -> None:
        task["left_dense"] = ["model.layers.1.mlp.up_proj"]
        real(directory, task)

    monkeypatch.setattr(gptq, "_run", leaves_one_out)
    with pytest.raises(NotCompressedError, match=r"1 of 14 .*layers\.1\.mlp\.up_proj.*on no grid"):
        load(arm_of(checkpoint))


@needs_gptqmodel
def test_a_real_failure_inside_the_tool_is_one_line(checkpoint: Path) -> None:
    module, texts = dense(checkpoint)
    with pytest.raises(LoadError, match=r"gptqmodel .* could not quantize .*exit status 1") as info:
        gptq.apply(module, {**options_of(), "bits": 11}, "cpu", calibration=texts)
    assert "\n" not in str(info.value)
