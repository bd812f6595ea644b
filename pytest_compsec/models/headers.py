"""What the headers of safetensors files say, without reading a single weight.

Format: 8 bytes little-endian length, then that many bytes of JSON, then the data
(https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

from pytest_compsec.errors import LoadError

_LONGEST_HEADER = 100_000_000


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file: ``dtype`` as the format names it (``F32``, ``BF16``, ``U8`` ...)."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_headers(directory: Path) -> dict[str, StoredTensor]:
    """All tensors of all ``*.safetensors`` files of a directory, by name.

    Raises LoadError naming the file whose header cannot be read.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors.update(_read_header(path))
    return tensors


def element_counts(tensors: Mapping[str, StoredTensor]) -> dict[str, int]:
    """How many elements are stored in each type."""
    counts: dict[str, int] = {}
    for tensor in tensors.values():
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.elements
    return counts


def _read_header(path: Path) -> dict[str, StoredTensor]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_LONGEST_HEADER, path.stat().st_size - 8):
                raise ValueError("the header's length is impossible")
            header = json.loads(file.read(length))
        return {
            name: StoredTensor(str(entry["dtype"]), tuple(int(n) for n in entry["shape"]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadError(
            f"{path.name} is not a readable safetensors file ({error}): it is truncated or "
            "corrupted. Fetch it again, then run `compsec pin`"
        ) from error
