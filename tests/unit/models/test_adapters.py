"""LoRA adapters: merged exactly, into the pinned base only, and refused when they do not fit."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_compsec.errors import IntegrityError, LoadError, MissingExtraError
from pytest_compsec.models.loading import load
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint, staged

peft = pytest.importorskip("peft")

RANK, ALPHA = 4, 16


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("base") / "tiny")


def write_adapter(
    directory: Path,
    base: Path,
    *,
    targets: tuple[str, ...] = ("q_proj", "up_proj"),
    zero: bool = False,
    **config: Any,
) -> Path:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    settings = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(targets), **config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        wrapped = peft.get_peft_model(model, settings)
        for name, parameter in wrapped.named_parameters():
            if ("lora_B" in name or "lora_embedding_A" in name) and not zero:
                torch.nn.init.normal_(parameter, std=0.05)
    wrapped.save_pretrained(directory)
    return directory


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", base)


def edit_config(adapter: Path, **changes: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_names(adapter: Path, old: str, new: str) -> None:
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    save_file({k.replace(old, new): v for k, v in load_file(path).items()}, path)


def loaded(base: Path, adapter: Path, **fields: Any) -> Any:
    return load(make_arm(base, adapter=staged(adapter), **fields))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_merged_weights_are_those_of_the_formula(base: Path, adapter: Path, dtype: str) -> None:
    from safetensors.torch import load_file

    merged = loaded(base, adapter, dtype=dtype).module.state_dict()
    original = load(make_arm(base)).module.state_dict()
    low_rank = load_file(adapter / "adapter_model.safetensors")
    changed = set()
    for name, weight in original.items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{prefix}.lora_A.weight" in low_rank:
            a, b = (low_rank[f"{prefix}.lora_{x}.weight"].float() for x in "AB")
            expected = (weight + ALPHA / RANK * (b @ a)).to(getattr(torch, dtype))
            torch.testing.assert_close(merged[name], expected)
            changed.add(name)
        else:
            assert torch.equal(merged[name], weight.to(getattr(torch, dtype))), name
    assert len(changed) == 4


def test_a_16_bit_checkpoint_is_merged_in_float32_and_rounded_once(tmp_path: Path) -> None:
    base = make_tiny_checkpoint(tmp_path / "base", dtype="bfloat16")
    wide = make_tiny_checkpoint(tmp_path / "wide")
    adapter = write_adapter(tmp_path / "adapter", wide)
    name = "model.layers.0.self_attn.q_proj.weight"
    merged = loaded(base, adapter).module.state_dict()[name]
    from safetensors.torch import load_file

    low_rank = load_file(adapter / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    a, b = (low_rank[f"{prefix}.lora_{x}.weight"] for x in "AB")
    original = load(make_arm(base)).module.state_dict()[name]
    exact = (original.float() + ALPHA / RANK * (b @ a)).to(torch.bfloat16)
    # A sum in float32 may differ in its last bit by the order of the product; bfloat16 hides that
    # but for the rarest tie.
    assert float((merged != exact).float().mean()) < 0.001


def test_nothing_of_the_adapter_stays_in_the_module(base: Path, adapter: Path) -> None:
    module = loaded(base, adapter).module
    plain = load(make_arm(base)).module
    assert type(module) is type(plain)
    assert module.state_dict().keys() == plain.state_dict().keys()


def test_a_variant_is_compressed_after_the_merge(base: Path, adapter: Path) -> None:
    recipe = make_recipe("prune", method="magnitude", sparsity=0.5)
    variant = loaded(base, adapter, recipe=recipe)
    original = loaded(base, adapter)
    name = "model.layers.0.self_attn.q_proj.weight"
    weight, merged = variant.module.state_dict()[name], original.module.state_dict()[name]
    assert torch.equal(weight[weight != 0], merged[weight != 0])
    assert variant.weights.zeros == 0.5


def test_the_base_model_that_the_adapter_names_is_never_looked_up(
    base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: Any, **keywords: Any) -> None:
        raise AssertionError("a connection was opened")

    expected = loaded(base, adapter).module.state_dict()
    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    edit_config(adapter, base_model_name_or_path="someone/else", revision="main")
    for name, value in loaded(base, adapter).module.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_the_adapters_files_are_rechecked(base: Path, adapter: Path) -> None:
    def changed() -> None:
        raise IntegrityError("adapter_model.safetensors changed")

    with pytest.raises(IntegrityError):
        load(make_arm(base, adapter=staged(adapter, recheck=changed)))


def test_an_adapter_for_layers_that_the_model_lacks_is_an_error(base: Path, adapter: Path) -> None:
    edit_config(adapter, target_modules=["query_key_value"])
    with pytest.raises(LoadError, match=r"tiny: the adapter does not fit"):
        loaded(base, adapter)


def test_tensors_that_fit_no_layer_are_an_error(base: Path, adapter: Path) -> None:
    edit_names(adapter, "layers.1.", "layers.7.")
    with pytest.raises(LoadError, match="the adapter does not fit the model"):
        loaded(base, adapter)


def test_an_adapter_with_left_over_tensors_is_an_error(base: Path, adapter: Path) -> None:
    edit_config(adapter, target_modules=["q_proj"])
    with pytest.raises(LoadError, match=r"does not fit the model.*up_proj"):
        loaded(base, adapter)


def test_an_adapter_of_another_width_is_an_error(base: Path, adapter: Path) -> None:
    edit_config(adapter, r=8)
    with pytest.raises(LoadError, match="tiny"):
        loaded(base, adapter)


def test_an_adapter_that_changes_nothing_is_an_error(base: Path, tmp_path: Path) -> None:
    untrained = write_adapter(tmp_path / "untrained", base, zero=True)
    with pytest.raises(LoadError, match=r"changes no weight.*before training"):
        loaded(base, untrained)


def test_an_adapter_with_broken_numbers_is_an_error(base: Path, adapter: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    save_file({k: torch.full_like(v, float("nan")) for k, v in load_file(path).items()}, path)
    with pytest.raises(LoadError, match="cannot be merged"):
        loaded(base, adapter)


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_an_adapter_of_one_end_of_a_tied_matrix_is_an_error(tmp_path: Path, target: str) -> None:
    base = make_tiny_checkpoint(tmp_path / "base")
    tied = write_adapter(tmp_path / "tied", base, targets=(target,))
    with pytest.raises(LoadError, match=r"weights are tied: merging would change both"):
        loaded(base, tied)


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_an_adapter_of_one_end_of_an_untied_model_changes_that_end(
    tmp_path: Path, target: str
) -> None:
    base = make_tiny_checkpoint(tmp_path / "base", tied=False)
    merged = loaded(base, write_adapter(tmp_path / "one", base, targets=(target,))).module
    original = load(make_arm(base)).module.state_dict()
    changed = [k for k, v in merged.state_dict().items() if not torch.equal(v, original[k])]
    assert len(changed) == 1
    assert target in changed[0]


def test_another_kind_of_adapter_is_an_error(base: Path, adapter: Path) -> None:
    edit_config(adapter, peft_type="PROMPT_TUNING")
    with pytest.raises(LoadError, match="PROMPT_TUNING, and only LORA"):
        loaded(base, adapter)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(base: Path, adapter: Path, name: str) -> None:
    (adapter / name).rename(adapter / "adapter_model.bin")
    with pytest.raises(LoadError, match=f"the adapter has no {name}"):
        loaded(base, adapter)


def test_without_peft_the_install_command_is_named(
    base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"pytest-compsec\[adapters\]"):
        loaded(base, adapter)
