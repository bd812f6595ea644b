"""Honest quantizations pass, and an edit in one row is named."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_compsec.derivation.compare import Comparison, compare
from pytest_compsec.derivation.grids import rounded_matrices
from pytest_compsec.derivation.limits import LIMITS, OUTPUT_LIMIT
from pytest_compsec.derivation.outputs import output_scores
from pytest_compsec.errors import MeasurementError
from pytest_compsec.localization.weight_error import LayersDifferError
from pytest_compsec.models.loaded import LoadedModel, TransformersModel
from pytest_compsec.models.loading import load
from tests.unit.models.tiny_gguf import BITS, write_tiny_gguf
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint, staged

LAYER = "model.layers.1.mlp.up_proj"
ROW = 17
METHODS: dict[str, dict[str, Any]] = {
    "int8": {"bits": 8},
    "nf4": {"bits": 4, "type": "nf4"},
    "fp4": {"bits": 4, "type": "fp4"},
    "nested": {"bits": 4, "type": "nf4", "double_quant": True},
}
DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(make_arm(make_tiny_checkpoint(tmp_path_factory.mktemp("dense")), device="cpu"))


def quantized(dense: LoadedModel, method: str, edit: Any = None) -> LoadedModel:
    """What someone else publishes: the original, edited or not, quantized by bitsandbytes."""
    pytest.importorskip("bitsandbytes")
    from pytest_compsec.compression.bitsandbytes import apply

    module = copy.deepcopy(dense.module)
    if edit is not None:
        with torch.no_grad():
            edit(module)
    values = METHODS[method]
    options = make_recipe("quantize", method="bitsandbytes", **values).options
    return with_module(dense, apply(module, options, "cpu"))


def with_module(model: LoadedModel, module: torch.nn.Module) -> LoadedModel:
    assert isinstance(model, TransformersModel)
    return dataclasses.replace(model, module=module)


def compared(dense: LoadedModel, other: LoadedModel) -> Comparison:
    return compare(dense.module, other.module, rounded_matrices(other), LIMITS)


@pytest.mark.parametrize("method", METHODS)
def test_an_honest_quantization_passes(dense: LoadedModel, method: str) -> None:
    found = compared(dense, quantized(dense, method))
    assert found.rows == ()
    assert found.others == ()
    quantized_layers = [layer for layer in found.layers if not layer.exact]
    assert len(quantized_layers) == 14
    assert all(layer.worst_mean > 0.3 for layer in quantized_layers)  # it did round


@pytest.mark.parametrize("method", METHODS)
def test_an_edit_in_one_row_is_named(dense: LoadedModel, method: str) -> None:
    def edit(module: torch.nn.Module) -> None:
        weight: Any = module.get_submodule(LAYER).weight
        generator = torch.Generator().manual_seed(0)
        change = torch.randn(weight.shape[1], generator=generator)
        weight[ROW] += 0.5 * change * weight[ROW].norm() / change.norm()

    found = compared(dense, quantized(dense, method, edit))
    assert [(row.layer, row.row) for row in found.rows] == [(LAYER, ROW)]
    assert f"{LAYER} row {ROW}" in str(found.rows[0])


@pytest.mark.parametrize("method", ["int8", "nf4", "fp4"])
def test_one_edited_weight_is_enough(dense: LoadedModel, method: str) -> None:
    def edit(module: torch.nn.Module) -> None:
        weight: Any = module.get_submodule(LAYER).weight
        weight[ROW, 3] = -weight[ROW].abs().max()

    found = compared(dense, quantized(dense, method, edit))
    assert [(row.layer, row.row) for row in found.rows] == [(LAYER, ROW)]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("model.embed_tokens", "row"), ("model.layers.0.input_layernorm", "other")],
)
def test_an_edit_outside_of_the_quantized_layers_is_named(
    dense: LoadedModel, name: str, shown: str
) -> None:
    def edit(module: torch.nn.Module) -> None:
        weight: Any = module.get_submodule(name).weight
        weight[5] *= 1.5

    found = compared(dense, quantized(dense, "nf4", edit))
    if shown == "row":
        assert [(row.layer, row.row) for row in found.rows] == [(name, 5)]
    else:
        assert found.others == (f"{name}.weight",)


def test_a_layer_left_dense_must_be_the_originals(dense: LoadedModel) -> None:
    other = quantized(dense, "nf4")
    layer = copy.deepcopy(dense.module.get_submodule(LAYER))
    other.module.set_submodule(LAYER, layer)
    assert compared(dense, other).rows == ()
    other.module.set_submodule(LAYER, layer.to(torch.bfloat16))
    assert compared(dense, other).rows == ()  # a cast is no edit
    weight: Any = layer.weight
    with torch.no_grad():
        weight[ROW, 0] += 0.05
    found = compared(dense, other)
    assert [(row.layer, row.row) for row in found.rows] == [(LAYER, ROW)]


def test_weights_that_are_not_numbers_are_beyond_every_limit(dense: LoadedModel) -> None:
    other = quantized(dense, "int8")
    layer: Any = other.module.get_submodule(LAYER)
    layer.weight.SCB[ROW] = float("nan")
    found = compared(dense, other)
    assert [(row.layer, row.row) for row in found.rows] == [(LAYER, ROW)]


def test_another_model_is_not_derived_from_it(
    dense: LoadedModel, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = make_tiny_checkpoint(tmp_path_factory.mktemp("other"), seed=1)
    other = quantized(load(make_arm(path, device="cpu")), "int8")
    found = compared(dense, other)
    assert len(found.rows) > 0.9 * found.compared_rows


def test_other_layers_cannot_be_compared(dense: LoadedModel) -> None:
    other = quantized(dense, "nf4")
    blocks: Any = other.module.get_submodule("model.layers")
    del blocks[1]
    with pytest.raises(LayersDifferError):
        compared(dense, other)


@pytest.fixture(scope="module")
def gptq_pair() -> tuple[LoadedModel, LoadedModel]:
    """A checkpoint made by GPTQModel, and an original that rounding could have brought there."""
    path = DATA / "gptq4-g32-act"
    compressed = load(make_arm(path, dtype="float32", device="cpu"))
    original = copy.deepcopy(compressed.module)
    generator = torch.Generator().manual_seed(0)
    for name, grid in rounded_matrices(compressed).items():
        weight: Any = original.get_submodule(name).weight
        weight.data += (2 * torch.rand(weight.shape, generator=generator) - 1) * grid.above
    return with_module(compressed, original), compressed


def test_the_scales_of_a_gptq_checkpoint_are_its_steps(
    gptq_pair: tuple[LoadedModel, LoadedModel],
) -> None:
    original, compressed = gptq_pair
    found = compared(original, compressed)
    assert found.rows == ()
    scores = [layer.worst_mean for layer in found.layers if not layer.exact]
    assert len(scores) == 14
    assert all(1.0 < score < 1.3 for score in scores)  # evenly spread errors score 1


def test_a_far_row_of_a_gptq_checkpoint_shows_in_what_it_puts_out(
    gptq_pair: tuple[LoadedModel, LoadedModel],
) -> None:
    """Far and edited, or far where inputs never go, as GPTQ itself may leave a row."""
    original, compressed = gptq_pair
    grids = rounded_matrices(compressed)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 512, (4, 48), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    seen: list[torch.Tensor] = []
    layer: Any = original.module.get_submodule(LAYER)
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        original.module(**batch)
    hook.remove()
    # Of 192 positions in 128 dimensions: the direction that inputs take least.
    _, _, directions = torch.linalg.svd(seen[0].reshape(-1, layer.in_features).float())
    module = copy.deepcopy(compressed.module)
    weight: Any = module.get_submodule(LAYER).weight
    with torch.no_grad():
        weight[ROW] += 0.4 * directions[-1] * weight[ROW].norm()
        weight[ROW + 1] += 0.4 * directions[0] * weight[ROW + 1].norm()
    found = compared(original, with_module(compressed, module))
    assert {(row.layer, row.row) for row in found.rows} == {(LAYER, ROW), (LAYER, ROW + 1)}
    scores = output_scores(
        original.module,
        module,
        {LAYER: [ROW, ROW + 1]},
        grids,
        iter([batch]),
    )
    assert scores[LAYER, ROW + 1] > 2 * OUTPUT_LIMIT
    assert scores[LAYER, ROW + 1] > 3 * scores[LAYER, ROW]
    assert not layer._forward_pre_hooks


def test_a_format_whose_rounding_is_not_known_says_so() -> None:
    path = DATA / "awq4-g32"
    model = load(make_arm(path, dtype="float16", device="cpu"))
    with pytest.raises(MeasurementError, match="awq"):
        rounded_matrices(model)


@pytest.mark.parametrize("kind", BITS)
def test_gguf_blocks_show_their_steps(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("gguf")
    write_tiny_gguf(tmp_path / "model.gguf", kind)
    compressed = load(
        make_arm(tmp_path, files=staged(tmp_path, entry="model.gguf"), device="cpu")
    )  # fmt: skip
    grids = rounded_matrices(compressed)
    assert len(grids) == 7
    original = copy.deepcopy(compressed.module)
    generator = torch.Generator().manual_seed(0)
    for name, grid in grids.items():
        weight: Any = original.get_submodule(name).weight
        # Within 16 neighbouring inputs every type has one scale and one offset.
        groups = weight.data.reshape(len(weight), -1, 16)
        steps = 2 * grid.above.reshape(groups.shape)
        differences, steps = groups.diff(dim=2), steps[:, :, 1:]
        assert not differences[steps == 0].any()  # a scale of 0: all values are the same
        shares = differences[steps > 0] / steps[steps > 0]
        assert float((shares - shares.round()).abs().max()) < 0.02
        assert float(shares.abs().max()) > 1  # not one step for the whole range
        noise = 2 * torch.rand(weight.shape, generator=generator) - 1
        weight.data += noise * grid.above
    found = compare(original, compressed.module, grids, LIMITS)
    assert found.rows == ()
    name = "model.layers.0.self_attn.q_proj"
    edited: Any = original.get_submodule(name).weight
    with torch.no_grad():
        edited[ROW] *= -1
    found = compare(original, compressed.module, grids, LIMITS)
    assert [(row.layer, row.row) for row in found.rows] == [(name, ROW)]
