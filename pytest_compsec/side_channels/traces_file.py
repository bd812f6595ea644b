"""A data file of recorded traces, read from its pinned bytes. Nothing in it is ever run: arrays of
objects, which numpy would unpickle, are refused."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import ConfigError
from pytest_compsec.side_channels.traces import Traces, from_arrays

if TYPE_CHECKING:
    from pytest_compsec.data import DataFile

#: An array of one text in an .npz file that says of which weights the traces are.
DIGEST = "weights_digest"
#: Before the names of the arrays of the original's traces.
ORIGINAL = "original_"


@dataclass(frozen=True, eq=False)
class TraceFile:
    """Traces of the compressed model, those of the original where the file has them, and the digest
    of the weights where the file names it."""

    compressed: Traces
    original: Traces | None
    weights_digest: str | None


def read_traces(file: DataFile, labels: DataFile | None) -> TraceFile:
    """The traces of a file: an .npz or .safetensors file of named arrays
    (:func:`pytest_compsec.side_channels.traces.from_arrays`), or an .npy file with its ``labels``
    in another one. Raises ConfigError that names the file."""
    arrays = dict(_ARRAYS[file.suffix](file)) if file.suffix in _ARRAYS else None
    if arrays is None:
        raise ConfigError(
            f"{file.source}:1: traces are read from {', '.join(_ARRAYS)} files, not {file.suffix}"
        )
    if labels is not None:
        if file.suffix != ".npy" or labels.suffix != ".npy":
            raise ConfigError(
                f"{labels.source}:1: labels apart are for .npy files, and are one themselves; "
                "other files hold them as the array 'labels'"
            )
        arrays["labels"] = _npy(labels)["traces"]
    digest = arrays.pop(DIGEST, None)
    try:
        compressed = from_arrays(arrays)
        original = from_arrays(arrays, ORIGINAL)
    except ValueError as error:
        raise ConfigError(f"{file.source}:1: {error}") from None
    if compressed is None:
        found = ", ".join(sorted(arrays)) or "none"
        raise ConfigError(
            f"{file.source}:1: needs the arrays 'fixed' and 'random', or 'traces' and 'labels'; "
            f"it has: {found}"
        )
    return TraceFile(compressed, original, None if digest is None else _text(digest, file))


def _text(array: Any, file: DataFile) -> str:
    """The one text of an array; bytes, as some programs write it, are ASCII."""
    import numpy as np

    found = np.asarray(array)
    text = found.item() if found.size == 1 else None
    if isinstance(text, bytes) and text.isascii():
        text = text.decode("ascii")
    if not isinstance(text, str) or not text:
        raise ConfigError(
            f"{file.source}:1: {DIGEST!r} must be one text, the digest of the weights that the "
            f"traces are of, not an array of shape {found.shape} and type {found.dtype}"
        )
    return text


def _npy(file: DataFile) -> Mapping[str, Any]:
    return {"traces": _parsed(file, _load)}


def _npz(file: DataFile) -> Mapping[str, Any]:
    def members(content: bytes) -> Mapping[str, Any]:
        archive = _load(content)
        if not hasattr(archive, "files"):
            raise ValueError("is no archive of arrays")
        return {name: archive[name] for name in archive.files}

    return _parsed(file, members)  # type: ignore[no-any-return]


def _safetensors(file: DataFile) -> Mapping[str, Any]:
    from safetensors.numpy import load

    return _parsed(file, load)  # type: ignore[no-any-return]


def _load(content: bytes) -> Any:
    import numpy as np

    return np.load(io.BytesIO(content), allow_pickle=False)


def _parsed(file: DataFile, parse: Callable[[bytes], Any]) -> Any:
    try:
        return parse(file.content)
    except MemoryError:
        raise ConfigError(f"{file.source}:1: its arrays do not fit into memory") from None
    except Exception as error:  # whatever numpy, zipfile and safetensors raise for broken files
        raise ConfigError(
            f"{file.source}:1: cannot be read as arrays of numbers ({error})"
        ) from None


_ARRAYS: Mapping[str, Callable[[DataFile], Mapping[str, Any]]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".safetensors": _safetensors,
}
