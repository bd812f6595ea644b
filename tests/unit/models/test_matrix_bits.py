"""Bits of each matrix: memory, files and values, and the lowest of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pytest_compsec.compression import round_to_nearest
from pytest_compsec.compression.grid import quantize_dequantize
from pytest_compsec.errors import LoadError
from pytest_compsec.models.arm import Runtime
from pytest_compsec.models.held_values import held_values
from pytest_compsec.models.loaded import LoadedModel, TransformersModel
from pytest_compsec.models.loading import load
from pytest_compsec.models.matrix_bits import BitsFound, _stored, bits_of_matrices
from pytest_compsec.models.weights import measure_weights
from tests.unit.models.quantized_files import save_block_fp8
from tests.unit.models.tiny_gguf import random_blocks, write_tiny_gguf
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint, staged

DATA = Path(__file__).parents[2] / "data"
LAYER = "model.layers.1.mlp.up_proj"


def random_rows(rows: int = 64, columns: int = 512, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("group_size", [None, 128, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_grid_shows_in_whatever_it_is_stored(
    bits: int, group_size: int | None, dtype: torch.dtype
) -> None:
    rows = quantize_dequantize(random_rows(), bits=bits, group_size=group_size).to(dtype)
    found = held_values(rows)
    assert found is not None
    assert found.bits == bits
    assert held_values(rows, below=bits) is None, "nothing that was not known"


def test_ternary_and_binary_matrices() -> None:
    for levels, bits in (("ternary", 2), ("binary", 1)):
        found = held_values(quantize_dequantize(random_rows(), levels=levels))
        assert found is not None
        assert found.bits == bits


@pytest.mark.parametrize(
    "rows",
    [
        random_rows(),
        random_rows().to(torch.bfloat16),
        random_rows(512, 16),
        quantize_dequantize(random_rows(64, 4096), bits=8),
        random_rows() * (random_rows(seed=1).abs() > 1.6),
        torch.where(torch.arange(512) // 16 % 3 != 0, random_rows()[:, :1], random_rows()),
        torch.zeros(64, 512),
        torch.zeros(0, 512),
    ],
    ids=[
        *("float32", "bfloat16", "narrow", "int8", "nine in ten pruned", "most of it constant"),
        *("all zero", "empty"),
    ],
)
def test_full_precision_eight_bits_and_pruning_are_no_coarse_grid(rows: torch.Tensor) -> None:
    assert held_values(rows) is None


@pytest.mark.parametrize("outlier", [25.0, 40.0])
def test_honest_eight_bits_with_an_outlier_in_every_row_are_eight_bits(outlier: float) -> None:
    """The codes of such a row are few; that is what outliers do, and no 4-bit grid."""
    rows = random_rows(64, 4096)
    rows[:, 0] = outlier
    assert held_values(quantize_dequantize(rows, bits=8)) is None


@pytest.mark.parametrize("group_size", [None, 128, 64])
def test_one_row_of_full_precision_does_not_hide_four_bits(group_size: int | None) -> None:
    rows = quantize_dequantize(random_rows(), bits=4, group_size=group_size)
    rows[7] = random_rows(seed=1)[7]
    found = held_values(rows.to(torch.bfloat16))
    assert found is not None
    assert found.bits == 4
    assert "of 98." in found.text
    assert held_values(rows.to(torch.bfloat16), below=4) is None


def test_what_is_seen_beside_exceptions_ends_where_the_docs_say() -> None:
    """4 bits in fewer than 95 % of the rows, or in groups of 32 beside any exception."""
    rows = quantize_dequantize(random_rows(640), bits=4)
    rows[::10] = random_rows(640)[::10]
    assert held_values(rows) is None
    rows = quantize_dequantize(random_rows(), bits=4, group_size=32)
    assert held_values(rows) is not None
    rows[0] = random_rows(seed=1)[0]
    assert held_values(rows) is None


@pytest.mark.parametrize("group_size", [None, 128, 32])
def test_rows_on_a_finer_grid_do_not_hide_two_bits(group_size: int | None) -> None:
    rows = quantize_dequantize(random_rows(), bits=2, group_size=group_size)
    rows[::20] = quantize_dequantize(random_rows(seed=1), bits=4, group_size=group_size)[::20]
    found = held_values(rows.to(torch.bfloat16))
    assert found is not None
    assert found.bits == 2


def test_exceptions_cannot_be_put_where_rows_are_sampled() -> None:
    """Planted: the rows that an even sample of the matrix would consist of."""
    rows = quantize_dequantize(random_rows(1024, 256), bits=4)
    rows[::32] = random_rows(1024, 256, seed=1)[::32]
    found = held_values(rows)
    assert found is not None
    assert found.bits == 4


@pytest.mark.parametrize("columns", [256, 512, 4096])
@pytest.mark.parametrize("outlier", [25.0, 40.0])
def test_few_codes_of_a_row_with_an_outlier_are_no_grid_of_its_parts(
    columns: int, outlier: float
) -> None:
    """Honest 8 bits, the rows of full precision among them included."""
    rows = random_rows(64, columns)
    rows[:, 0] = outlier
    rows = quantize_dequantize(rows, bits=8)
    rows[0] = random_rows(64, columns, seed=1)[0]
    for dtype in (torch.float32, torch.bfloat16):
        assert held_values(rows.to(dtype)) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_with_heavy_tails_are_on_no_grid(dtype: torch.dtype) -> None:
    """As training leaves them: small, and some far larger than the others."""
    trained = 0.02 * random_rows() / (random_rows(seed=1).abs() + 0.1)
    assert held_values(trained.to(dtype)) is None


@pytest.mark.parametrize(("bits", "group_size"), [(4, None), (4, 128), (4, 32), (3, 64)])
def test_codes_that_outliers_leave_unused_make_no_coarser_grid(
    bits: int, group_size: int | None
) -> None:
    """Heavy tails in a grid that was found whole: its bits stay what they are."""
    trained = random_rows() / (random_rows(seed=1).abs() + 0.3)
    found = held_values(quantize_dequantize(trained, bits=bits, group_size=group_size))
    assert found is not None
    assert found.bits == bits


def test_a_third_of_the_rows_off_the_grid_take_the_matrix_off_it() -> None:
    rows = quantize_dequantize(random_rows(640), bits=2)
    assert held_values(rows) is not None
    rows[::3] = random_rows(640)[::3]
    assert held_values(rows) is None


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("bits") / "original", tied=False)


@pytest.fixture(scope="module")
def coarse(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with one matrix rounded to 2 bits and saved in float32."""
    directory = tmp_path_factory.mktemp("bits") / "coarse"
    shutil.copytree(checkpoint, directory)
    from safetensors.torch import load_file, save_file

    tensors = load_file(directory / "model.safetensors")
    name = f"{LAYER}.weight"
    tensors[name] = quantize_dequantize(tensors[name], bits=2)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return directory


def bits_by_name(found: BitsFound) -> dict[str, float]:
    return {matrix.name: matrix.bits for matrix in found.matrices}


def loaded(directory: Path, **fields: Any) -> LoadedModel:
    return load(make_arm(directory, device="cpu", **fields))


def test_plain_weights_have_the_bits_of_their_type(checkpoint: Path) -> None:
    found = bits_of_matrices(loaded(checkpoint, dtype="bfloat16"))
    assert set(bits_by_name(found).values()) == {16.0}
    assert len(found.matrices) == 16
    assert found.unmeasured == ()
    assert found.lowest is not None
    assert found.lowest.how == "bfloat16"


@pytest.mark.parametrize(
    ("recipe", "bits"),
    [
        ({"method": "round-to-nearest", "bits": 8}, 8),
        ({"method": "round-to-nearest", "bits": 3}, 3),
        ({"method": "round-to-nearest", "levels": "ternary"}, 2),
        ({"method": "bitsandbytes", "bits": 8}, 8),
        ({"method": "bitsandbytes", "bits": 4, "type": "nf4"}, 4),
    ],
)
def test_recipes_have_the_bits_of_their_codes(
    checkpoint: Path, recipe: dict[str, Any], bits: float
) -> None:
    found = bits_of_matrices(loaded(checkpoint, recipe=make_recipe("quantize", **recipe)))
    by_name = bits_by_name(found)
    assert by_name[f"{LAYER}.weight"] == bits
    assert by_name["model.embed_tokens.weight"] == 32
    assert found.lowest is not None
    assert found.lowest.bits == bits
    assert found.unmeasured == ()


@pytest.mark.parametrize("type_", [{"bits": 8}, {"bits": 4, "type": "nf4"}])
def test_a_coarse_matrix_in_a_finer_container_is_coarse(
    coarse: Path, type_: dict[str, Any]
) -> None:
    recipe = make_recipe("quantize", method="bitsandbytes", **type_)
    found = bits_of_matrices(loaded(coarse, recipe=recipe))
    assert bits_by_name(found)[f"{LAYER}.weight"] == 2
    assert [matrix.name for matrix in found.below(4)] == [f"{LAYER}.weight"]
    assert found.lowest is not None
    assert "different values in any" in found.lowest.how


def test_a_grid_whose_mark_was_lost_is_found(coarse: Path) -> None:
    found = bits_of_matrices(loaded(coarse))
    assert bits_by_name(found)[f"{LAYER}.weight"] == 2
    assert sorted(set(bits_by_name(found).values())) == [2, 32]


@pytest.mark.parametrize(("name", "bits"), [("gptq4-g32-act", 4), ("awq4-g32", 4)])
def test_packed_checkpoints_that_are_unpacked(name: str, bits: float) -> None:
    found = bits_of_matrices(loaded(DATA / name, variant="packed"))
    by_name = bits_by_name(found)
    assert found.lowest is not None
    assert found.lowest.bits == bits
    assert f"{name[:-4].split('4')[0]} of 4 bits in model.safetensors" in found.lowest.how
    assert by_name["model.embed_tokens.weight"] >= 16
    assert len(by_name) == len(found.matrices)


@pytest.mark.parametrize(("kind", "bits"), [("Q8_0", 8), ("Q6_K", 6), ("Q4_1", 4), ("Q2_K", 2)])
def test_gguf_files_have_the_bits_of_their_blocks(kind: str, bits: float, tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf", kind)
    files = staged(tmp_path, entry="tiny.gguf")
    found = bits_of_matrices(loaded(tmp_path, variant="q", files=files))
    assert found.lowest is not None
    assert found.lowest.bits == bits
    assert kind in found.lowest.how


def test_a_gguf_matrix_that_holds_three_values_in_blocks_of_eight_bits(tmp_path: Path) -> None:
    import gguf

    shape = (512, 256)
    values = np.random.default_rng(0).integers(-1, 2, shape).astype(np.float32)
    few = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    assert few.shape == random_blocks("Q8_0", shape, np.random.default_rng(0)).shape
    write_tiny_gguf(tmp_path / "tiny.gguf", replaced={"blk.0.ffn_up.weight": few})
    files = staged(tmp_path, entry="tiny.gguf")
    found = bits_of_matrices(loaded(tmp_path, variant="q", files=files))
    assert found.lowest is not None
    assert found.lowest.bits == 2
    assert "mlp.up_proj" in found.lowest.name


def test_another_runtime_shows_its_file_alone(checkpoint: Path) -> None:
    class Model:
        arm = make_arm(checkpoint, variant="q", runtime=Runtime("llama-cpp", {}))
        weights = loaded(checkpoint).weights

        @property
        def module(self) -> None:
            raise AssertionError("there is none")

    model: Any = Model()
    assert set(bits_by_name(bits_of_matrices(model)).values()) == {32.0}


def edited(checkpoint: Path, edit: Callable[[Any], None]) -> LoadedModel:
    model = loaded(checkpoint)
    module: Any = model.module
    edit(module)
    return TransformersModel(
        model.arm, module, model.tokenizer, "cpu", "float32", measure_weights(module)
    )


class Hidden(torch.nn.Module):
    """A linear layer that keeps its codes in a buffer, as those of gptqmodel do."""

    in_features, out_features = 64, 128

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("qweight", torch.zeros(128, 8, dtype=torch.int32))


def test_a_layer_that_hides_its_weights_is_said_to(checkpoint: Path) -> None:
    def hide(module: Any) -> None:
        module.set_submodule(LAYER, Hidden())

    found = bits_of_matrices(edited(checkpoint, hide))
    assert found.unmeasured == (f"{LAYER} keeps its weights where they are not seen",)
    assert len(found.matrices) == 15


def test_a_model_without_matrices_is_not_measured(checkpoint: Path) -> None:
    module = torch.nn.Sequential(torch.nn.LayerNorm(4))
    model = TransformersModel(
        make_arm(checkpoint), module, None, "cpu", "float32", measure_weights(module)
    )
    found = bits_of_matrices(model)
    assert found.lowest is None
    assert found.unmeasured == ("it shows no weight matrix",)


def test_kept_layers_have_the_bits_that_they_keep(checkpoint: Path) -> None:
    def round_all_but_one(module: Any) -> None:
        kept = module.get_submodule(LAYER).weight.data.clone()
        round_to_nearest.apply(module, {"bits": 4, "symmetric": True}, "cpu")
        module.get_submodule(LAYER).weight.data.copy_(kept)

    by_name = bits_by_name(bits_of_matrices(edited(checkpoint, round_all_but_one)))
    assert by_name[f"{LAYER}.weight"] == 32
    assert by_name["model.layers.0.mlp.up_proj.weight"] == 4


def test_a_broken_gguf_file_is_a_clear_error(tmp_path: Path, checkpoint: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    files = staged(tmp_path, entry="tiny.gguf")
    model = loaded(tmp_path, variant="q", files=files)
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    with pytest.raises(LoadError, match="truncated or corrupted"):
        bits_of_matrices(model)


def test_eight_bit_floats_in_blocks(checkpoint: Path, tmp_path: Path) -> None:
    save_block_fp8(checkpoint, tmp_path, 32)
    found = bits_of_matrices(loaded(tmp_path, variant="fp8"))
    assert bits_by_name(found)[f"{LAYER}.weight"] == 8
    assert bits_by_name(found)["model.embed_tokens.weight"] >= 16


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_that_share_words_are_counted_from_the_files(bits: int, tmp_path: Path) -> None:
    """A layer as compressed-tensors packs it, with words that are not full at the end of a row."""
    from safetensors.torch import save_file

    inputs = 100
    words = -(-inputs * bits // 32)
    tensors = {
        "model.up.weight_packed": torch.zeros(8, words, dtype=torch.int32),
        "model.up.weight_scale": torch.ones(8, 1),
        "model.up.weight_shape": torch.tensor([8, inputs]),
        "model.norm.weight": torch.ones(inputs),
    }
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    config = {"quantization_config": {"quant_method": "compressed-tensors"}}
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    (found,) = _stored(staged(tmp_path))
    assert (found.name, found.bits) == ("model.up.weight", bits)
    assert f"codes of {bits} bits in model.safetensors" in found.how
