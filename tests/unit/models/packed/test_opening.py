"""Packed checkpoints, made by GPTQModel and by hand, become plain modules with their weights."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_compsec.errors import LoadError
from pytest_compsec.models.checkpoints import is_quantized_checkpoint
from pytest_compsec.models.loading import load
from pytest_compsec.models.packed import gptq, route
from pytest_compsec.models.pool import estimated_bytes
from pytest_compsec.models.stored import stored_bits
from pytest_compsec.models.weights import WeightReport, check_is_compressed
from tests.unit.models.packed.packers import edit_json, known_layer, pack_checkpoint
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint, staged

DATA = Path(__file__).parents[3] / "data"
# Larger reference data, beside the project where it is there at all.
SHARED = Path(__file__).parents[4].parent / "shared" / "reference" / "gptq"


def without_reference(made_by_tool: Path, folder: Path) -> tuple[Path, Mapping[str, torch.Tensor]]:
    """The model's own files, and what the tool says of them."""
    if not made_by_tool.exists():
        pytest.skip(f"needs the reference checkpoint {made_by_tool.name}")
    ignored = shutil.ignore_patterns("reference.safetensors")
    directory = Path(shutil.copytree(made_by_tool, folder / made_by_tool.name, ignore=ignored))
    return directory, load_file(made_by_tool / "reference.safetensors")


@pytest.fixture
def gptq4(tmp_path: Path) -> Path:
    return without_reference(DATA / "gptq4-g32-act", tmp_path)[0]


def edit_weights(directory: Path, *dropped: str, **added: torch.Tensor) -> None:
    path = directory / "model.safetensors"
    tensors = {k: v for k, v in load_file(path).items() if k not in dropped} | added
    save_file(tensors, path, metadata={"format": "pt"})


# Checkpoints made by GPTQModel 7.7.0, in the float type in which it computed its reference


@pytest.mark.parametrize(
    ("made_by_tool", "bits"),
    [
        (DATA / "gptq4-g32-act", 4 + 27 / 32),
        (DATA / "awq4-g32", 4.625),
        (SHARED / "gptq8-g64", 8.597),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else "",
)
def test_weights_agree_with_the_tool_to_the_last_bit(
    made_by_tool: Path, bits: float, tmp_path: Path
) -> None:
    directory, reference = without_reference(made_by_tool, tmp_path)
    loaded = load(make_arm(directory))
    state = loaded.module.state_dict()
    known = {key: value for key, value in reference.items() if not key.startswith("_")}
    assert len(known) >= 7
    for key, value in known.items():
        assert torch.equal(state[key].float(), value), key
    with torch.no_grad():
        logits = loaded.module(reference["_ids"]).logits.float()
    # Another order of summation in the tool's matrix products: one step of the 16-bit type.
    step = torch.finfo(getattr(torch, loaded.dtype)).eps
    largest = reference["_logits"].abs().max()
    assert (logits - reference["_logits"]).abs().max() <= step * largest
    assert loaded.weights.stored_bits == pytest.approx(bits, abs=0.01)
    assert loaded.weights.bits == 16.0


# Checkpoints of known integers


@pytest.mark.parametrize(
    ("bits", "group_size", "shuffled", "less_one"),
    [(2, 32, True, True), (3, 64, False, False), (3, -1, False, True), (8, 32, True, False)],
)
def test_known_integers_become_the_weights_of_the_model(
    tmp_path: Path, bits: int, group_size: int, shuffled: bool, less_one: bool
) -> None:
    directory = make_tiny_checkpoint(tmp_path / "tiny")
    expected = pack_checkpoint(
        directory,
        quantization={
            "quant_method": "gptq",
            "bits": bits,
            "group_size": group_size,
            "desc_act": shuffled,
            "sym": False,
            "checkpoint_format": "gptq" if less_one else "gptq_v2",
        },
        bits=bits,
        group_size=group_size,
        shuffled=shuffled,
        less_one=less_one,
    )
    arm = make_arm(directory)
    loaded = load(arm)
    state = loaded.module.state_dict()
    assert len(expected) == 14
    for key, value in expected.items():
        assert torch.equal(state[key], value.float()), key
    assert is_quantized_checkpoint(arm)
    assert getattr(loaded.module.config, "quantization_config", None) is None
    parameters = sum(p.numel() for p in loaded.module.parameters())
    assert estimated_bytes(arm, "float32") == 4 * parameters


def test_awq_with_layers_left_out(tmp_path: Path) -> None:
    directory = make_tiny_checkpoint(tmp_path / "tiny")
    dense = load_file(directory / "model.safetensors")
    names = ("q_proj", "k_proj", "up_proj", "down_proj")
    quantization = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}
    expected = pack_checkpoint(
        directory,
        quantization={**quantization, "modules_to_not_convert": ["lm_head"]},
        names=names,
        bits=4,
        group_size=32,
        method="awq",
    )
    loaded = load(make_arm(directory))
    for key, value in loaded.module.state_dict().items():
        if key in dense or key in expected:
            assert torch.equal(value, expected.get(key, dense.get(key)).float()), key
    # What is left out counts with the bits that it has.
    packed = sum(value.numel() for value in expected.values())
    left = sum(
        v.numel() for k, v in dense.items() if k.endswith(("v_proj.weight", "o_proj.weight"))
    )
    left += sum(v.numel() for k, v in dense.items() if k.endswith("gate_proj.weight"))
    mean = (packed * 4.625 + left * 32) / (packed + left)
    assert loaded.weights.stored_bits == pytest.approx(mean)


def test_layers_of_other_bits_as_dynamic_says(tmp_path: Path) -> None:
    directory = make_tiny_checkpoint(tmp_path / "tiny")
    common: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    expected = pack_checkpoint(
        directory, quantization=common, names=("down_proj",), bits=8, group_size=32
    )
    expected |= pack_checkpoint(directory, quantization=common, bits=4, group_size=32)
    with pytest.raises(LoadError, match=r"quantization_config\.bits is 4.*down_proj"):
        load(make_arm(directory))
    edit_json(
        directory / "config.json",
        quantization_config={**common, "dynamic": {r"+:.*\.down_proj": {"bits": 8}}},
    )
    state = load(make_arm(directory)).module.state_dict()
    for key, value in expected.items():
        assert torch.equal(state[key], value.float()), key


def test_the_linear_layers_of_gpt2_are_turned(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    directory = make_tiny_checkpoint(tmp_path / "tiny")
    (directory / "model.safetensors").unlink()
    config = GPT2Config(vocab_size=259, n_embd=64, n_layer=1, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(directory)
    layer = known_layer(1, 64, 64, bits=4, group_size=32)
    name = "transformer.h.0.attn.c_proj"
    parts = {f"{name}.{part}": tensor for part, tensor in layer.parts.items()}
    edit_weights(directory, f"{name}.weight", **parts)
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    edit_json(directory / "config.json", quantization_config=quantization)
    state = load(make_arm(directory)).module.state_dict()
    assert torch.equal(state[f"{name}.weight"], layer.weight.T.float())


def test_a_packed_output_layer(gptq4: Path) -> None:
    layer = known_layer(3, 128, 512, bits=4, group_size=32)
    parts = {f"lm_head.{part}": tensor for part, tensor in layer.parts.items()}
    edit_weights(gptq4, "lm_head.weight", **parts)
    with pytest.raises(LoadError, match=r"quantization_config\.lm_head is false, but .*packed"):
        load(make_arm(gptq4))
    edit_quantization(gptq4, lm_head=True)
    (gptq4 / "quantize_config.json").unlink()
    loaded = load(make_arm(gptq4, dtype="float32"))
    assert torch.equal(loaded.module.state_dict()["lm_head.weight"], layer.weight.float())
    edit_json(gptq4 / "config.json", tie_word_embeddings=True)
    with pytest.raises(LoadError, match=r"config\.json: tie_word_embeddings is true.*lm_head"):
        load(make_arm(gptq4))


# How it is read


def test_quantize_config_alone_gives_the_same_weights(gptq4: Path) -> None:
    before = load(make_arm(gptq4)).module.state_dict()
    edit_json(gptq4 / "config.json", quantization_config=None)
    arm = make_arm(gptq4)
    assert is_quantized_checkpoint(arm)
    loaded = load(arm)
    assert all(torch.equal(before[k], v) for k, v in loaded.module.state_dict().items())
    assert loaded.weights.stored_bits is not None


def test_shards_with_an_index_give_the_same_weights(gptq4: Path) -> None:
    import json

    before = load(make_arm(gptq4)).module.state_dict()
    tensors = load_file(gptq4 / "model.safetensors")
    (gptq4 / "model.safetensors").unlink()
    # Every other tensor in the other file: the parts of a layer lie apart.
    where = {key: f"model-{number % 2}.safetensors" for number, key in enumerate(tensors)}
    for file in set(where.values()):
        part = {key: tensor for key, tensor in tensors.items() if where[key] == file}
        save_file(part, gptq4 / file, metadata={"format": "pt"})
    index = gptq4 / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    loaded = load(make_arm(gptq4))
    assert all(torch.equal(before[k], v) for k, v in loaded.module.state_dict().items())
    (gptq4 / "model-1.safetensors").unlink()
    with pytest.raises(LoadError, match=r"index\.json names model-1\.safetensors"):
        load(make_arm(gptq4))


def test_files_that_are_not_the_model_are_left_alone(gptq4: Path) -> None:
    before = load(make_arm(gptq4)).module.state_dict()
    other = {"model.layers.0.mlp.up_proj.weight": torch.ones(256, 128)}
    save_file(other, gptq4 / "other.safetensors", metadata={"format": "pt"})
    loaded = load(make_arm(gptq4))
    assert all(torch.equal(before[k], v) for k, v in loaded.module.state_dict().items())


def test_the_name_that_autogptq_gives_its_only_file(gptq4: Path) -> None:
    before = load(make_arm(gptq4)).module.state_dict()
    (gptq4 / "model.safetensors").rename(gptq4 / "gptq_model-4bit-32g.safetensors")
    loaded = load(make_arm(gptq4))
    assert all(torch.equal(before[k], v) for k, v in loaded.module.state_dict().items())


def test_biases_of_zeros_without_a_place_are_nothing_and_others_are_refused(gptq4: Path) -> None:
    key = "model.layers.0.self_attn.q_proj.bias"
    edit_weights(gptq4, **{key: torch.zeros(128, dtype=torch.float16)})
    load(make_arm(gptq4))
    edit_weights(gptq4, **{key: torch.full((128,), 0.5, dtype=torch.float16)})
    with pytest.raises(LoadError, match=rf"unknown to the architecture: {key}"):
        load(make_arm(gptq4))


def test_the_module_takes_the_unpacked_weights_over_without_a_copy(
    gptq4: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: set[int] = set()
    real = gptq.dense_weight

    def kept(*args: Any, **keywords: Any) -> torch.Tensor:
        weight = real(*args, **keywords)
        made.add(weight.data_ptr())
        return weight

    monkeypatch.setattr(gptq, "dense_weight", kept)
    module = load(make_arm(gptq4)).module
    linear = {p.data_ptr() for name, p in module.named_parameters() if "_proj." in name}
    assert linear == made


def test_bits_in_the_files_show_the_compression_that_memory_does_not(gptq4: Path) -> None:
    loaded = load(make_arm(gptq4))
    tensors = load_file(gptq4 / "model.safetensors")
    stored = sum(
        8 * tensor.numel() * tensor.element_size()
        for key, tensor in tensors.items()
        if "_proj." in key
    )
    weights = sum(p.numel() for name, p in loaded.module.named_parameters() if "_proj." in name)
    assert stored_bits(staged(gptq4)) == pytest.approx(stored / weights)
    dense = WeightReport(loaded.weights.matrices)
    check_is_compressed(dense, loaded.weights)
    with pytest.raises(LoadError, match="not compressed"):
        check_is_compressed(dense, dense)


def test_nothing_is_derived_from_a_packed_source(gptq4: Path) -> None:
    recipe = make_recipe("prune", method="magnitude", sparsity=0.5)
    with pytest.raises(LoadError, match="already quantized"):
        load(make_arm(gptq4, recipe=recipe))


# Which code computes


@pytest.mark.parametrize(
    ("device", "installed", "expected"),
    [
        ("cuda:0", {"gptqmodel", "optimum"}, True),
        ("cuda:0", {"gptqmodel"}, False),
        ("cuda:0", set(), False),
        ("cpu", {"gptqmodel", "optimum"}, False),
    ],
)
def test_gptqmodel_computes_on_cuda_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, device: str, installed: set[str], expected: bool
) -> None:
    found = lambda name: object() if name in installed else None  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", found)
    assert route.uses_gptqmodel(device) == expected


def test_with_gptqmodel_transformers_opens_the_directory(
    gptq4: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Transformers:
        @staticmethod
        def from_pretrained(directory: Path, **keywords: Any) -> tuple[torch.nn.Module, Any]:
            asked.append(directory)
            return torch.nn.Linear(1, 1), {}

    monkeypatch.setattr(route, "uses_gptqmodel", lambda device: True)
    monkeypatch.setattr(
        "pytest_compsec.models.checkpoints._causal_language_model", lambda: Transformers
    )
    load(make_arm(gptq4))
    assert asked == [gptq4]


def edit_quantization(directory: Path, **changes: Any) -> None:
    """Change ``quantization_config``; a value of None removes the field."""
    import json

    values = json.loads((directory / "config.json").read_text())["quantization_config"] | changes
    kept = {key: value for key, value in values.items() if value is not None}
    edit_json(directory / "config.json", quantization_config=kept)
