"""Adapters on compressed models: beside the weights, never in them, and refused if unfit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_compsec.errors import LoadError
from pytest_compsec.generation.settings import GenerationSettings
from pytest_compsec.models.compressed_adapter import attach_adapter, detach_adapter
from pytest_compsec.models.loading import load
from pytest_compsec.models.weights import measure_weights
from tests.unit.models.test_adapters import ALPHA, RANK, edit_config, edit_names, write_adapter
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint, staged

pytest.importorskip("peft")

SIMULATED = {"method": "round-to-nearest", "bits": 4}
NF4 = {"method": "bitsandbytes", "bits": 4, "type": "nf4"}
INT8 = {"method": "bitsandbytes", "bits": 8}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def written(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapter") / "a", base)


@pytest.fixture
def adapter(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    copy = tmp_path / "adapter"
    copy.mkdir()
    for path in written.iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    return copy


def compressed(base: Path, options: dict[str, Any], **fields: Any) -> Any:
    if options["method"] == "bitsandbytes":
        pytest.importorskip("bitsandbytes")
    return load(make_arm(base, recipe=make_recipe("quantize", **options), **fields))


def logits(module: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = module(torch.arange(40).unsqueeze(0) + 3).logits
    return result


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("options", [SIMULATED, NF4, INT8], ids=["simulated", "nf4", "int8"])
def test_it_answers_otherwise_and_goes_off_without_a_trace(
    base: Path, adapter: Path, options: dict[str, Any], dtype: str
) -> None:
    model = compressed(base, options, dtype=dtype)
    kind, names = type(model.module), [name for name, _ in model.module.named_parameters()]
    before, plain = logits(model.module), model.generate(["hello"])
    assert attach_adapter(model.module, staged(adapter), "tiny-tuned") is model.module
    assert type(model.module) is kind
    assert not torch.equal(logits(model.module), before)
    assert model.generate(["hello"], GenerationSettings(max_new_tokens=8))
    parameters = dict(model.module.named_parameters())
    assert not any(parameter.requires_grad for parameter in parameters.values())
    floats = {str(p.dtype) for name, p in parameters.items() if "lora_" in name}
    assert floats == {f"torch.{dtype}"}
    assert detach_adapter(model.module) == 4
    assert torch.equal(logits(model.module), before)
    assert model.generate(["hello"]) == plain
    assert [name for name, _ in model.module.named_parameters()] == names


def test_a_layer_computes_the_formula_beside_its_rounded_weights(base: Path, adapter: Path) -> None:
    from safetensors.torch import load_file

    model = compressed(base, SIMULATED)
    layer: Any = model.module.get_submodule("model.layers.0.self_attn.q_proj")
    weight = layer.weight.clone()
    attach_adapter(model.module, staged(adapter), "tiny-tuned")
    low_rank = load_file(adapter / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    a, b = (low_rank[f"{prefix}.lora_{x}.weight"] for x in "AB")
    x = torch.randn(3, 64)
    expected = x @ weight.t() + ALPHA / RANK * (x @ a.t() @ b.t())
    wrapped = model.module.get_submodule("model.layers.0.self_attn.q_proj")
    torch.testing.assert_close(wrapped(x), expected)
    assert torch.equal(layer.weight, weight)


def test_what_was_compressed_still_measures_as_compressed(base: Path, adapter: Path) -> None:
    model = compressed(base, NF4)
    attach_adapter(model.module, staged(adapter), "tiny-tuned")
    found = {matrix.name: matrix.bits for matrix in measure_weights(model.module).matrices}
    for matrix in model.weights.of("linear"):
        name = matrix.name
        if name not in found:
            name = name.replace(".weight", ".base_layer.weight")
        assert found[name] == matrix.bits == 4


def drop_tensor(adapter: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors[sorted(tensors)[0]]
    save_file(tensors, path)


def reshape_tensor(adapter: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    save_file(
        {name: tensor[..., :-1].contiguous() for name, tensor in load_file(path).items()}, path
    )


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another kind": (lambda a: edit_config(a, peft_type="IA3"), "the adapter is IA3"),
    "no config": (lambda a: (a / "adapter_config.json").unlink(), "has no adapter_config.json"),
    "damaged config": (lambda a: (a / "adapter_config.json").write_text("{"), "cannot be read"),
    "no weights": (
        lambda a: (a / "adapter_model.safetensors").unlink(),
        "has no adapter_model.safetensors",
    ),
    "a tensor missing": (drop_tensor, "it lacks 1 of the tensors"),
    "a tensor too many": (
        lambda a: edit_names(a, "layers.1.mlp.up_proj", "layers.7.mlp.up_proj"),
        "lacks 2 of the tensors",
    ),
    "other layers": (
        lambda a: edit_config(a, target_modules=["c_attn"]),
        "does not fit the model.*another one",
    ),
    "another size": (reshape_tensor, r"does not fit the model: .*lora_A\.weight is \(4, 63\)"),
    "more than matrices": (
        lambda a: edit_config(a, use_dora=True),
        "sets 'use_dora'; on a compressed model only plain LoRA",
    ),
    "whole layers": (
        lambda a: edit_config(a, modules_to_save=["lm_head"]),
        "sets 'modules_to_save'",
    ),
}


@pytest.mark.parametrize(("damage", "message"), FAULTS.values(), ids=FAULTS)
def test_an_adapter_that_does_not_fit_is_refused(
    base: Path, adapter: Path, damage: Callable[[Path], Any], message: str
) -> None:
    damage(adapter)
    model = compressed(base, SIMULATED)
    with pytest.raises(LoadError, match=rf"tiny-tuned: .*{message}"):
        attach_adapter(model.module, staged(adapter), "tiny-tuned")


def test_an_adapter_that_changes_nothing_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "zero", base, zero=True)
    model = compressed(base, SIMULATED)
    with pytest.raises(LoadError, match=r"changes no weight of the model\. Was it saved before"):
        attach_adapter(model.module, staged(adapter), "tiny-tuned")


def test_no_other_base_model_is_followed(base: Path, adapter: Path) -> None:
    edit_config(adapter, base_model_name_or_path="someone/else", revision="main")
    model = compressed(base, SIMULATED)
    attach_adapter(model.module, staged(adapter), "tiny-tuned")
    config: Any = model.module
    assert config.peft_config["default"].base_model_name_or_path is None
    assert "someone" in json.loads((adapter / "adapter_config.json").read_text())[
        "base_model_name_or_path"
    ]  # fmt: skip
