"""What the headers of safetensors files say, without reading a single weight.

Format: 8 bytes little-endian length, then that many bytes of JSON, then the data
(https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from pytest_compsec.errors import LoadError

_LONGEST_HEADER = 100_000_000


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file: ``dtype`` as the format names it (``F32``, ``BF16``, ``U8`` ...),
    ``bytes`` what its data takes in ``file``."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int = dataclasses.field(default=0, compare=False)
    file: str = dataclasses.field(default="", compare=False)

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_headers(directory: Path, files: Iterable[str] | None = None) -> dict[str, StoredTensor]:
    """All tensors of a directory's ``*.safetensors`` files (or of ``files``), by name.

    Raises LoadError naming the file whose header cannot be read, or two of ``files`` that hold
    the same tensor: which of them is the model's cannot be told.
    """
    names = (path.name for path in directory.glob("*.safetensors")) if files is None else files
    tensors: dict[str, StoredTensor] = {}
    for name in sorted(names):
        found = _read_header(directory / name)
        twice = sorted(tensors.keys() & found.keys()) if files is not None else []
        if twice:
            raise LoadError(
                f"{directory.name}: {tensors[twice[0]].file} and {name} both hold {twice[0]!r}, "
                "and which of the two is the model's cannot be told. Fetch the model again, "
                "complete, then run `compsec pin`"
            )
        tensors.update(found)
    return tensors


def weight_files(directory: Path) -> tuple[str, ...]:
    """The ``*.safetensors`` files that make up the model, as transformers chooses them:
    ``model.safetensors``, else those that the index names; AutoGPTQ names its only file otherwise.

    Raises LoadError when the index is broken or names a file that is not there, or when there are
    several files and nothing says which of them are the model.
    """
    there = {path.name for path in directory.glob("*.safetensors")}
    if "model.safetensors" in there:
        return ("model.safetensors",)
    indices = sorted(path.name for path in directory.glob("*.safetensors.index.json"))
    if len(indices) == 1:
        return _indexed(directory, indices[0], there)
    if not there:
        raise no_weights(directory.name)
    if len(there) != 1:
        raise LoadError(
            f"{directory.name}: {len(there)} *.safetensors files and {len(indices)} "
            "*.safetensors.index.json: which of them are the model cannot be told. Leave "
            "model.safetensors, or the shards with their index"
        )
    return tuple(there)


def no_weights(name: str) -> LoadError:
    """The error for a directory without weights that are ever opened."""
    return LoadError(
        f"{name}: there are no *.safetensors weights in the directory. Convert the model "
        "with save_pretrained(..., safe_serialization=True); pickled weights are never opened"
    )


def _indexed(directory: Path, index: str, there: Collection[str]) -> tuple[str, ...]:
    try:
        named = set(json.loads((directory / index).read_text("utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadError(
            f"{directory.name}/{index} is not a readable index ({error}). Fetch it again"
        ) from error
    missing = sorted(str(name) for name in named if name not in there)
    if missing or not named:
        raise LoadError(
            f"{directory.name}/{index} names {', '.join(missing) or 'no file'}, which is not "
            "there. Fetch the model again, complete, then run `compsec pin`"
        )
    return tuple(sorted(named))


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
            name: StoredTensor(
                dtype=str(entry["dtype"]),
                shape=tuple(int(n) for n in entry["shape"]),
                bytes=int(entry["data_offsets"][1]) - int(entry["data_offsets"][0]),
                file=path.name,
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise LoadError(
            f"{path.name} is not a readable safetensors file ({error}): it is truncated or "
            "corrupted. Fetch it again, then run `compsec pin`"
        ) from error
