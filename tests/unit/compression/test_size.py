"""Sizes as counted by hand: floats, ties, real quantized storage, simulated grids when packed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from pytest_compsec.compression.round_to_nearest import apply
from pytest_compsec.compression.size import ModelSize, model_bytes
from pytest_compsec.models.weights import WeightMatrix, WeightReport, measure_weights


class Small(nn.Module):
    """Embedding 10 x 64, linear 32 x 64 with a bias, norm of 32, head 10 x 64 or tied."""

    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 64)
        self.linear = nn.Linear(64, 32)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(64, 10, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def get_output_embeddings(self) -> nn.Module:
        return self.head


LINEAR, MATRIX, VECTORS = 32 * 64, 10 * 64, 3 * 32


def size_of(module: nn.Module) -> ModelSize:
    return model_bytes(measure_weights(module), module)


@pytest.mark.parametrize(
    ("dtype", "width"), [(torch.float32, 4), (torch.bfloat16, 2), (torch.float64, 8)]
)
def test_floats_take_what_their_type_takes(dtype: torch.dtype, width: int) -> None:
    size = size_of(Small().to(dtype))
    count = LINEAR + 2 * MATRIX + VECTORS
    assert size == ModelSize(count, width * count, width * count)
    assert size.bytes_per_parameter == size.packed_bytes_per_parameter == width


def test_what_is_tied_counts_once() -> None:
    count = LINEAR + MATRIX + VECTORS
    assert size_of(Small(tied=True)) == ModelSize(count, 4 * count, 4 * count)


def test_stored_buffers_count_as_bytes_and_computed_ones_do_not() -> None:
    module = nn.BatchNorm1d(8)
    module.register_buffer("table", torch.zeros(1000), persistent=False)
    # Weight and bias; running mean and variance; the number of batches as int64.
    assert size_of(module) == ModelSize(16, 16 * 4 + 16 * 4 + 8, 16 * 4 + 16 * 4 + 8)


def test_a_model_without_parameters_has_no_bytes_per_parameter() -> None:
    assert math.isnan(size_of(nn.ReLU()).bytes_per_parameter)


@pytest.mark.parametrize(
    ("options", "linear_bytes"),
    [
        # 2,048 codes; a float16 scale for each of 32 rows, or of 128 groups of 16.
        ({"bits": 8}, 2048 + 32 * 2),
        ({"bits": 4}, 1024 + 32 * 2),
        ({"bits": 3}, 768 + 32 * 2),
        ({"bits": 2, "group_size": 16}, 512 + 128 * 2),
        # And zero points of 4 and of 3 bits.
        ({"bits": 4, "symmetric": False}, 1024 + 32 * 2 + 16),
        ({"bits": 3, "symmetric": False, "group_size": 16}, 768 + 128 * 2 + 48),
        ({"levels": "ternary"}, 512 + 32 * 2),
        ({"levels": "binary"}, 256 + 32 * 2),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_a_simulated_grid_counts_packed_and_the_rest_as_it_is(
    options: dict[str, Any], linear_bytes: int
) -> None:
    module = Small()
    before = size_of(module)
    size = size_of(apply(module, options, "cpu"))
    assert (size.parameters, size.bytes_in_memory) == (before.parameters, before.bytes_in_memory)
    assert size.bytes_when_packed == linear_bytes + 4 * (2 * MATRIX + VECTORS)


def test_a_matrix_that_left_its_grid_is_not_counted_packed() -> None:
    module = apply(Small(), {"bits": 4}, "cpu")
    weight: Any = module.get_submodule("linear").weight
    weight.data[0, 0] += 0.001
    size = size_of(module)
    assert size.bytes_when_packed == size.bytes_in_memory


def test_codes_in_bytes_of_their_own_count_packed_and_packed_ones_as_they_are() -> None:
    module = nn.Linear(64, 32, bias=False).to(torch.bfloat16)
    base: dict[str, Any] = {"name": "weight", "role": "linear", "shape": (32, 64), "zeros": 0.0}

    def packed(**values: Any) -> int:
        matrix = WeightMatrix(**base, storage="x", overhead_bits=0.0, **values)
        size = model_bytes(WeightReport((matrix,)), module)
        return size.bytes_in_memory - size.bytes_when_packed

    assert packed(bits=16.0, levels=16) == 2048 * 2 - 1024
    assert packed(bits=8.0, levels=8) == 2048 - 768
    # 3-bit codes, ten in 32 bits: that is their format.
    assert packed(bits=3.2, levels=8) == 0
    assert packed(bits=16.0, levels=None) == 0


@pytest.mark.parametrize("forward", [False, True])
def test_eight_bits_of_bitsandbytes_are_codes_and_row_scales(forward: bool) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    layer = bnb.nn.Linear8bitLt(64, 32, has_fp16_weights=False)
    layer.weight = bnb.nn.Int8Params(
        torch.randn(32, 64), requires_grad=False, has_fp16_weights=False
    ).to("cpu")
    module = nn.Sequential(layer)
    if forward:
        module(torch.randn(2, 64))
    codes, scales, bias = 2048, 32 * 4, 32 * layer.bias.element_size()
    assert size_of(module) == ModelSize(2048 + 32, codes + scales + bias, codes + scales + bias)


@pytest.mark.parametrize("double", [False, True])
def test_four_bits_of_bitsandbytes_are_codes_scales_and_tables(double: bool) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    layer = bnb.nn.Linear4bit(64, 64, bias=False, compress_statistics=double)
    layer.weight = bnb.nn.Params4bit(
        torch.randn(64, 64), requires_grad=False, quant_type="nf4", compress_statistics=double
    ).to("cpu")
    # 64 blocks of 64. A table of 16 float32; with double quantization the scales are bytes, with
    # one float32 scale for 256 of them, a table of 256 float32, and the mean.
    scales = 64 * 4 if not double else 64 + 4 + 256 * 4 + 4
    expected = 2048 + 16 * 4 + scales
    assert size_of(nn.Sequential(layer)) == ModelSize(4096, expected, expected)


class HQQLinear(nn.Module):
    """Holds what the layer of that name in hqq holds, where it holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.W_q = nn.Parameter(torch.zeros(16, 64, dtype=torch.uint8), requires_grad=False)
        self.meta = {"scale": torch.ones(64, 1), "zero": torch.ones(64, 1), "shape": (32, 64)}
        self.bias = torch.zeros(32, dtype=torch.float16)


def test_codes_scales_and_biases_of_hqq_count_wherever_they_are_kept() -> None:
    matrix = WeightMatrix("0.weight", "linear", (32, 64), "hqq uint8", 4.0, 2.0, 0.0, levels=16)
    expected = 1024 + 2 * 64 * 4 + 32 * 2
    found = model_bytes(WeightReport((matrix,)), nn.Sequential(HQQLinear()))
    assert found == ModelSize(2048 + 32, expected, expected)
