"""The values of a patch as users write them. Errors are ValueError, in plain words."""

from __future__ import annotations

from typing import Any

#: Named places of a patch.
POSITIONS = ("top-left", "top-right", "bottom-left", "bottom-right", "center")


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    # Compared, not asked with isfinite, which raises for a whole number beyond the floats.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -1e30 < value < 1e30


def require_size(value: Any) -> int | tuple[int, int]:
    pair = (value, value) if is_whole(value) else value
    if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(map(is_whole, pair)):
        raise ValueError(f"size={value!r} must be a number of pixels or (height, width)")
    if min(pair) < 1:
        raise ValueError(f"size={value!r} must be at least one pixel")
    return int(pair[0]) if pair[0] == pair[1] else (pair[0], pair[1])


def require_position(value: Any) -> str | tuple[int, int]:
    if isinstance(value, str) and value in POSITIONS:
        return value
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(map(is_whole, value)):
        if min(value) < 0:
            raise ValueError(f"position={value!r} counts from 0, row and column from the top left")
        return (value[0], value[1])
    raise ValueError(
        f"position={value!r} must be one of {', '.join(POSITIONS)}, or (row, column) of the "
        "patch's top left pixel"
    )


def require_value(value: Any) -> float | tuple[float, ...]:
    if is_number(value):
        return float(value)
    if isinstance(value, (list, tuple)) and value and all(map(is_number, value)):
        return tuple(float(number) for number in value)
    raise ValueError(f"value={value!r} must be a number, or a list with one for each channel")


def require_image_shape(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    if (
        isinstance(value, (list, tuple))
        and len(value) in (2, 3)
        and all(is_whole(number) and number > 0 for number in value)
    ):
        # (height, width) means one channel; both are the same image.
        return tuple(value)
    raise ValueError(
        f"image_shape={value!r} must be (height, width) or (channels, height, width) of one image"
    )
