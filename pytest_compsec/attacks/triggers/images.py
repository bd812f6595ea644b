"""Triggers on images: a patch (BadNets) and a blended pattern.

Images are tensors (samples, ..., height, width); the third dimension from the end, where there are
four or more, holds the channels. Flat inputs (samples, features) need ``image_shape`` for a patch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import TYPE_CHECKING, Any

from pytest_compsec.attacks.triggers.patch_values import (
    is_number,
    is_whole,
    require_image_shape,
    require_position,
    require_size,
    require_value,
)
from pytest_compsec.attacks.triggers.strengths import require_strength
from pytest_compsec.errors import MeasurementError
from pytest_compsec.models.arm import digest_of

if TYPE_CHECKING:
    import torch

PATTERNS = ("solid", "checkerboard")


@dataclasses.dataclass(frozen=True)
class Patch:
    """A patch of fixed colour (BadNets: Gu, Dolan-Gavitt & Garg 2017, arXiv:1708.06733).

    ``size`` is the side in pixels or (height, width); ``position`` a corner (``bottom-right``),
    ``center``, or (row, column) of the patch's top left pixel, counted from 0; ``value`` the
    number that the pixels get, or one number for each channel. With ``pattern="checkerboard"`` the
    pixels of the patch alternate between ``value`` (first: the top left one) and 0.
    ``image_shape`` is the shape of one image, (height, width) or (channels, height, width), where
    the inputs are flat.

    A weaker patch is a smaller one that stays in its corner (``center``: in the centre; a position
    given by numbers: at its top left pixel): both sides are multiplied by the square root of
    ``strength`` and rounded down, so that its area is at most that share of the whole, but never
    less than one pixel.

    Raises ValueError in plain words for values that are none of these.
    """

    size: int | tuple[int, int] = 3
    position: str | tuple[int, int] = "bottom-right"
    value: float | tuple[float, ...] = 1.0
    pattern: str = "solid"
    image_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        normal = {
            "size": require_size(self.size),
            "position": require_position(self.position),
            "value": require_value(self.value),
            "image_shape": require_image_shape(self.image_shape),
        }
        for name, value in normal.items():
            object.__setattr__(self, name, value)
        if self.pattern not in PATTERNS:
            raise ValueError(f"pattern={self.pattern!r} must be one of {', '.join(PATTERNS)}")
        if self.pattern == "checkerboard" and not any(self._values):
            raise ValueError("value=0 on a checkerboard is one colour: the other pixels are 0 too")

    @property
    def _sides(self) -> tuple[int, int]:
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    @property
    def _values(self) -> tuple[float, ...]:
        return self.value if isinstance(self.value, tuple) else (self.value,)

    @property
    def name(self) -> str:
        height, width = self._sides
        if isinstance(self.position, tuple):
            place = f"row {self.position[0]}, column {self.position[1]}"
        else:
            place = self.position.replace("-", " ")
        kind = "patch" if self.pattern == "solid" else self.pattern
        return f"{height}x{width} {kind}, {place}"

    @property
    def digest(self) -> str:
        return digest_of(
            {
                "trigger": "patch",
                "size": self._sides,
                "position": self.position,
                "value": self.value,
                "pattern": self.pattern,
                "image_shape": self.image_shape,
            }
        )

    def sides(self, strength: float) -> tuple[int, int]:
        """Height and width in pixels at a strength."""
        require_strength(strength)
        height, width = self._sides
        root = math.sqrt(strength)
        if height * root < 1:  # a thin patch loses all of its area along the other side
            return 1, max(1, math.floor(strength * height * width + 1e-9))
        if width * root < 1:
            return max(1, math.floor(strength * height * width + 1e-9)), 1
        return math.floor(height * root + 1e-9), math.floor(width * root + 1e-9)

    def stamp(self, inputs: Any, strength: float = 1.0) -> Any:
        """A copy of ``inputs`` with the patch on every image; same shape, dtype and device.

        Raises MeasurementError when the patch does not fit on the images.
        """
        require_tensor(inputs, self.name)
        images = inputs.clone().reshape(self._shape_of_images(inputs))
        top, left = self._corner(int(images.shape[-2]), int(images.shape[-1]), self._sides)
        height, width = self.sides(strength)
        row, column = self._smaller_corner((top, left), (height, width))
        colours = self._pixels(images)
        images[..., row : row + height, column : column + width] = colours[
            ..., row - top : row - top + height, column - left : column - left + width
        ]
        return images.reshape(inputs.shape)

    def _shape_of_images(self, inputs: torch.Tensor) -> tuple[int, ...]:
        shape = tuple(inputs.shape)
        if self.image_shape is None:
            if inputs.ndim >= 3:
                return shape
            raise MeasurementError(
                f"{self.name}: the inputs have the shape {shape}, no images. Give the patch "
                "'image_shape', (height, width) or (channels, height, width) of one image"
            )
        if math.prod(shape[1:]) != math.prod(self.image_shape):
            raise MeasurementError(
                f"{self.name}: image_shape {self.image_shape} has {math.prod(self.image_shape)} "
                f"numbers, and one input of shape {shape[1:]} has {math.prod(shape[1:])}"
            )
        return (shape[0], *self.image_shape)

    def _corner(self, rows: int, columns: int, sides: tuple[int, int]) -> tuple[int, int]:
        height, width = sides
        if isinstance(self.position, tuple):
            top, left = self.position
        elif self.position == "center":
            top, left = (rows - height) // 2, (columns - width) // 2
        else:
            vertical, horizontal = self.position.split("-")
            top = 0 if vertical == "top" else rows - height
            left = 0 if horizontal == "left" else columns - width
        if top < 0 or left < 0 or top + height > rows or left + width > columns:
            raise MeasurementError(
                f"{self.name}: does not fit on images of {rows}x{columns} pixels. Give it another "
                "'size' or 'position'"
            )
        return top, left

    def _smaller_corner(self, whole: tuple[int, int], sides: tuple[int, int]) -> tuple[int, int]:
        """Top left pixel of the smaller patch, inside the whole one."""
        if isinstance(self.position, tuple):
            return whole
        row, column = self._corner(*self._sides, sides)
        return whole[0] + row, whole[1] + column

    def _pixels(self, images: torch.Tensor) -> torch.Tensor:
        """The whole patch, (1 or channels, height, width), in the dtype of the images."""
        import torch

        channels = int(images.shape[-3]) if images.ndim >= 4 else 1
        if isinstance(self.value, tuple) and len(self.value) != channels:
            raise MeasurementError(
                f"{self.name}: 'value' has {len(self.value)} numbers, and the images have "
                f"{channels} channel{'s' if channels > 1 else ''}"
            )
        values = torch.tensor(self._values, dtype=torch.float64)
        if not images.is_floating_point() and not torch.equal(values.to(images.dtype), values):
            raise MeasurementError(
                f"{self.name}: value={self.value!r} does not exist in images of {images.dtype}"
            )
        height, width = self._sides
        colours = values[:, None, None].expand(-1, height, width)
        if self.pattern == "checkerboard":
            places = torch.arange(height)[:, None] + torch.arange(width)[None, :]
            colours = colours * (places % 2 == 0)
        colours = colours.to(device=images.device, dtype=images.dtype)
        return colours if images.ndim >= 4 else colours[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Blended:
    """A pattern over the whole image: ``(1 - share) image + share pattern`` (blended injection:
    Chen et al. 2017, arXiv:1712.05526, section 4).

    ``pattern`` has the shape of one image, or (height, width) for all channels alike; None is
    noise, uniform in [0, 1], the same on every image, decided by ``seed``. A weaker one has a
    lower contrast: ``share * strength``.

    Raises ValueError in plain words for values that are none of these.
    """

    pattern: torch.Tensor | None = dataclasses.field(default=None, repr=False)
    share: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not is_number(self.share) or not 0 < self.share <= 1:
            raise ValueError(f"share={self.share!r} must be greater than 0 and at most 1")
        if not is_whole(self.seed) or not 0 <= self.seed < 2**63:
            raise ValueError(f"the seed of the noise, {self.seed!r}, must be a whole number >= 0")
        object.__setattr__(self, "share", float(self.share))
        if self.pattern is not None:
            # A copy: what the caller does to the tensor later changes neither stamp nor digest.
            object.__setattr__(self, "pattern", _pattern(self.pattern))

    @property
    def name(self) -> str:
        kind = f"noise {self.seed}" if self.pattern is None else "pattern"
        return f"blended {kind}, share {self.share:g}"

    @property
    def digest(self) -> str:
        content: Any = {"seed": self.seed}
        if self.pattern is not None:
            numbers = hashlib.sha256(self.pattern.numpy().tobytes()).hexdigest()
            content = {"shape": tuple(self.pattern.shape), "sha256": numbers}
        return digest_of({"trigger": "blended", "share": self.share, **content})

    def stamp(self, inputs: Any, strength: float = 1.0) -> Any:
        """The inputs with the pattern blended in; same shape, dtype and device.

        Raises MeasurementError when the inputs are whole numbers or of another shape.
        """
        require_strength(strength)
        require_tensor(inputs, self.name)
        if not inputs.is_floating_point():
            raise MeasurementError(
                f"{self.name}: the inputs are {inputs.dtype}; only float images can be blended"
            )
        share = self.share * strength
        pattern = self._on(tuple(inputs.shape[1:]))
        return (1 - share) * inputs + share * pattern.to(device=inputs.device, dtype=inputs.dtype)

    def _on(self, shape: tuple[int, ...]) -> torch.Tensor:
        import torch

        if self.pattern is None:
            generator = torch.Generator().manual_seed(self.seed)
            return torch.rand(math.prod(shape), generator=generator).reshape(shape)
        own = tuple(self.pattern.shape)
        if own == shape:
            return self.pattern
        if len(shape) == 1 and math.prod(own) == shape[0]:
            return self.pattern.reshape(shape)
        single = own[1:] if len(own) == 3 and own[0] == 1 else own
        if len(single) == 2 and single == shape[-2:]:
            return self.pattern.reshape(single)
        raise MeasurementError(
            f"{self.name}: the pattern has the shape {own} and one image {shape}. It must be the "
            "same, or (height, width) for all channels alike"
        )


def require_tensor(inputs: object, name: str) -> None:
    """Raise MeasurementError unless these are inputs (samples, ...) of numbers."""
    import torch

    if not isinstance(inputs, torch.Tensor):
        raise MeasurementError(
            f"{name}: this trigger goes on images (tensors), and the inputs are "
            f"{type(inputs).__name__}. Texts take a phrase, a token or a function"
        )
    if inputs.ndim < 2:
        raise MeasurementError(f"{name}: inputs of shape {tuple(inputs.shape)} hold no images")


def _pattern(value: Any) -> torch.Tensor:
    import torch

    if not isinstance(value, torch.Tensor) or value.ndim == 0 or value.numel() == 0:
        raise ValueError("pattern must be a tensor of the shape of one image, or None for noise")
    pattern = value.detach().to(device="cpu", dtype=torch.float32, copy=True).contiguous()
    if not bool(torch.isfinite(pattern).all()):
        raise ValueError("pattern holds numbers that are not finite")
    return pattern
