"""Patches and blended patterns: exactly which pixels change, to what, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from pytest_compsec.attacks.triggers.changes import changed
from pytest_compsec.attacks.triggers.images import Blended, Patch
from pytest_compsec.errors import MeasurementError


def places(stamped: torch.Tensor) -> set[tuple[int, int]]:
    """Rows and columns that are not 0, of one image (height, width)."""
    return {(row, column) for row, column in stamped.nonzero().tolist()}


def square(rows: range, columns: range) -> set[tuple[int, int]]:
    return {(row, column) for row in rows for column in columns}


@pytest.mark.parametrize(
    ("position", "rows", "columns"),
    [
        ("top-left", range(2), range(3)),
        ("top-right", range(2), range(5, 8)),
        ("bottom-left", range(4, 6), range(3)),
        ("bottom-right", range(4, 6), range(5, 8)),
        ("center", range(2, 4), range(2, 5)),
        ((1, 4), range(1, 3), range(4, 7)),
        ((4, 5), range(4, 6), range(5, 8)),
    ],
)
@pytest.mark.parametrize("leading", [(2,), (2, 3), (2, 3, 4)])
def test_exactly_the_pixels_at_the_position_change(
    position: Any, rows: range, columns: range, leading: tuple[int, ...]
) -> None:
    images = torch.zeros(*leading, 6, 8)
    stamped = Patch((2, 3), position, 0.5).stamp(images)
    assert stamped.shape == images.shape
    assert not images.any(), "the inputs were written to"
    for image in stamped.reshape(-1, 6, 8):
        assert places(image) == square(rows, columns)
        assert set(image[image != 0].tolist()) == {0.5}


def test_one_value_for_each_channel() -> None:
    stamped = Patch(1, "top-left", (0.1, 0.2, 0.3)).stamp(torch.ones(2, 3, 4, 4))
    assert torch.equal(stamped[:, :, 0, 0], torch.tensor([[0.1, 0.2, 0.3]] * 2))
    assert torch.equal(stamped[:, :, 1:], torch.ones(2, 3, 3, 4))


def test_a_checkerboard_alternates_and_a_smaller_one_shows_a_part_of_it() -> None:
    patch = Patch(3, "bottom-right", 1.0, "checkerboard")
    half = torch.full((1, 4, 4), 0.5)
    whole = patch.stamp(half)[0]
    assert whole[1:, 1:].tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    weaker = patch.stamp(half, 0.5)[0]
    assert weaker[2:, 2:].tolist() == [[1, 0], [0, 1]]
    assert weaker[1].tolist() == [0.5] * 4


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 4)])
def test_flat_inputs_are_stamped_as_images(shape: tuple[int, ...]) -> None:
    flat = torch.rand(3, 16, generator=torch.Generator().manual_seed(1))
    stamped = Patch(2, "top-right", 1.0, image_shape=shape).stamp(flat)
    expected = flat.clone()
    expected[:, [2, 3, 6, 7]] = 1.0
    assert torch.equal(stamped, expected)


@pytest.mark.parametrize(
    ("size", "strength", "sides"),
    [
        (3, 1.0, (3, 3)),
        (3, 0.5, (2, 2)),
        (3, 0.25, (1, 1)),
        (4, 0.5, (2, 2)),
        (4, 0.25, (2, 2)),
        (4, 0.5625, (3, 3)),
        (1, 0.25, (1, 1)),
        ((1, 9), 0.5, (1, 4)),
        ((9, 1), 0.5, (4, 1)),
        ((2, 8), 0.01, (1, 1)),
    ],
)
def test_a_weaker_patch_is_smaller(size: Any, strength: float, sides: tuple[int, int]) -> None:
    patch = Patch(size, "top-left")
    assert patch.sides(strength) == sides
    assert int(patch.stamp(torch.zeros(1, 9, 9), strength).sum()) == sides[0] * sides[1]


@pytest.mark.parametrize("size", [1, 2, 3, 5, (1, 7), (2, 9), (6, 2)])
@pytest.mark.parametrize("strength", [0.01, 0.1, 0.25, 0.5, 0.75, 0.99])
def test_a_weaker_patch_has_at_most_that_share_of_the_area(size: Any, strength: float) -> None:
    whole = Patch(size).sides(1.0)
    height, width = Patch(size).sides(strength)
    assert 1 <= height * width <= max(1.0, strength * whole[0] * whole[1])


@pytest.mark.parametrize(
    ("position", "pixel"),
    [
        ("top-left", (0, 0)),
        ("top-right", (0, 7)),
        ("bottom-left", (7, 0)),
        ("bottom-right", (7, 7)),
        ((2, 3), (2, 3)),
        ("center", (3, 3)),
    ],
)
def test_a_weaker_patch_stays_in_its_corner(position: Any, pixel: tuple[int, int]) -> None:
    patch = Patch(3, position)
    assert places(patch.stamp(torch.zeros(1, 8, 8), 0.12)[0]) == {pixel}
    assert pixel in places(patch.stamp(torch.zeros(1, 8, 8))[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.uint8])
def test_the_dtype_stays(dtype: torch.dtype) -> None:
    stamped = Patch(1, value=1).stamp(torch.zeros(1, 2, 2, dtype=dtype))
    assert stamped.dtype == dtype
    assert stamped[0, 1, 1] == 1


@pytest.mark.parametrize(
    ("patch", "inputs", "words"),
    [
        (Patch(), torch.zeros(2, 64), "image_shape"),
        (Patch(image_shape=(8, 8)), torch.zeros(2, 63), "has 64 numbers"),
        (Patch(9), torch.zeros(2, 8, 8), "does not fit on images of 8x8"),
        (Patch(3, (6, 0)), torch.zeros(2, 8, 8), "does not fit"),
        (Patch(value=(1.0, 1.0, 1.0)), torch.zeros(2, 1, 8, 8), "1 channel"),
        (Patch(value=(1.0, 1.0)), torch.zeros(2, 8, 8), "1 channel"),
        (Patch(value=0.5), torch.zeros(2, 8, 8, dtype=torch.uint8), "torch.uint8"),
        (Patch(), torch.zeros(8), "hold no images"),
        (Patch(), ("a text",), "goes on images"),
        (Blended(), ("a text",), "goes on images"),
        (Blended(), torch.zeros(2, 8, 8, dtype=torch.uint8), "only float"),
        (Blended(torch.zeros(4, 4)), torch.zeros(2, 8, 8), "the pattern has the shape (4, 4)"),
        (Blended(torch.zeros(8)), torch.zeros(2, 8, 8), "the pattern has the shape (8,)"),
        (Blended(torch.zeros(3, 8, 8)), torch.zeros(2, 1, 8, 8), "the pattern has the shape"),
    ],
)
def test_what_cannot_be_stamped_is_no_measurement(patch: Any, inputs: Any, words: str) -> None:
    with pytest.raises(MeasurementError) as raised:
        patch.stamp(inputs)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"size": 0}, "at least one pixel"),
        ({"size": True}, "size=True"),
        ({"size": 2.5}, "size=2.5"),
        ({"size": [1, 2, 3]}, "(height, width)"),
        ({"position": "bottom"}, "bottom-right"),
        ({"position": (-1, 0)}, "counts from 0"),
        ({"position": ["a", 1]}, "(row, column)"),
        ({"value": "white"}, "value='white'"),
        ({"value": float("nan")}, "value=nan"),
        ({"value": 10**400}, "must be a number"),
        ({"value": []}, "one for each channel"),
        ({"value": True}, "value=True"),
        ({"pattern": "stripes"}, "checkerboard"),
        ({"pattern": "checkerboard", "value": 0}, "one colour"),
        ({"image_shape": (8,)}, "image_shape=(8,)"),
        ({"image_shape": 64}, "image_shape=64"),
    ],
)
def test_a_patch_that_makes_no_sense_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as raised:
        Patch(**arguments)
    assert words in str(raised.value)


@pytest.mark.parametrize("strength", [0, -0.5, 1.01, float("nan"), True])
@pytest.mark.parametrize("trigger", [Patch(), Blended()])
def test_a_strength_is_a_share(trigger: Any, strength: float) -> None:
    with pytest.raises(ValueError, match="strength"):
        trigger.stamp(torch.zeros(1, 8, 8), strength)


def test_every_field_of_a_patch_decides_its_digest() -> None:
    patch = Patch(3, "top-left", 1.0)
    others = [
        Patch(4, "top-left", 1.0),
        Patch(3, (0, 0), 1.0),
        Patch(3, "top-left", 0.5),
        Patch(3, "top-left", (1.0,)),
        Patch(3, "top-left", 1.0, "checkerboard"),
        Patch(3, "top-left", 1.0, image_shape=(8, 8)),
    ]
    assert len({patch.digest, *(other.digest for other in others)}) == 1 + len(others)
    assert len(dataclasses.fields(Patch)) == 5, "a new field needs a line above"
    assert Patch([3, 3], "top-left", 1).digest == patch.digest  # type: ignore[arg-type]


def test_a_blend_is_a_weighted_mean() -> None:
    pattern = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    images = torch.full((2, 3, 2, 2), 0.5)
    stamped = Blended(pattern, 0.2).stamp(images)
    assert torch.allclose(stamped, torch.tensor([[0.4, 0.6], [0.6, 0.4]]).expand(2, 3, 2, 2))
    weaker = Blended(pattern, 0.2).stamp(images, 0.5)
    assert torch.allclose(weaker, torch.tensor([[0.45, 0.55], [0.55, 0.45]]).expand(2, 3, 2, 2))
    assert torch.equal(images, torch.full((2, 3, 2, 2), 0.5))


def test_a_pattern_goes_on_flat_inputs_of_its_size() -> None:
    pattern = torch.arange(4.0).reshape(2, 2)
    assert Blended(pattern, 1.0).stamp(torch.zeros(1, 4)).tolist() == [[0, 1, 2, 3]]
    single = Blended(pattern[None], 1.0).stamp(torch.zeros(1, 3, 2, 2))
    assert torch.equal(single, pattern.expand(1, 3, 2, 2))


def test_noise_is_the_same_on_every_image_and_in_every_run() -> None:
    torch.manual_seed(0)
    first = Blended(share=1.0, seed=3).stamp(torch.zeros(4, 3, 8, 8))
    torch.manual_seed(99)
    again = Blended(share=1.0, seed=3).stamp(torch.zeros(2, 3, 8, 8))
    assert torch.equal(first[:2], again)
    assert torch.equal(first[0], first[3])
    assert 0 <= float(first.min()) < 0.1
    assert 0.9 < float(first.max()) <= 1
    assert not torch.equal(again, Blended(share=1.0, seed=4).stamp(torch.zeros(2, 3, 8, 8)))


def test_noise_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    Blended(seed=3).stamp(torch.zeros(1, 8, 8))
    assert torch.equal(before, torch.random.get_rng_state())


def test_what_decides_the_blend_decides_its_digest() -> None:
    pattern = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    other = pattern.clone()
    other[0, 0] += 0.001
    blends = [
        Blended(pattern, 0.2),
        Blended(other, 0.2),
        Blended(pattern.reshape(2, 8), 0.2),
        Blended(pattern, 0.1),
        Blended(None, 0.2, 0),
        Blended(None, 0.2, 1),
    ]
    assert len({blend.digest for blend in blends}) == len(blends)
    assert Blended(pattern.clone(), 0.2).digest == blends[0].digest


def test_a_pattern_is_kept_as_it_was() -> None:
    pattern = torch.ones(2, 2)
    blend = Blended(pattern, 1.0)
    before = blend.digest
    pattern.zero_()
    assert blend.stamp(torch.zeros(1, 2, 2)).sum() == 4
    assert blend.digest == before


@pytest.mark.parametrize(
    "arguments",
    [
        {"share": 0},
        {"share": 1.5},
        {"share": "a"},
        {"seed": -1},
        {"seed": 1.5},
        {"pattern": [[1.0]]},
        {"pattern": torch.tensor([[float("inf")]])},
        {"pattern": torch.zeros(0, 2)},
    ],
)
def test_a_blend_that_makes_no_sense_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Blended(**arguments)


def test_samples_that_a_patch_leaves_as_they_are() -> None:
    images = torch.zeros(3, 8, 8)
    images[1, -3:, -3:] = 1.0
    assert changed(Patch(), images) == (True, False, True)
    images[1, -3, -3] = 0.9
    assert changed(Patch(), images) == (True, True, True)
    assert changed(Patch(), images, 0.25) == (True, False, True)


def test_a_patch_in_the_colour_of_the_background_measures_nothing() -> None:
    with pytest.raises(MeasurementError, match="changes none of the 3 samples"):
        changed(Patch(value=0.0), torch.zeros(3, 8, 8))
