"""What someone would try who wants a verdict on another model than the one that is deployed: two
models under one name, layers that only seem compressed, files that say one thing and hold another.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pytest_compsec.choosing as choosing
from pytest_compsec.commands.variant_lines import require_outside_sources
from pytest_compsec.compression.kept import hide, kept_layers, linear_layers
from pytest_compsec.config.loading import load_config
from pytest_compsec.errors import ConfigError, LoadError, NotCompressedError
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.exported import export_files
from pytest_compsec.models.loading import load
from pytest_compsec.models.pinning import pin
from pytest_compsec.models.pool import ModelPool
from tests.unit.models.tiny_files import write_model, write_suite
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint, staged

LAYER = "model.layers.0.mlp.down_proj"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def int8(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("bitsandbytes")
    return exported(checkpoint, tmp_path_factory.mktemp("int8") / "files", bits=8)


@pytest.fixture(scope="module")
def nf4(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("bitsandbytes")
    return exported(checkpoint, tmp_path_factory.mktemp("nf4") / "files", bits=4, type="nf4")


def exported(checkpoint: Path, directory: Path, **values: Any) -> Path:
    recipe = make_recipe("quantize", method="bitsandbytes", **values)
    export_files(load, make_arm(checkpoint, recipe=recipe), directory)
    return directory


def edited(source: Path, directory: Path, edit: Callable[[Tensors], object]) -> Path:
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, directory)
    tensors = load_file(directory / "model.safetensors")
    edit(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def opened(directory: Path) -> object:
    return load(make_arm(directory, variant="files"))


# Two models under one name.


def calibrated(checkpoint: Path, **fields: Any) -> Arm:
    recipe = make_recipe("prune", method="wanda", sparsity=0.5, calibration="own")
    return make_arm(checkpoint, recipe=recipe, calibration=("How do I bake bread?",), **fields)


@pytest.mark.parametrize(
    "other",
    [{"system": "You are a pirate."}, {"chat_template_kwargs": {"enable_thinking": False}}],
    ids=["system", "template arguments"],
)
def test_a_calibrated_model_is_another_one_under_another_rendering(
    checkpoint: Path, other: dict[str, Any]
) -> None:
    first, second = calibrated(checkpoint), calibrated(checkpoint, **other)
    assert first.weights_digest != second.weights_digest
    # What nothing was calibrated on has the same weights under every system prompt.
    assert make_arm(checkpoint).weights_digest == make_arm(checkpoint, **other).weights_digest


def test_the_pool_gives_each_system_prompt_its_own_calibrated_weights(checkpoint: Path) -> None:
    pool = ModelPool(free_bytes=lambda device: 1 << 40)
    pool.get(calibrated(checkpoint))
    briefed = calibrated(checkpoint, system="You are a pirate who speaks of the sea.")
    found, right = (model.module.state_dict() for model in (pool.get(briefed), load(briefed)))
    pool.close()
    assert all(torch.equal(found[name], right[name]) for name in right)


def test_a_merged_adapter_and_the_same_one_on_top_are_two_models(checkpoint: Path) -> None:
    adapter = staged(checkpoint / "adapter")
    merged = make_arm(checkpoint, adapter=adapter)
    on_top = make_arm(checkpoint, adapter=adapter, variant="files")
    assert merged.weights_digest != on_top.weights_digest


# Layers that only seem compressed.


def test_a_model_that_is_kept_but_for_a_remainder_is_not_called_compressed(
    checkpoint: Path,
) -> None:
    names = linear_layers(load(make_arm(checkpoint)).module)
    keep = [name for name in names if name != "model.layers.0.self_attn.k_proj"]
    recipe = make_recipe("quantize", method="round-to-nearest", bits=8, keep_in_full_precision=keep)
    with pytest.raises(NotCompressedError, match=r"keeps 97\.2% .*Name fewer layers"):
        load(make_arm(checkpoint, recipe=recipe))


def test_the_output_embedding_need_not_be_kept_and_the_message_says_so(checkpoint: Path) -> None:
    module = load(make_arm(checkpoint)).module
    with pytest.raises(NotCompressedError, match=r"'lm_head', the output embedding, .*leave"):
        kept_layers(module, ["lm_head"])


def test_weights_of_a_kept_layer_are_not_compressed_under_another_name() -> None:
    first, second = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
    second.weight = first.weight
    module = torch.nn.ModuleDict({"a": first, "b": second})
    with pytest.raises(NotCompressedError, match=r"keeps a, whose weights b shares .*name both"):
        hide(module, ["a"])


def adapter_on(directory: Path, checkpoint: Path, *, rank: int, alpha: int) -> Path:
    peft = pytest.importorskip("peft")
    module: Any = load(make_arm(checkpoint)).module
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=["down_proj"])
    wrapped = peft.get_peft_model(module, config)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.constant_(parameter, 0.05)
    wrapped.save_pretrained(directory)
    return directory


def with_adapter(checkpoint: Path, adapter: Path) -> Arm:
    recipe = make_recipe("quantize", method="round-to-nearest", bits=2)
    return make_arm(checkpoint, recipe=recipe, compressed_adapter=staged(adapter))


def test_an_adapter_as_large_as_its_layers_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    # down_proj has 128 inputs and 64 outputs: 8192 weights, and rank r takes 192 r numbers.
    large = adapter_on(tmp_path / "large", checkpoint, rank=43, alpha=43)
    with pytest.raises(LoadError, match=r"16,512 numbers.* 16,384 weights.*lower rank"):
        load(with_adapter(checkpoint, large))
    small = adapter_on(tmp_path / "small", checkpoint, rank=42, alpha=42)
    load(with_adapter(checkpoint, small))


def test_an_adapter_that_is_scaled_to_nothing_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    idle = adapter_on(tmp_path / "idle", checkpoint, rank=2, alpha=0)
    with pytest.raises(LoadError, match="changes no weight"):
        load(with_adapter(checkpoint, idle))


def test_a_truncated_adapter_is_named(checkpoint: Path, tmp_path: Path) -> None:
    adapter = adapter_on(tmp_path / "cut", checkpoint, rank=2, alpha=2)
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-16])
    with pytest.raises(LoadError, match=r"adapter's adapter_model\.safetensors cannot be read"):
        load(with_adapter(checkpoint, adapter))


# Files that say one thing and hold another.


def test_a_file_beside_the_model_does_not_vouch_for_it(
    checkpoint: Path, int8: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "dense"
    shutil.copytree(checkpoint, directory)
    shutil.copy(int8 / "config.json", directory / "config.json")
    # transformers opens model.safetensors alone, and would quantize it while it loads.
    shutil.copy(int8 / "model.safetensors", directory / "quantized.safetensors")
    with pytest.raises(NotCompressedError, match="still full precision"):
        opened(directory)


def test_two_shards_with_one_tensor_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    directory = tmp_path / "shards"
    shutil.copytree(checkpoint, directory)
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    other = {f"{LAYER}.weight": torch.zeros_like(tensors[f"{LAYER}.weight"])}
    shards = {"model-1.safetensors": tensors, "model-2.safetensors": other}
    for name, part in shards.items():
        save_file(part, directory / name, metadata={"format": "pt"})
    weight_map = {**dict.fromkeys(tensors, "model-1.safetensors"), "also": "model-2.safetensors"}
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(
        LoadError, match=r"model-1\.safetensors and model-2.* both hold .*down_proj"
    ):
        opened(directory)


def test_integers_without_scales_are_not_taken_for_weights(
    checkpoint: Path, tmp_path: Path
) -> None:
    def codes(tensors: Tensors) -> None:
        tensors[f"{LAYER}.weight"] = (100 * tensors[f"{LAYER}.weight"]).to(torch.int8)

    with pytest.raises(LoadError, match=r"model\.safetensors: .*down_proj\.weight is stored as I8"):
        opened(edited(checkpoint, tmp_path / "codes", codes))


@pytest.mark.parametrize("part", ["SCB", "weight"])
def test_eight_bits_without_all_parts_name_the_tensor(
    int8: Path, tmp_path: Path, part: str
) -> None:
    directory = edited(int8, tmp_path / "parts", lambda tensors: tensors.pop(f"{LAYER}.{part}"))
    with pytest.raises(LoadError, match=rf"model\.safetensors: .*{LAYER}\.SCB is"):
        opened(directory)


def test_too_few_scales_are_refused_before_they_are_used(int8: Path, tmp_path: Path) -> None:
    def cut(tensors: Tensors) -> None:
        tensors[f"{LAYER}.SCB"] = tensors[f"{LAYER}.SCB"][:3].clone()

    with pytest.raises(LoadError, match=r"down_proj\.SCB holds 3 numbers of type F32; .* needs 64"):
        opened(edited(int8, tmp_path / "short", cut))


@pytest.mark.parametrize(
    ("part", "message"),
    [("weight", "holds 4088 bytes; .* takes 4096"), ("weight.absmax", "holds 120 .* needs 128")],
)
def test_four_bits_of_another_size_are_refused(
    nf4: Path, tmp_path: Path, part: str, message: str
) -> None:
    def cut(tensors: Tensors) -> None:
        tensors[f"{LAYER}.{part}"] = tensors[f"{LAYER}.{part}"][:-8].clone()

    with pytest.raises(LoadError, match=rf"model\.safetensors: {LAYER}\.{part} {message}"):
        opened(edited(nf4, tmp_path / "short", cut))


@pytest.mark.parametrize("absent", ["absmax", "quant_map"])
def test_four_bits_without_a_part_name_it(nf4: Path, tmp_path: Path, absent: str) -> None:
    key = f"{LAYER}.weight.{absent}"
    with pytest.raises(LoadError, match=rf"{key} is missing beside {LAYER}\.weight"):
        opened(edited(nf4, tmp_path / "without", lambda tensors: tensors.pop(key)))


@pytest.mark.parametrize(
    ("claim", "field"),
    [
        ({"bnb_4bit_quant_type": "fp4"}, "bnb_4bit_quant_type is 'fp4'"),
        ({"load_in_4bit": False, "load_in_8bit": True}, "load_in_4bit is not true"),
    ],
    ids=["type", "bits"],
)
def test_a_config_of_another_checkpoint_is_named_by_its_field(
    nf4: Path, tmp_path: Path, claim: dict[str, object], field: str
) -> None:
    directory = tmp_path / "claim"
    shutil.copytree(nf4, directory)
    config = json.loads((directory / "config.json").read_text("utf-8"))
    config["quantization_config"].update(claim)
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(LoadError, match=rf"config\.json: quantization_config\.{field}, but model"):
        opened(directory)


def test_what_is_whole_still_loads(int8: Path, nf4: Path, checkpoint: Path, tmp_path: Path) -> None:
    nested = exported(checkpoint, tmp_path / "nested", bits=4, type="nf4", double_quant=True)
    for directory in (int8, nf4, nested):
        opened(directory)


# Commands and pins.


def test_nothing_is_written_into_the_files_of_a_model(tmp_path: Path) -> None:
    loaded = load_config(write_suite(tmp_path))
    for inside in ("model/out", "other/deeper/out"):
        with pytest.raises(ConfigError, match=r"out: is inside \./(model|other), .*outside"):
            require_outside_sources(loaded, tmp_path / inside)
    require_outside_sources(loaded, tmp_path / "model-out")
    # A variant may name the directory already that an export is to fill.
    require_outside_sources(loaded, tmp_path / "other")


AUTO = """\
version: 1
models:
  assistant:
    original: {source: ./model}
    compressed:
      half: {prune: {method: magnitude, sparsity: 0.5,
                     keep_in_full_precision: auto, selection: own}}
prompts:
  own: {file: own.txt}
"""


def test_a_repaired_variant_is_the_model_that_its_adapter_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[str] = []

    def found(_loaded: object, _lock: object, _model: str, variant: str, _: object) -> list[str]:
        searched.append(variant)
        return ["model.layers.0.mlp.down_proj"]

    monkeypatch.setattr(choosing, "_search", found)
    (tmp_path / "own.txt").write_text("How?\nWhy?\n", encoding="utf-8")
    path = write_suite(tmp_path, AUTO)
    pin(path)
    write_model(tmp_path / "lora", b"\x02" * 64)
    (tmp_path / "lora" / "model.safetensors").rename(tmp_path / "lora/adapter_model.safetensors")
    half = AUTO[AUTO.index("      half:") : AUTO.index("prompts:")]
    tuned = half.replace("half:", "half-tuned:").replace("own}}", "own}, adapter: ./lora}")
    path.write_text(AUTO.replace(half, half + tuned), encoding="utf-8")
    variants = pin(path).lock.models["assistant"].variants
    assert searched == ["half"]  # What was found is not looked for anew with the adapter on top.
    recipes = [variants[name].recipe for name in ("half", "half-tuned")]
    assert recipes[0] == recipes[1]
    # Nor under another name: a variant that is renamed stays the model that it was.
    path.write_text(AUTO.replace("half:", "renamed:"), encoding="utf-8")
    assert pin(path).lock.models["assistant"].variants["renamed"].recipe == recipes[0]
    assert searched == ["half"]
