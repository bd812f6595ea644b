"""The config of a packed checkpoint: read from either file, refused by name if not understood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.errors import LoadError
from pytest_compsec.models.packed.settings import PackedSettings, packed_settings, quantization_of

GPTQ: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
AWQ: dict[str, Any] = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}


def write(
    folder: Path, inside: dict[str, Any] | None = None, beside: dict[str, Any] | None = None
) -> Path:
    directory = folder / "tiny"
    directory.mkdir()
    config: dict[str, Any] = {"model_type": "llama"}
    if inside is not None:
        config["quantization_config"] = inside
    (directory / "config.json").write_text(json.dumps(config))
    if beside is not None:
        (directory / "quantize_config.json").write_text(json.dumps(beside))
    return directory


def read(folder: Path, **changes: Any) -> PackedSettings:
    settings = packed_settings(write(folder, {**GPTQ, **changes}))
    assert settings is not None
    return settings


def test_an_autogptq_config_is_version_1(tmp_path: Path) -> None:
    settings = read(tmp_path, desc_act=True)
    assert (settings.method, settings.bits, settings.group_size) == ("gptq", 4, 128)
    assert settings.less_one
    assert settings.sorted_inputs
    assert not settings.borrows


@pytest.mark.parametrize("field", ["checkpoint_format", "format"])
@pytest.mark.parametrize(("layout", "less_one"), [("gptq", True), ("gptq_v2", False)])
def test_the_version_of_the_zero_points(
    tmp_path: Path, field: str, layout: str, less_one: bool
) -> None:
    assert read(tmp_path, **{field: layout}).less_one == less_one


@pytest.mark.parametrize(
    ("maker", "borrows"),
    [
        ("gptqmodel:0.9.0", True),
        (["optimum:1.24.0", "gptqmodel:7.7.0"], True),
        ("gptqmodel:0.8.9", False),
        ("gptqmodel", False),
        ("auto_gptq:1.0.0", False),
        (None, False),
    ],
)
def test_who_borrows(tmp_path: Path, maker: Any, borrows: bool) -> None:
    assert read(tmp_path, meta={"quantizer": maker}).borrows == borrows


def test_an_awq_config_in_either_spelling(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    old = {"zero_point": True, "q_group_size": 128, "w_bit": 4, "version": "GEMM"}
    for directory in (write(first, AWQ), write(second, beside=old)):
        settings = packed_settings(directory)
        assert settings is not None
        assert (settings.method, settings.bits, settings.group_size) == ("awq", 4, 128)
        assert not settings.less_one


def test_quantize_config_alone_is_enough(tmp_path: Path) -> None:
    directory = write(tmp_path, beside={"bits": 3, "group_size": -1, "desc_act": False})
    settings = packed_settings(directory)
    assert settings is not None
    assert (settings.method, settings.bits, settings.group_size) == ("gptq", 3, -1)


def test_no_quantization_and_other_methods_have_no_packed_settings(tmp_path: Path) -> None:
    directory = write(tmp_path)
    assert quantization_of(directory) is None
    assert packed_settings(directory) is None
    (directory / "config.json").write_text(
        json.dumps({"quantization_config": {"load_in_4bit": True}})
    )
    found = quantization_of(directory)
    assert found is not None
    assert found.method == "bitsandbytes"
    assert packed_settings(directory) is None


def test_a_multimodal_config_says_it_for_its_text_part(tmp_path: Path) -> None:
    directory = write(tmp_path)
    (directory / "config.json").write_text(
        json.dumps({"text_config": {"quantization_config": {**GPTQ, "bits": 5}}})
    )
    with pytest.raises(LoadError, match=r"config\.json: text_config\.quantization_config\.bits"):
        packed_settings(directory)


def test_dynamic_changes_bits_and_group_size_of_some_layers(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        dynamic={
            r"-:.*\.0\..*": {},
            r"+:.*\.1\..*": {"bits": 8},
            r".*\.2\..*": {"group_size": 32},
        },
    )
    assert settings.of_layer("model.layers.1.mlp.up_proj") == (8, 128)
    assert settings.of_layer("model.layers.2.mlp.up_proj") == (4, 32)
    assert settings.of_layer("model.layers.3.mlp.up_proj") == (4, 128)
    assert settings.says_dense("model.layers.0.mlp.up_proj")
    assert not settings.says_dense("model.layers.1.mlp.up_proj")


def test_dynamic_with_impossible_bits_names_the_pattern(tmp_path: Path) -> None:
    settings = read(tmp_path, dynamic={"a": {"bits": 7}})
    with pytest.raises(LoadError, match=r"config\.json: quantization_config\.dynamic\['a'\]\.bits"):
        settings.of_layer("a")


@pytest.mark.parametrize(
    ("base", "changes", "field"),
    [
        (GPTQ, {"bits": 5}, r"bits is 5; of gptq, 2, 3, 4, 8 bits can be read"),
        (GPTQ, {"bits": True}, "bits is True"),
        (GPTQ, {"bits": None}, "bits is None"),
        (GPTQ, {"bits": "4"}, "bits is '4'"),
        (AWQ, {"bits": 3}, "bits is 3; of awq, 4 bits can be read"),
        (GPTQ, {"group_size": 0}, "group_size is 0"),
        (GPTQ, {"group_size": None}, "group_size is None"),
        (GPTQ, {"checkpoint_format": "gptq_v3"}, "checkpoint_format is 'gptq_v3'.*gptq_v2"),
        (GPTQ, {"format": "marlin"}, "format is 'marlin'"),
        (GPTQ, {"checkpoint_format": "bitblas"}, "checkpoint_format is 'bitblas'"),
        (GPTQ, {"format": "gptq", "checkpoint_format": "gptq_v2"}, "contradict each other"),
        (GPTQ, {"is_marlin_format": True}, "is_marlin_format.*marlin is not read"),
        (GPTQ, {"pack_dtype": "int64"}, "pack_dtype is 'int64'; only int32"),
        (GPTQ, {"adapter": {"name": "lora"}}, "adapter is set"),
        (GPTQ, {"rotation": "hadamard"}, "rotation is set"),
        (GPTQ, {"lm_head": "yes"}, "lm_head is 'yes'"),
        (GPTQ, {"dynamic": ["a"]}, "dynamic is not a JSON object"),
        (GPTQ, {"dynamic": {"(": {}}}, r"dynamic: '\(' is no pattern"),
        (GPTQ, {"modules_to_not_convert": "lm_head"}, "modules_to_not_convert is 'lm_head'"),
        (AWQ, {"version": "gemv"}, "version is 'gemv'"),
        (AWQ, {"zero_point": False}, "zero_point is false"),
        (AWQ, {"backend": "llm-awq"}, "backend is 'llm-awq'"),
    ],
)
def test_what_is_not_understood_is_refused_by_file_and_field(
    tmp_path: Path, base: dict[str, Any], changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(LoadError, match=rf"tiny/config\.json: quantization_config.*{field}"):
        packed_settings(write(tmp_path, {**base, **changes}))


def test_quantize_config_is_named_when_the_fault_is_there(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"tiny/quantize_config\.json: bits is 6"):
        packed_settings(write(tmp_path, beside={"bits": 6, "group_size": 128}))


def test_a_method_that_only_quantize_config_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"quantize_config\.json: quant_method is 'qqq'"):
        packed_settings(write(tmp_path, beside={"bits": 4, "quant_method": "qqq"}))


@pytest.mark.parametrize(
    ("field", "value"), [("bits", 8), ("group_size", 64), ("checkpoint_format", "gptq_v2")]
)
def test_two_files_that_contradict_each_other_are_an_error(
    tmp_path: Path, field: str, value: Any
) -> None:
    inside = {**GPTQ, "checkpoint_format": "gptq"}
    with pytest.raises(
        LoadError, match=rf"{field} is .*quantize_config\.json: {field} is {value!r}"
    ):
        packed_settings(write(tmp_path, inside, {**inside, field: value}))


def test_quantization_config_that_is_no_object_is_an_error(tmp_path: Path) -> None:
    directory = write(tmp_path)
    (directory / "config.json").write_text('{"quantization_config": "gptq"}')
    with pytest.raises(LoadError, match=r"config\.json: quantization_config is not a JSON object"):
        packed_settings(directory)
