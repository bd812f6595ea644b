"""Checkpoints by the real compressed-tensors and torchao: the library's own weights and answers,
bits as in the files, and every false claim of config.json named."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_compsec.errors import LoadError, MissingExtraError, NotCompressedError
from pytest_compsec.models.quantized_checkpoints import finish, prepare, stored_bits
from pytest_compsec.models.quiet import quiet
from pytest_compsec.models.weights import check_is_compressed, measure_weights
from tests.unit.models.quantized_files import (
    edit_config,
    edit_tensors,
    linear_layers,
    logits,
    open_plain,
    read_config,
    save_block_fp8,
    save_compressed_tensors,
    save_torchao,
)
from tests.unit.tiny_model import make_tiny_checkpoint

TYPES: Any = torch  # Its integers of few bits are not in the stubs.
INT8_TOKENS = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}
FP8 = {"num_bits": 8, "type": "float"}


def weights(bits: int, **more: Any) -> dict[str, Any]:
    strategy = "group" if "group_size" in more else "channel"
    return {"num_bits": bits, "type": "int", "strategy": strategy, **more}


def group(**arguments: Any) -> dict[str, Any]:
    return {"targets": ["Linear"], **arguments}


GROUPS: dict[str, dict[str, Any]] = {
    "w4a16": {"group_0": group(weights=weights(4, group_size=32))},
    "w4a16-asymmetric": {"group_0": group(weights=weights(4, group_size=32, symmetric=False))},
    "w3a16": {"group_0": group(weights=weights(3))},
    "w8a16": {"group_0": group(weights=weights(8, group_size=64))},
    "w8a8": {"group_0": group(weights=weights(8), input_activations=INT8_TOKENS)},
    "fp8": {
        "group_0": group(
            weights={**FP8, "strategy": "channel"},
            input_activations={**FP8, "strategy": "token", "dynamic": True},
        )
    },
    "fp8-static": {
        "group_0": group(
            weights={**FP8, "strategy": "tensor"},
            input_activations={**FP8, "strategy": "tensor", "dynamic": False},
        )
    },
    "mixed": {
        "group_0": {"targets": ["re:.*self_attn.*"], "weights": weights(4, group_size=32)},
        "group_1": {
            "targets": ["re:.*mlp.*"],
            "weights": weights(8),
            "input_activations": INT8_TOKENS,
        },
    },
}
# Codes and, of 36,864 float32 weights each layer, the scales: 4 bytes each. A group of 32 weights:
# 1 bit; an output channel: 576 channels with 64 inputs or 128 of a layer hold 36,864 weights.
CHANNELS = 32 * 512 / 36864
BITS = {
    "w4a16": 4 + 1,
    "w4a16-asymmetric": 4 + 1 + 4 / 32,
    "w3a16": 3 + CHANNELS,
    "w8a16": 8 + 0.5,
    "w8a8": 8 + CHANNELS,
    "fp8": 8 + CHANNELS,
}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("dense"), tied=False)


@pytest.fixture(scope="module")
def compressed_tensors(
    dense: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Any, Any]]:
    """Makes each checkpoint once: its directory, the library's weights and its answers."""
    pytest.importorskip("compressed_tensors")
    made: dict[str, tuple[Path, Any, Any]] = {}

    def make(name: str) -> tuple[Path, Any, Any]:
        if name not in made:
            directory = tmp_path_factory.mktemp("ct") / name
            with quiet():
                made[name] = (directory, *save_compressed_tensors(dense, directory, GROUPS[name]))
        return made[name]

    return make


@pytest.fixture(scope="module")
def torchao(
    dense: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Any, Any]]:
    """Makes each checkpoint once: its directory, the saved module and its answers."""
    library = pytest.importorskip("torchao.quantization")
    configs = {
        "int8": library.Int8WeightOnlyConfig(set_inductor_config=False),
        "int4": library.IntxWeightOnlyConfig(TYPES.int4, library.PerGroup(32)),
        "int2": library.IntxWeightOnlyConfig(TYPES.int2, library.PerGroup(32)),
        "fp8": library.Float8WeightOnlyConfig(set_inductor_config=False),
    }
    made: dict[str, tuple[Path, Any, Any]] = {}

    def make(name: str) -> tuple[Path, Any, Any]:
        if name not in made:
            directory = tmp_path_factory.mktemp("ao") / name
            with quiet():
                made[name] = (directory, *save_torchao(dense, directory, configs[name]))
        return made[name]

    return make


def opened(directory: Path, **more: Any) -> Any:
    """As the loader opens it."""
    config = read_config(directory)
    with quiet():
        options = prepare("tiny-variant", directory, config)
        module, info = open_plain(
            directory, output_loading_info=True, ignore_mismatched_sizes=True, **options, **more
        )
        assert not any(info.values()), info
        finish("tiny-variant", directory, config, module)
    return module


def spoiled(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target / "spoiled"))


# compressed-tensors


@pytest.mark.heavy
@pytest.mark.parametrize("name", GROUPS)
def test_weights_and_answers_are_those_of_compressed_tensors(
    compressed_tensors: Any, dense: Path, name: str
) -> None:
    directory, theirs, answers = compressed_tensors(name)
    module = opened(directory)
    ours = linear_layers(module)
    assert len(ours) == len(theirs) == 14
    assert [n for n in theirs if not torch.equal(ours[n].weight.data, theirs[n])] == []
    assert torch.equal(logits(module), answers)
    original = open_plain(dense)
    assert not torch.equal(logits(original), answers)
    check_is_compressed(
        measure_weights(original), measure_weights(module, stored_bits=stored_bits(directory))
    )


@pytest.mark.heavy
@pytest.mark.parametrize(("name", "bits"), BITS.items())
def test_bits_are_those_in_the_files(compressed_tensors: Any, name: str, bits: float) -> None:
    assert stored_bits(compressed_tensors(name)[0]) == pytest.approx(bits)


@pytest.mark.heavy
def test_packed_codes_are_measured_as_such_before_they_are_unpacked(
    compressed_tensors: Any,
) -> None:
    with quiet():
        module = open_plain(compressed_tensors("w4a16")[0])
        packed = measure_weights(module)
        logits(module)
        unpacked = measure_weights(module)
    assert {(m.bits, m.overhead_bits, m.levels) for m in packed.of("linear")} == {(4.0, 1.0, 16)}
    assert {m.bits for m in unpacked.of("linear")} == {32.0}
    for report in (packed, unpacked):
        assert {m.role for m in report.matrices} == {"linear", "embedding", "output"}
        assert {m.group_size for m in report.of("linear")} == {32}
        assert {m.levels for m in report.of("linear")} == {16}
    assert [(m.name, m.shape, m.zeros) for m in packed.of("linear")] == [
        (m.name, m.shape, m.zeros) for m in unpacked.of("linear")
    ]


@pytest.mark.heavy
def test_an_edited_weight_is_off_the_grid(compressed_tensors: Any) -> None:
    module = opened(compressed_tensors("w8a8")[0])
    layer = module.model.layers[0].self_attn.q_proj
    assert {m.levels for m in measure_weights(module).of("linear")} == {256}
    with torch.no_grad():
        layer.weight[3, 3] += layer.weight_scale[3, 0] / 3
    levels = {m.name: m.levels for m in measure_weights(module).of("linear")}
    assert levels.pop("model.layers.0.self_attn.q_proj.weight") is None
    assert set(levels.values()) == {256}


def scheme(quantization: dict[str, Any], **changes: Any) -> None:
    quantization["config_groups"]["group_0"]["weights"].update(changes)


FIELD = r"'quantization_config\.config_groups\.group_0\.weights\."


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("w4a16", {"num_bits": 8}, FIELD + r"num_bits' says 8 bits, but .*weight_packed .* 4 bits"),
        ("w4a16", {"num_bits": 3}, FIELD + r"num_bits' says 3 bits"),
        ("w4a16", {"group_size": 64}, FIELD + r"group_size' says 64, .* one for 32"),
        ("w4a16", {"num_bits": 2, "group_size": 64}, FIELD + r"num_bits' says 2 bits"),
        ("w4a16", {"strategy": "channel", "group_size": None}, FIELD + r"strategy' says one scale"),
        ("w4a16", {"symmetric": False}, FIELD + r"symmetric' says false, .* no zero points"),
        ("w4a16", {"type": "float"}, FIELD + r"type' is 'float' of 4 bits"),
        ("w4a16", {"num_bits": "4"}, FIELD + r"num_bits' is '4', no whole number"),
        ("w4a16", {"actorder": "group"}, FIELD + r"actorder'"),
        ("w8a8", {"type": "float"}, FIELD + r"num_bits' says 8 bits, float, .* I8 codes"),
        ("fp8", {"type": "int"}, FIELD + r"num_bits' says 8 bits, integers, .* F8_E4M3 codes"),
        ("fp8-static", {"strategy": "channel"}, FIELD + r"strategy' says one scale for each"),
    ],
)
def test_a_config_that_does_not_describe_the_tensors_is_named_by_field_and_file(
    compressed_tensors: Any, tmp_path: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    directory = spoiled(compressed_tensors(name)[0], tmp_path)
    config = edit_config(directory, lambda quantization: scheme(quantization, **changes))
    with pytest.raises(LoadError, match=r"tiny-variant: config\.json.*" + message) as raised:
        prepare("tiny-variant", directory, config)
    if "says" in message:
        assert "model.safetensors" in str(raised.value)


@pytest.mark.heavy
def test_four_bits_claimed_over_codes_of_eight_are_caught(
    compressed_tensors: Any, tmp_path: Path
) -> None:
    directory = spoiled(compressed_tensors("w8a8")[0], tmp_path)
    config = edit_config(directory, lambda quantization: scheme(quantization, num_bits=4))
    with pytest.raises(
        NotCompressedError, match=r"proj\.weight in model\.safetensors.* 4 bits.*-1\d\d to 1\d\d"
    ):
        prepare("tiny-variant", directory, config)


@pytest.mark.heavy
def test_another_format_than_stored_is_named(compressed_tensors: Any, tmp_path: Path) -> None:
    directory = spoiled(compressed_tensors("w8a8")[0], tmp_path)

    def packed(quantization: dict[str, Any]) -> None:
        quantization["config_groups"]["group_0"]["format"] = "pack-quantized"

    config = edit_config(directory, packed)
    with pytest.raises(LoadError, match=r"packed in 32-bit words, but .* holds I8 codes"):
        prepare("tiny-variant", directory, config)
    edit_config(directory, packed)

    def unknown(quantization: dict[str, Any]) -> None:
        quantization["config_groups"]["group_0"]["format"] = "marlin-24"

    config = edit_config(directory, unknown)
    with pytest.raises(LoadError, match=r"group_0\.format' is 'marlin-24'; supported are"):
        prepare("tiny-variant", directory, config)


@pytest.mark.heavy
def test_a_layer_left_in_full_precision_is_named(
    compressed_tensors: Any, dense: Path, tmp_path: Path
) -> None:
    directory = spoiled(compressed_tensors("w4a16")[0], tmp_path)
    layer = "model.layers.1.mlp.up_proj"
    weight = linear_layers(open_plain(dense))[layer].weight.data

    def plain(tensors: dict[str, torch.Tensor]) -> None:
        for part in ("packed", "scale", "shape"):
            del tensors[f"{layer}.weight_{part}"]
        tensors[f"{layer}.weight"] = weight

    before = stored_bits(directory)
    edit_tensors(directory, plain)
    with pytest.raises(NotCompressedError, match=r"full precision.*1 layers.*layers\.1\.mlp\.up"):
        opened(directory)
    after = stored_bits(directory)
    assert before is not None
    assert after is not None
    assert after > before + 1
    edit_config(directory, lambda quantization: quantization["ignore"].append(layer))
    assert torch.equal(opened(directory).get_submodule(layer).weight.data, weight)


@pytest.mark.heavy
def test_a_truncated_file_is_named(compressed_tensors: Any, tmp_path: Path) -> None:
    directory = spoiled(compressed_tensors("w4a16")[0], tmp_path)
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(LoadError, match=r"model\.safetensors.*truncated or corrupted"):
        prepare("tiny-variant", directory, read_config(directory))


# torchao


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("name", "bits"),
    [("int8", 8 + CHANNELS * 1.25), ("int4", 9.25), ("int2", 9.25), ("fp8", 8 + CHANNELS)],
)
def test_codes_and_answers_are_those_of_torchao(torchao: Any, name: str, bits: float) -> None:
    directory, saved, answers = torchao(name)
    module = opened(directory)
    theirs = linear_layers(saved)
    for layer, ours in linear_layers(module).items():
        assert torch.equal(ours.weight.dequantize(), theirs[layer].weight.dequantize()), layer
    assert torch.equal(logits(module), answers)
    # In files as in memory: a byte for each code, whatever its bits are called.
    assert stored_bits(directory) == pytest.approx(bits)
    levels = {"int8": 256, "int4": 16, "int2": 4, "fp8": None}[name]
    assert {m.levels for m in measure_weights(module).of("linear")} == {levels}


def torchao_data(quantization: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = quantization["quant_type"]["default"]["_data"]
    return data


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda data: data["weight_dtype"].update(_data="int8"),
            r"weight_dtype' says 8 bits, but .*_weight_qdata holds codes of 4 bits",
        ),
        (
            lambda data: data["granularity"]["_data"].update(group_size=64),
            r"group_size' says 64, .* one for 32",
        ),
        (
            lambda data: data["weight_dtype"].update(_data="float"),
            r"weight_dtype' is 'float', no integer",
        ),
        (
            lambda data: data["granularity"]["_data"].update(group_size="32"),
            r"group_size' is '32', no whole number",
        ),
    ],
)
def test_a_torchao_config_that_does_not_describe_the_tensors_is_named(
    torchao: Any, tmp_path: Path, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    directory = spoiled(torchao("int4")[0], tmp_path)
    config = edit_config(directory, lambda quantization: edit(torchao_data(quantization)))
    with pytest.raises(LoadError, match=r"tiny-variant: config\.json.*" + message):
        prepare("tiny-variant", directory, config)


@pytest.mark.heavy
def test_torchao_codes_beyond_their_bits_are_caught(torchao: Any, tmp_path: Path) -> None:
    directory = spoiled(torchao("int4")[0], tmp_path)

    def wide(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj._weight_qdata"][5, 5] = 100

    edit_tensors(directory, wide)
    with pytest.raises(NotCompressedError, match=r"up_proj\._weight_qdata.* 4 bits.*-8 to 100"):
        prepare("tiny-variant", directory, read_config(directory))


@pytest.mark.heavy
def test_a_torchao_layer_left_in_full_precision_is_named(
    torchao: Any, dense: Path, tmp_path: Path
) -> None:
    directory = spoiled(torchao("int4")[0], tmp_path)
    layer = "model.layers.1.mlp.up_proj"
    weight = linear_layers(open_plain(dense))[layer].weight.data

    def plain(tensors: dict[str, torch.Tensor]) -> None:
        for part in ("qdata", "scale", "zero_point"):
            del tensors[f"{layer}._weight_{part}"]
        tensors[f"{layer}.weight"] = weight

    edit_tensors(directory, plain, lambda m: {**m, f"{layer}.weight": '{"_type": "Tensor"}'})
    with pytest.raises(NotCompressedError, match=r"full precision.*1 layers.*layers\.1\.mlp\.up"):
        opened(directory)


# FP8 in blocks, which needs no package


@pytest.fixture(scope="module")
def block_fp8(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    directory = tmp_path_factory.mktemp("fp8") / "blocks"
    return directory, save_block_fp8(dense, directory, 32)


def test_block_fp8_weights_are_the_numbers_that_the_codes_stand_for(
    block_fp8: tuple[Path, Any], dense: Path
) -> None:
    directory, numbers = block_fp8
    module = opened(directory, dtype=torch.float32)
    ours = linear_layers(module)
    assert [n for n in numbers if not torch.equal(ours[n].weight.data, numbers[n])] == []
    assert len(numbers) == 14
    bits = stored_bits(directory)
    assert bits == 8 + 32 / 32**2
    original = open_plain(dense)
    assert 0 < float((logits(module) - logits(original)).norm()) < float(logits(original).norm())
    check_is_compressed(measure_weights(original), measure_weights(module, stored_bits=bits))


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ([64, 32], r"weight_block_size' says 64 by 32, .* one for 1024"),
        ([32], r"weight_block_size' is \[32\], no pair"),
        (None, r"weight_block_size' is None, no pair"),
    ],
)
def test_another_block_size_than_stored_is_named(
    block_fp8: tuple[Path, Any], tmp_path: Path, block: Any, message: str
) -> None:
    directory = spoiled(block_fp8[0], tmp_path)
    config = edit_config(directory, lambda q: q.update(weight_block_size=block))
    with pytest.raises(LoadError, match=r"config\.json.*'quantization_config\." + message):
        prepare("tiny-variant", directory, config)


def test_a_block_fp8_layer_left_in_full_precision_is_named(
    block_fp8: tuple[Path, Any], tmp_path: Path
) -> None:
    directory, numbers = spoiled(block_fp8[0], tmp_path), block_fp8[1]
    layer = "model.layers.1.mlp.up_proj"

    def plain(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[f"{layer}.weight_scale_inv"]
        tensors[f"{layer}.weight"] = numbers[layer]

    edit_tensors(directory, plain)
    with pytest.raises(NotCompressedError, match=r"full precision.*1 layers.*layers\.1\.mlp\.up"):
        opened(directory)


# Without the packages


def claim(method: str, **more: Any) -> dict[str, Any]:
    return {"quantization_config": {"quant_method": method, **more}}


def test_a_missing_package_is_named_with_its_extra(
    dense: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "compressed_tensors", None)
    monkeypatch.setitem(sys.modules, "torchao", None)
    four = {"format": "pack-quantized", "config_groups": GROUPS["w4a16"]}
    with pytest.raises(MissingExtraError, match=r"pytest-compsec\[compressed-tensors\]"):
        prepare("tiny-variant", dense, claim("compressed-tensors", **four))
    eight = {"default": {"_type": "Int8WeightOnlyConfig", "_data": {}}}
    with pytest.raises(MissingExtraError, match=r"pytest-compsec\[torchao\]"):
        prepare("tiny-variant", dense, claim("torchao", quant_type=eight))


def test_an_hqq_checkpoint_is_refused_with_what_to_do_instead(dense: Path) -> None:
    with pytest.raises(LoadError, match=r"quant_method': hqq.*quantize: \{method: hqq\}"):
        prepare("tiny-variant", dense, claim("hqq"))


@pytest.mark.parametrize(
    ("method", "more", "field"),
    [
        ("compressed-tensors", {}, "config_groups"),
        ("compressed-tensors", {"config_groups": {"a": {"targets": []}}}, r"a\.weights"),
        ("compressed-tensors", {"config_groups": {"a": {"weights": {}}}}, r"a\.targets"),
        ("torchao", {}, "quant_type"),
        ("torchao", {"quant_type": "int4_weight_only"}, "quant_type"),
    ],
)
def test_a_config_that_says_too_little_is_named(
    dense: Path, method: str, more: dict[str, Any], field: str
) -> None:
    with pytest.raises(LoadError, match=rf"config\.json, 'quantization_config\..*{field}"):
        prepare("tiny-variant", dense, claim(method, **more))


def test_other_checkpoints_are_left_alone(dense: Path) -> None:
    module = open_plain(dense)
    for config in (read_config(dense), claim("bitsandbytes", load_in_4bit=True)):
        assert prepare("tiny", dense, config) == {}
        finish("tiny", dense, config, module)
    assert stored_bits(dense) is None
