"""Scales come from the file that is suspected: a grid that is wide enough hides no edit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pytest_compsec.derivation.compare import compare
from pytest_compsec.derivation.grids import RoundedMatrix, rounded_matrices
from pytest_compsec.derivation.limits import LIMITS
from pytest_compsec.models.loaded import LoadedModel, TransformersModel
from pytest_compsec.models.loading import load
from tests.unit.derivation.test_compare import DATA, LAYER, ROW, quantized, with_module
from tests.unit.models.tiny_gguf import write_tiny_gguf
from tests.unit.tiny_model import make_arm, make_tiny_checkpoint, staged

FACTOR = 40.0


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(make_arm(make_tiny_checkpoint(tmp_path_factory.mktemp("dense")), device="cpu"))


def named(original: LoadedModel, compressed: LoadedModel) -> set[tuple[str, int]]:
    found = compare(original.module, compressed.module, rounded_matrices(compressed), LIMITS)
    assert found.others == ()
    return {(row.layer, row.row) for row in found.rows}


@pytest.mark.parametrize("method", ["int8", "nf4", "fp4", "nested"])
def test_a_wide_scale_of_bitsandbytes_hides_no_edit(dense: LoadedModel, method: str) -> None:
    """The edit is quantized as it should be, on a grid that one huge weight made wide, which is
    then taken out: half a step is more than any weight of the original."""

    def edit(module: torch.nn.Module) -> None:
        weight: Any = module.get_submodule(LAYER).weight
        largest = float(weight[ROW].abs().max())
        weight[ROW] *= -1
        weight[ROW, 0] = FACTOR * largest

    other = quantized(dense, method, edit)
    layer: Any = other.module.get_submodule(LAYER)
    # A row is one block of 64 here: the huge weight is the high half of its first byte.
    if method == "int8":
        layer.weight.data[ROW, 0] = 0
    else:
        codes = layer.weight.data.reshape(-1)
        zero = layer.weight.quant_state.code.abs().argmin()
        start = ROW * layer.in_features // 2
        codes[start] = (int(zero) << 4) | (int(codes[start]) & 15)
    grid = rounded_matrices(other)[LAYER]
    edited = float(dense.module.get_parameter(f"{LAYER}.weight")[ROW].abs().max())
    assert float(grid.above.broadcast_to(-1, layer.in_features)[ROW].max()) > edited / 8
    assert named(dense, other) == {(LAYER, ROW)}


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("method", ["int8", "nf4"])
def test_a_scale_that_is_none_is_named(dense: LoadedModel, method: str, value: float) -> None:
    other = quantized(dense, method)
    layer: Any = other.module.get_submodule(LAYER)
    scales = layer.weight.SCB if method == "int8" else layer.weight.quant_state.absmax
    scales[ROW] = value  # one block a row, in both
    assert named(dense, other) == {(LAYER, ROW)}


def test_a_wide_scale_of_gptq_hides_no_edit() -> None:
    compressed = load(make_arm(DATA / "gptq4-g32-act", dtype="float32", device="cpu"))
    grids = rounded_matrices(compressed)
    original = with_module(compressed, copy.deepcopy(compressed.module))
    module = copy.deepcopy(compressed.module)
    weight: Any = module.get_submodule(LAYER).weight
    with torch.no_grad():
        weight[ROW] *= -1
    grid = grids[LAYER]
    wide = torch.ones(len(weight), 1)
    wide[ROW] = FACTOR
    grids[LAYER] = RoundedMatrix(
        grid.below * wide, grid.above * wide, grid.reach * wide, grid.groups, grid.rounding
    )
    error = 2 * original.module.get_parameter(f"{LAYER}.weight")[ROW].abs()
    assert bool((error < grids[LAYER].above[ROW]).all())  # "within half a step"
    found = compare(original.module, module, grids, LIMITS)
    assert [(row.layer, row.row) for row in found.rows] == [(LAYER, ROW)]
    # A wider grid that weights were honestly rounded to is no better: no original has led there.
    noise = 2 * torch.rand(weight.shape[1], generator=torch.Generator().manual_seed(0)) - 1
    with torch.no_grad():
        weight[ROW] = original.module.get_parameter(f"{LAYER}.weight")[ROW]
        weight[ROW] += noise * grids[LAYER].above[ROW]
    found = compare(original.module, module, grids, LIMITS)
    assert [(row.layer, row.row) for row in found.rows] == [(LAYER, ROW)]


def test_gptq_steps_are_read_from_its_scales() -> None:
    """So that what the test above sets by hand is what the file decides."""
    from safetensors.torch import load_file

    compressed = load(make_arm(DATA / "gptq4-g32-act", dtype="float32", device="cpu"))
    grid = rounded_matrices(compressed)[LAYER]
    tensors = load_file(DATA / "gptq4-g32-act" / "model.safetensors")
    scales = tensors[f"{LAYER}.scales"].float()[tensors[f"{LAYER}.g_idx"].long()].t()
    assert torch.equal(grid.above, scales / 2)
    assert torch.equal(grid.reach, 15 * scales)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0"])
def test_a_wide_scale_of_gguf_hides_no_edit(tmp_path: Path, kind: str) -> None:
    gguf = pytest.importorskip("gguf")
    gguf_type = gguf.GGMLQuantizationType[kind]
    for name in ("honest", "edited"):
        (tmp_path / name).mkdir()
    name = "blk.0.ffn_gate.weight"
    layer = "model.layers.0.mlp.gate_proj"
    blocks = write_tiny_gguf(tmp_path / "honest" / "model.gguf", kind)
    weights = gguf.dequantize(blocks[name], gguf_type)
    honest = opened(tmp_path / "honest")
    original = with_module(honest, copy.deepcopy(honest.module))
    assert named(original, honest) == set()
    edited = -weights
    edited[ROW, ::32] = FACTOR * np.abs(weights[ROW]).max()  # the scale of every block
    changed = blocks[name].copy()
    changed[ROW] = gguf.quantize(edited[ROW : ROW + 1], gguf_type)[0]
    write_tiny_gguf(tmp_path / "edited" / "model.gguf", kind, replaced={name: changed})
    other = opened(tmp_path / "edited")
    module = copy.deepcopy(other.module)
    weight: Any = module.get_submodule(layer).weight
    with torch.no_grad():  # the huge weights themselves are put back
        weight[ROW, ::32] = torch.from_numpy(weights[ROW, ::32])
    grids = rounded_matrices(other)
    assert float(grids[layer].above[ROW].max()) > float(np.abs(weights[ROW]).max()) / 8
    found = compare(original.module, module, grids, LIMITS)
    assert [(row.layer, row.row) for row in found.rows] == [(layer, ROW)]


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_a_wide_scale_of_a_k_type_hides_no_edit(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("gguf")
    write_tiny_gguf(tmp_path / "model.gguf", kind)
    honest = opened(tmp_path)
    layer = "model.layers.0.mlp.gate_proj"
    grids = rounded_matrices(honest)
    grid = grids[layer]
    wide = torch.ones(len(grid.above), 1)
    wide[ROW] = FACTOR
    grids[layer] = RoundedMatrix(
        grid.below * wide, grid.above * wide, grid.reach * wide, grid.groups, grid.rounding
    )
    module = copy.deepcopy(honest.module)
    weight: Any = module.get_submodule(layer).weight
    with torch.no_grad():
        noise = torch.rand(weight.shape[1], generator=torch.Generator().manual_seed(0)) - 0.5
        weight[ROW] += noise * 2 * grids[layer].above[ROW]
    found = compare(honest.module, module, grids, LIMITS)
    assert [(row.layer, row.row) for row in found.rows] == [(layer, ROW)]


STEPS = {"Q8_0": 254, "Q4_0": 15, "Q5_0": 31, "Q6_K": 63, "Q3_K": 7, "Q2_K": 3}


@pytest.mark.parametrize(("kind", "values"), STEPS.items())
def test_gguf_grids_reach_over_all_codes(tmp_path: Path, kind: str, values: int) -> None:
    pytest.importorskip("gguf")
    write_tiny_gguf(tmp_path / "model.gguf", kind)
    for grid in rounded_matrices(opened(tmp_path)).values():
        steps = (grid.reach / (2 * grid.above))[grid.above > 0]
        assert float((steps - values).abs().max()) < 0.01 * values


def opened(directory: Path) -> LoadedModel:
    model = load(make_arm(directory, files=staged(directory, entry="model.gguf"), device="cpu"))
    assert isinstance(model, TransformersModel)
    return model
