"""Where each tensor of a weights file lies, from its header: read when the file is pinned only.

A file that does not match its pin is never parsed: the places that were pinned are looked at in it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pytest_compsec.errors import LoadError, MissingExtraError
from pytest_compsec.models.listing import printable

_LONGEST_HEADER = 100_000_000
#: More than any library makes; multiplying thousands of large sizes would take hours.
_MOST_DIMENSIONS = 64
#: What readers raise for a header that lies, such as about the length of a text (MemoryError).
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError,
              MemoryError, OSError)  # fmt: skip
#: Bits of an element (https://github.com/huggingface/safetensors, ``Dtype``); of a type that is not
#: listed here only the offsets are checked.
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16,
    "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TensorPlace:
    """A tensor's bytes ``start`` to ``end`` (exclusive) in its file. ``dtype`` and ``shape`` as the
    format writes them."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Layout:
    """``data_start``: where the header ends. ``tensors`` in the order of their places."""

    format: str
    data_start: int
    tensors: tuple[TensorPlace, ...]


def layout_of(path: Path, name: str) -> Layout | None:
    """The layout of a ``.safetensors`` or ``.gguf`` file called ``name``; None for other files.

    ``path`` may be any path to it, as one of an open descriptor. Raises LoadError for a header that
    does not fit the file, MissingExtraError without ``gguf``.
    """
    readers: dict[str, Callable[[Path], Layout]] = {".safetensors": _safetensors, ".gguf": _gguf}
    read = readers.get(Path(name).suffix.lower())
    if read is None:
        return None
    try:
        found = read(path)
        _check(found, os.path.getsize(path))  # noqa: PTH202
    except _MALFORMED as error:
        reason = str(error) or type(error).__name__
        raise LoadError(
            f"{printable(name)}: its header does not fit the file ({printable(reason)}), so its "
            "tensors cannot be told apart. Fetch it again, or pin without --tensors"
        ) from None
    return found


def _safetensors(path: Path) -> Layout:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_LONGEST_HEADER, os.fstat(file.fileno()).st_size - 8):
            raise ValueError("the header's length is impossible")
        header = json.loads(file.read(length), object_pairs_hook=_unique)
    start = 8 + length
    places = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        first, last = (_whole(offset) for offset in entry["data_offsets"])
        shape = tuple(_whole(size) for size in entry["shape"])
        if len(shape) > _MOST_DIMENSIONS:
            raise ValueError(f"a tensor of {len(shape)} dimensions")
        dtype = entry["dtype"]
        if not isinstance(dtype, str):
            raise ValueError("a type is no text")
        bits = _BITS.get(dtype)
        if bits is not None and bits * math.prod(shape) != 8 * (last - first):
            raise ValueError(f"{name!r} takes {last - first} bytes, its shape says otherwise")
        places.append(TensorPlace(str(name), dtype, shape, start + first, start + last))
    return Layout("safetensors", start, _in_order(places))


def _gguf(path: Path) -> Layout:
    try:
        import gguf
    except ImportError:
        raise MissingExtraError("gguf", "gguf", "digests of a GGUF file's tensors") from None
    from pytest_compsec.models.stored import read_tensor_infos

    read_tensor_infos(path)  # First: it names a truncated file, which the reader below maps.
    reader = gguf.GGUFReader(path)
    places = [
        TensorPlace(
            str(tensor.name),
            str(tensor.tensor_type.name),
            tuple(int(size) for size in reversed(tensor.shape)),
            int(tensor.data_offset),
            int(tensor.data_offset) + int(tensor.n_bytes),
        )
        for tensor in reader.tensors
    ]
    return Layout("gguf", int(reader.data_offset), _in_order(places))


def _check(layout: Layout, size: int) -> None:
    end = layout.data_start
    for place in layout.tensors:
        # JSON can hold halves of UTF-16 pairs, which cannot be written in a file of UTF-8.
        if any("\ud800" <= char <= "\udfff" for char in place.name + place.dtype):
            raise ValueError(f"the name or type of {place.name!r} is no text")
        if place.start < end or place.end < place.start:
            raise ValueError(f"{place.name!r} overlaps what is before it")
        if place.end > size:
            raise ValueError(f"{place.name!r} reaches beyond the end of the file")
        end = place.end


def _in_order(places: Sequence[TensorPlace]) -> tuple[TensorPlace, ...]:
    return tuple(sorted(places, key=lambda place: (place.start, place.end, place.name)))


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("a size or an offset is no whole number")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found
