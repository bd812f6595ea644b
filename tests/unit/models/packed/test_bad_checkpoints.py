"""Packed checkpoints that are broken, or another model's: an error that names file and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pytest_compsec.errors import LoadError, NotCompressedError
from pytest_compsec.models.loading import load
from pytest_compsec.models.pool import estimated_bytes
from tests.unit.models.packed.packers import edit_json, known_layer
from tests.unit.models.packed.test_opening import (
    DATA,
    edit_quantization,
    edit_weights,
    without_reference,
)
from tests.unit.tiny_model import make_arm, make_tiny_checkpoint

LAYER = "model.layers.1.mlp.up_proj"


@pytest.fixture
def gptq4(tmp_path: Path) -> Path:
    """The config is said once only, so that a test can change it in one place."""
    directory = without_reference(DATA / "gptq4-g32-act", tmp_path)[0]
    (directory / "quantize_config.json").unlink()
    return directory


@pytest.fixture
def awq4(tmp_path: Path) -> Path:
    directory = without_reference(DATA / "awq4-g32", tmp_path)[0]
    (directory / "quantize_config.json").unlink()
    return directory


def refused(directory: Path, match: str) -> None:
    with pytest.raises(LoadError, match=match):
        load(make_arm(directory))


def test_the_fixtures_are_sound(gptq4: Path, awq4: Path) -> None:
    # Else every error below could be one that has nothing to do with what was changed.
    load(make_arm(gptq4))
    load(make_arm(awq4))


def test_a_truncated_file(gptq4: Path) -> None:
    path = gptq4 / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    refused(gptq4, r"tiny: model\.safetensors cannot be read, it is truncated.*compsec pin")


@pytest.mark.parametrize("group_size", [64, 16, -1])
def test_a_group_size_that_the_scales_do_not_have(gptq4: Path, group_size: int) -> None:
    edit_quantization(gptq4, group_size=group_size)
    match = (
        rf"config\.json: quantization_config\.group_size is {group_size}, .* but "
        r"model\.safetensors: .*\.scales has \d"
    )
    refused(gptq4, match)
    with pytest.raises(LoadError, match=match):
        estimated_bytes(make_arm(gptq4), "float32")


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("index", [True, False])
def test_bits_that_the_tensors_do_not_have(gptq4: Path, bits: int, index: bool) -> None:
    edit_quantization(gptq4, bits=bits, desc_act=index)
    if not index:
        keys = load_file(gptq4 / "model.safetensors")
        edit_weights(gptq4, *(key for key in keys if key.endswith("g_idx")))
    refused(
        gptq4,
        rf"config\.json: quantization_config\.bits is {bits}, but the shapes in "
        r"model\.safetensors do not fit that: model\.layers\.\d.*qweight \[",
    )


def test_awq_tensors_of_another_width(awq4: Path) -> None:
    key = "model.layers.0.mlp.up_proj.qweight"
    wide = torch.zeros(64, 32, dtype=torch.int32)
    edit_weights(awq4, **{key: wide})
    refused(awq4, r"quantization_config\.bits is 4.*model\.safetensors.*up_proj has qweight \[64")


def test_awq_claimed_to_be_gptq(awq4: Path) -> None:
    edit_quantization(
        awq4, quant_method="gptq", format="gptq", checkpoint_format="gptq", version=""
    )
    refused(awq4, r"config\.json: quantization_config\.(bits|group_size) is")


@pytest.mark.parametrize("part", ["scales", "qzeros", "g_idx"])
def test_a_missing_part(gptq4: Path, part: str) -> None:
    edit_weights(gptq4, f"{LAYER}.{part}")
    refused(gptq4, rf"model\.safetensors: {LAYER}\.{part} is missing.*compsec pin")


def test_missing_codes(gptq4: Path) -> None:
    edit_weights(gptq4, f"{LAYER}.qweight")
    refused(gptq4, rf"model\.safetensors: {LAYER}\.\w+ is there, but {LAYER}\.qweight is not")


def test_a_missing_layer(gptq4: Path) -> None:
    edit_weights(gptq4, *(f"{LAYER}.{p}" for p in ("qweight", "qzeros", "scales", "g_idx")))
    refused(gptq4, rf"would be random: {LAYER}\.weight")


@pytest.mark.parametrize("group", [-1, 4])
def test_a_group_that_has_no_scales(gptq4: Path, group: int) -> None:
    key = f"{LAYER}.g_idx"
    groups = load_file(gptq4 / "model.safetensors")[key].clone()
    groups[5] = group
    edit_weights(gptq4, **{key: groups})
    refused(gptq4, rf"model\.safetensors: {LAYER}\.g_idx names the groups .*{group}.*0 to 3")


@pytest.mark.parametrize(
    ("part", "dtype"), [("qweight", torch.int64), ("scales", torch.int32), ("g_idx", torch.float32)]
)
def test_a_part_of_another_type(gptq4: Path, part: str, dtype: torch.dtype) -> None:
    key = f"{LAYER}.{part}"
    tensor = load_file(gptq4 / "model.safetensors")[key].to(dtype)
    edit_weights(gptq4, **{key: tensor})
    refused(gptq4, rf"model\.safetensors: {LAYER}\.{part} is [IF]\d+ .* is read")


def test_a_zero_point_that_version_1_cannot_hold(gptq4: Path) -> None:
    key = f"{LAYER}.qzeros"
    spoilt = load_file(gptq4 / "model.safetensors")[key].clone()
    spoilt[0, 0] = -1
    edit_weights(gptq4, **{key: spoilt})
    edit_quantization(gptq4, meta=None)
    refused(gptq4, rf"model\.safetensors: {LAYER}\.qzeros holds a zero point of 0.*gptq_v2")


@pytest.mark.parametrize("layout", ["marlin", "bitblas", "gptq_v3"])
def test_another_format(gptq4: Path, layout: str) -> None:
    edit_quantization(gptq4, checkpoint_format=layout, format=None)
    refused(gptq4, rf"config\.json: quantization_config\.checkpoint_format is '{layout}'")


def test_bits_that_no_tool_packs(gptq4: Path) -> None:
    edit_quantization(gptq4, bits=5)
    refused(gptq4, r"config\.json: quantization_config\.bits is 5; of gptq, 2, 3, 4, 8")


@pytest.mark.parametrize("method", ["squeezellm", None])
def test_a_method_that_nobody_can_read(gptq4: Path, method: str | None) -> None:
    edit_quantization(gptq4, quant_method=method)
    said = repr(method) if method else "missing"
    refused(
        gptq4,
        rf"config\.json: quantization_config\.quant_method is {said}.*Supported: .*gptq.*torchao",
    )


def test_a_method_that_transformers_registers_and_refuses(gptq4: Path) -> None:
    edit_quantization(gptq4, quant_method="hqq")
    refused(gptq4, r"config\.json.*quant_method.*hqq checkpoints cannot be opened")


def test_the_output_layer_is_claimed_packed_and_is_not(gptq4: Path) -> None:
    edit_quantization(gptq4, lm_head=True)
    refused(gptq4, r"config\.json: quantization_config\.lm_head is true, but .* not stored packed")


def left_dense(directory: Path) -> None:
    """One layer in full precision among packed ones."""
    parts = (f"{LAYER}.{part}" for part in ("qweight", "qzeros", "scales", "g_idx"))
    edit_weights(directory, *parts, **{f"{LAYER}.weight": torch.ones(256, 128).bfloat16()})


def test_one_layer_left_in_full_precision(gptq4: Path) -> None:
    left_dense(gptq4)
    with pytest.raises(NotCompressedError, match=rf"model\.safetensors.*still full.*{LAYER}"):
        load(make_arm(gptq4))


def test_one_layer_left_in_full_precision_as_the_config_says(gptq4: Path) -> None:
    before = load(make_arm(gptq4)).weights.stored_bits
    left_dense(gptq4)
    edit_quantization(gptq4, dynamic={rf"-:{LAYER}": {}})
    loaded = load(make_arm(gptq4))
    assert torch.equal(
        loaded.module.state_dict()[f"{LAYER}.weight"], torch.ones(256, 128).bfloat16()
    )
    after = loaded.weights.stored_bits
    assert before is not None
    assert after is not None
    assert 5.5 < after < 7  # One of fourteen layers, a ninth of the weights, at 16 bits.
    assert after > before


def test_codes_beside_the_dense_weights(gptq4: Path) -> None:
    edit_weights(gptq4, **{f"{LAYER}.weight": torch.ones(256, 128).bfloat16()})
    refused(gptq4, rf"model\.safetensors: {LAYER}\.weight is there beside {LAYER}\.qweight")


def test_packed_codes_claimed_over_a_dense_model(tmp_path: Path) -> None:
    directory = make_tiny_checkpoint(tmp_path / "tiny")
    quantization = {"bits": 4, "group_size": 32}
    (directory / "quantize_config.json").write_text(json.dumps(quantization))
    with pytest.raises(NotCompressedError, match=r"quantize_config\.json says quantized by gptq"):
        load(make_arm(directory))


def test_a_layer_of_another_shape_than_the_architecture_has(gptq4: Path) -> None:
    layer = known_layer(1, 64, 256, bits=4, group_size=32)
    edit_weights(gptq4, **{f"{LAYER}.{part}": value for part, value in layer.parts.items()})
    refused(gptq4, rf"of another shape than the architecture has: {LAYER}\.weight")


def test_several_files_and_no_index(gptq4: Path) -> None:
    path = gptq4 / "model.safetensors"
    for name in ("a", "b"):
        (gptq4 / f"{name}.safetensors").write_bytes(path.read_bytes())
    path.unlink()
    refused(gptq4, r"2 \*\.safetensors files and 0 \*\.safetensors\.index\.json")


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}']
)
def test_a_broken_index(gptq4: Path, text: str) -> None:
    (gptq4 / "model.safetensors").rename(gptq4 / "model-1.safetensors")
    (gptq4 / "model.safetensors.index.json").write_text(text)
    refused(gptq4, r"model\.safetensors\.index\.json (is not a readable index|names)")


def test_quantization_config_that_is_no_object(gptq4: Path) -> None:
    changes: dict[str, Any] = {"quantization_config": ["gptq"]}
    edit_json(gptq4 / "config.json", **changes)
    refused(gptq4, r"config\.json: quantization_config is not a JSON object")
