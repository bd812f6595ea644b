"""One packed layer of known integers becomes scale * (code - zero), computed number by number."""

from __future__ import annotations

import pytest
import torch

from pytest_compsec.models.packed import awq, gptq
from tests.unit.models.packed.packers import known_layer, pack_columns, random_codes

GROUPS = [(32, False), (32, True), (-1, False), (16, True), (48, False)]


@pytest.mark.parametrize(("group_size", "shuffled"), GROUPS)
@pytest.mark.parametrize("less_one", [True, False], ids=["v1", "v2"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_gptq_layer(bits: int, less_one: bool, group_size: int, shuffled: bool) -> None:
    layer = known_layer(
        bits, 64, 32, bits=bits, group_size=group_size, less_one=less_one, shuffled=shuffled
    )
    parts = layer.parts
    zeros = gptq.zero_points(parts["qzeros"], bits, less_one=less_one)
    assert zeros is not None
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        weight = gptq.dense_weight(
            parts["qweight"], zeros, parts["scales"], parts["g_idx"], bits=bits, dtype=dtype
        )
        assert weight.dtype == dtype
        assert weight.is_contiguous()
        # A product of a scale in that type and a small integer, rounded once.
        scales = parts["scales"].to(dtype).double()
        rounded = layer.weight / parts["scales"].double()[parts["g_idx"].long()].T
        exact = rounded.round() * scales[parts["g_idx"].long()].T
        assert torch.equal(weight, exact.to(dtype))
    assert torch.equal(
        gptq.dense_weight(
            parts["qweight"], zeros, parts["scales"], parts["g_idx"], bits=bits, dtype=torch.float64
        ),
        layer.weight,
    )


@pytest.mark.parametrize("group_size", [32, -1, 64])
@pytest.mark.parametrize("seed", range(3))
def test_an_awq_layer(seed: int, group_size: int) -> None:
    layer = known_layer(seed, 64, 40, bits=4, group_size=group_size, method="awq")
    weight = awq.dense_weight(
        layer.parts["qweight"],
        layer.parts["qzeros"],
        layer.parts["scales"],
        group_size=64 if group_size == -1 else group_size,
        dtype=torch.float64,
    )
    assert torch.equal(weight, layer.weight)


def borrowed(zeros: list[list[int]], bits: int) -> torch.Tensor:
    """Version 1 as GPTQModel writes it: the packed word less one in each place, modulo 2**32."""
    ones = sum(1 << shift for shift in range(0, 32, bits))
    words = pack_columns(zeros, bits).long() - ones
    return ((words + 2**31) % 2**32 - 2**31).int()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zero_points_of_zero_come_back_from_the_tool_that_borrows(bits: int, seed: int) -> None:
    zeros = random_codes(seed, 3, 32, bits)
    zeros[0][0] = zeros[1][-1] = zeros[2][3] = zeros[2][4] = 0
    found = gptq.zero_points(borrowed(zeros, bits), bits, less_one=True, borrows=True)
    assert found is not None
    assert torch.equal(found.long(), torch.tensor(zeros))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_zero_points_that_version_1_cannot_hold_are_not_guessed(bits: int) -> None:
    codes = [[0] * 31 + [2**bits - 1]]
    assert gptq.zero_points(pack_columns(codes, bits), bits, less_one=True) is None
    as_they_are = gptq.zero_points(pack_columns(codes, bits), bits, less_one=False)
    assert as_they_are is not None
    assert as_they_are.tolist() == codes


def test_three_bits_of_all_ones_are_not_guessed_even_from_the_tool_that_borrows() -> None:
    # Its versions differ in how they borrow where a code crosses a word.
    words = pack_columns([[7] + [0] * 31], 3)
    assert gptq.zero_points(words, 3, less_one=True, borrows=True) is None
