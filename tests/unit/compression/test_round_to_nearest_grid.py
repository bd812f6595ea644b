"""Round-to-nearest grids: values as computed by hand, what grids have in common, packed size."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pytest_compsec.compression.grid import find_grid, quantize_dequantize
from pytest_compsec.compression.round_to_nearest import expected
from tests.unit.compression.grids import (
    ASYMMETRIC,
    FLOATS,
    SYMMETRIC,
    label,
    normal,
    values_per_group,
)

# Grids computed by hand


@pytest.mark.parametrize(
    ("options", "row", "wanted"),
    [
        # absmax 7 over 7 steps: the integers. 2.5 lies between 2 and 3 and goes to the even one.
        ({"bits": 4}, [7.0, -6.6, 0.4, 2.5, 3.4], [7.0, -7.0, 0.0, 2.0, 3.0]),
        ({"bits": 8}, [127.0, -3.4, 0.6], [127.0, -3.0, 1.0]),
        # absmax 6 over 3 steps of 2.
        ({"bits": 3}, [-6.0, 2.9, 3.1, 0.9], [-6.0, 2.0, 4.0, 0.0]),
        # 2 bits: -4, 0 and 4 only.
        ({"bits": 2}, [4.0, 1.9, 2.1, -3.0], [4.0, 0.0, 4.0, -4.0]),
        # From -1 to 14 in 15 steps of 1, the zero point at code 1.
        ({"bits": 4, "symmetric": False}, [-1.0, 14.0, 0.4, 7.6], [-1.0, 14.0, 0.0, 8.0]),
        # All positive: the range still begins at zero. 0 to 6 in 3 steps of 2.
        ({"bits": 2, "symmetric": False}, [6.0, 3.1, 0.5], [6.0, 4.0, 0.0]),
        # The range -1.2 to 1.8, in 3 steps of 1: the zero point 1.2 becomes 1, so -1 to 2.
        ({"bits": 2, "symmetric": False}, [-1.2, 1.8, 0.4], [-1.0, 2.0, 0.0]),
        # Mean magnitude 2, threshold 1.4: 1.35 goes, though nearer to the scale than to zero; the
        # others are kept, and their mean 6.65 / 3 is the scale.
        (
            {"levels": "ternary"},
            [1.35, -1.45, 3.0, 2.2],
            [0.0, -6.65 / 3, 6.65 / 3, 6.65 / 3],
        ),
        ({"levels": "binary"}, [1.0, -2.0, 3.0, 0.0], [1.5, -1.5, 1.5, 1.5]),
    ],
    ids=["4", "8", "3", "2", "4 asymmetric", "positive", "zero point", "ternary", "binary"],
)
def test_the_grid_is_the_one_computed_by_hand(
    options: dict[str, Any], row: list[float], wanted: list[float]
) -> None:
    found = quantize_dequantize(torch.tensor([row]), **options)
    torch.testing.assert_close(found, torch.tensor([wanted]), rtol=1e-6, atol=0.0)


def test_each_output_channel_has_its_own_scale() -> None:
    weight = torch.tensor([[7.0, 3.4], [0.07, 0.034]])
    found = quantize_dequantize(weight, bits=4)
    torch.testing.assert_close(found, torch.tensor([[7.0, 3.0], [0.07, 0.03]]))


def test_groups_end_where_they_should_and_the_last_may_be_shorter() -> None:
    row = [7.0, 1.4, 70.0, 14.0, 0.7]
    found = quantize_dequantize(torch.tensor([row]), bits=4, group_size=2)
    torch.testing.assert_close(found, torch.tensor([[7.0, 1.0, 70.0, 10.0, 0.7]]))


@pytest.mark.parametrize("options", SYMMETRIC + ASYMMETRIC, ids=label)
def test_groups_do_not_see_each_other(options: dict[str, Any]) -> None:
    weight = normal(5, 22)
    whole = quantize_dequantize(weight, group_size=8, **options)
    parts = [
        quantize_dequantize(part, **options) for part in torch.tensor_split(weight, [8, 16], dim=1)
    ]
    assert torch.equal(whole, torch.cat(parts, dim=1))


@pytest.mark.parametrize("options", SYMMETRIC + ASYMMETRIC, ids=label)
def test_a_group_larger_than_the_row_is_the_row(options: dict[str, Any]) -> None:
    weight = normal(3, 10)
    wide = quantize_dequantize(weight, group_size=64, **options)
    assert torch.equal(wide, quantize_dequantize(weight, **options))


# Properties of all grids


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("group_size", [None, 24])
@pytest.mark.parametrize("options", SYMMETRIC, ids=label)
def test_a_second_rounding_changes_no_bit(
    options: dict[str, Any], group_size: int | None, dtype: torch.dtype
) -> None:
    for seed in range(10):
        weight = normal(16, 100, dtype=dtype, seed=seed) * 0.05
        once = quantize_dequantize(weight, group_size=group_size, **options)
        assert once.dtype == dtype
        assert not torch.equal(once, weight)
        again = quantize_dequantize(once, group_size=group_size, **options)
        assert torch.equal(again, once)


@pytest.mark.parametrize("options", ASYMMETRIC, ids=label)
def test_a_second_asymmetric_rounding_keeps_every_code(options: dict[str, Any]) -> None:
    for seed in range(10):
        once = quantize_dequantize(normal(16, 100, seed=seed), **options)
        again = quantize_dequantize(once, **options)
        step = (once.amax(1) - once.amin(1)) / (2 ** options["bits"] - 1)
        assert float(((again - once).abs() / step[:, None]).max()) < 1e-4


@pytest.mark.parametrize("options", SYMMETRIC[:4] + ASYMMETRIC, ids=label)
def test_no_weight_moves_by_more_than_half_a_step(options: dict[str, Any]) -> None:
    bits = options["bits"]
    for seed in range(20):
        weight = normal(16, 64, seed=seed) + (seed % 3) * 0.5
        found = quantize_dequantize(weight, **options)
        if options.get("symmetric", True):
            step = weight.abs().amax(1) / (2 ** (bits - 1) - 1)
        else:
            span = weight.amax(1).clamp(min=0) - weight.amin(1).clamp(max=0)
            step = span / (2**bits - 1)
        moved = ((found - weight).abs() / step[:, None]).max()
        assert 0.4 < float(moved) <= 0.5 + 1e-4


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("options", SYMMETRIC + ASYMMETRIC, ids=label)
def test_a_group_holds_no_more_values_than_promised(
    options: dict[str, Any], dtype: torch.dtype
) -> None:
    found = quantize_dequantize(normal(4, 2000, dtype=dtype), group_size=1000, **options)
    most = expected(options).max_levels
    assert most is not None
    assert most / 2 < values_per_group(found, 1000) <= most


@pytest.mark.parametrize("options", SYMMETRIC + ASYMMETRIC, ids=label)
def test_zeros_stay_zero_in_groups_of_zeros_and_beside_others(options: dict[str, Any]) -> None:
    weight = torch.zeros(2, 16)
    weight[1, 8:] = normal(8)
    found = quantize_dequantize(weight, group_size=8, **options)
    assert torch.equal(found[0], torch.zeros(16))
    assert torch.equal(found[1, :8], torch.zeros(8))
    assert bool(found.isfinite().all())
    if options.get("levels") != "binary":
        assert float(quantize_dequantize(weight, **options)[1, 0]) == 0.0


@pytest.mark.parametrize("options", SYMMETRIC + ASYMMETRIC, ids=label)
def test_a_row_of_one_element_is_its_own_scale(options: dict[str, Any]) -> None:
    weight = torch.tensor([[0.3], [-0.7], [0.0], [3e38], [-1e-42]])
    assert torch.equal(quantize_dequantize(weight, **options), weight)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_an_error(wrong: float) -> None:
    weight = normal(4, 8)
    weight[1, 2] = wrong
    with pytest.raises(ValueError, match="1 of 32 weights are NaN or infinite"):
        quantize_dequantize(weight, bits=4)


def test_a_range_beyond_float32_is_an_error_and_no_nan() -> None:
    with pytest.raises(ValueError, match="beyond float32"):
        quantize_dequantize(torch.tensor([[3e38, -3e38]]), bits=4, symmetric=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one"),
        ({"bits": 4, "levels": "binary"}, "exactly one"),
        ({"bits": 1}, "2 to 8, not 1"),
        ({"levels": "quaternary"}, "ternary or binary"),
        ({"levels": "binary", "symmetric": False}, "symmetric always"),
        ({"bits": 4, "group_size": 0}, "at least 1"),
    ],
)
def test_options_out_of_range_are_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize_dequantize(normal(2, 8), **options)


def test_what_is_no_float_matrix_is_an_error() -> None:
    with pytest.raises(ValueError, match="codes, not floats"):
        quantize_dequantize(torch.ones(2, 8, dtype=torch.int8), bits=4)
    with pytest.raises(ValueError, match=r"shape \(2, 2, 8\)"):
        quantize_dequantize(normal(2, 2, 8), bits=4)


# Packed size


@pytest.mark.parametrize(
    ("options", "bits_per_weight"),
    [
        # One float16 scale for 128 inputs: 16 / 128 = 0.125.
        ({"bits": 8}, 8.125),
        ({"bits": 4}, 4.125),
        ({"bits": 3}, 3.125),
        ({"bits": 2}, 2.125),
        ({"levels": "ternary"}, 2.125),
        ({"levels": "binary"}, 1.125),
        # And a zero point of 4 bits for every 32: (16 + 4) / 32 = 0.625.
        ({"bits": 4, "symmetric": False, "group_size": 32}, 4.625),
        ({"bits": 8, "symmetric": False}, 8.1875),
        # 128 inputs in groups of 96 and 32 have two scales, as in two groups of 64.
        ({"bits": 4, "group_size": 96}, 4.25),
        ({"bits": 4, "group_size": 64}, 4.25),
    ],
    ids=lambda value: label(value) if isinstance(value, dict) else None,
)
def test_packed_bits_are_codes_scales_and_zero_points(
    options: dict[str, Any], bits_per_weight: float
) -> None:
    grid = find_grid(normal(16, 128), **options)
    assert grid.packed_bits_per_weight((16, 128)) == bits_per_weight
    assert grid.packed_bytes((16, 128)) == 16 * 128 * bits_per_weight / 8


def test_packed_bytes_are_whole() -> None:
    # 9 codes of 3 bits are 27 bits, so 4 bytes; 3 scales of 2; 3 zero points of 3 bits, so 2.
    assert find_grid(normal(3, 3), bits=3, symmetric=False).packed_bytes((3, 3)) == 4 + 6 + 2
    # One row and one group all the same: 16 codes of 4 bits, one scale, one zero point.
    assert find_grid(normal(1, 16), bits=4, symmetric=False).packed_bytes((1, 16)) == 8 + 2 + 1
