"""The weight codes in the safetensors files of a checkpoint by compressed-tensors, torchao or
transformers' block-wise FP8.

For a layer ``L`` compressed-tensors stores ``L.weight_packed`` (32-bit words that codes share) or
``L.weight`` (a byte for each code) with ``L.weight_scale``, ``L.weight_zero_point`` and
``L.weight_shape``; torchao stores ``L._weight_qdata`` with ``L._weight_scale`` and
``L._weight_zero_point``, and says in the file's metadata what type and blocks they are of. FP8 in
blocks is ``L.weight`` with ``L.weight_scale_inv``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_compsec.errors import LoadError
from pytest_compsec.models.headers import StoredTensor, read_headers, weight_files
from pytest_compsec.models.weight_schemes import Scheme

_BYTES = frozenset({"I8", "U8"})
_FLOAT_BYTES = frozenset({"F8_E4M3", "F8_E5M2"})
_TORCHAO = re.compile(r"^(.+)\._(\w+)_qdata$")
_WORD = 32


@dataclasses.dataclass(frozen=True)
class Contradiction:
    """``field`` of the config says ``said``, the files hold ``found``. ``rank``: how much of the
    scheme agreed before."""

    field: str
    said: str
    found: str
    rank: int


@dataclasses.dataclass(frozen=True)
class Codes:
    """The stored codes of one layer: tensor ``key`` in ``file``, of ``dtype``, for a weight of
    ``shape`` (output channels, inputs). ``scales`` is the number of scales, ``stored_bytes`` what
    codes, scales and zero points take. ``declared_bits`` and ``declared_block`` are torchao's."""

    layer: str
    key: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    words: int
    scales: int
    has_zero_points: bool
    stored_bytes: int
    packed: bool
    declared_bits: int | None = None
    declared_block: tuple[int, ...] | None = None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def contradiction(self, scheme: Scheme) -> Contradiction | None:
        """How the codes differ from what ``scheme`` says of them; None when they agree."""
        said, inputs = f"{scheme.bits} bits", self.shape[-1]
        if scheme.packed != self.packed:
            said += " packed in 32-bit words" if scheme.packed else " in bytes"
            found = f"{self.words} words of 32 bits a row" if self.packed else f"{self.dtype} codes"
            return Contradiction(scheme.bits_field, said, found, 0)
        if scheme.is_float != (self.dtype in _FLOAT_BYTES):
            said += ", float" if scheme.is_float else ", integers"
            return Contradiction(scheme.bits_field, said, f"{self.dtype} codes", 1)
        if self.packed and self.words != math.ceil(inputs * scheme.bits / _WORD):
            found = (
                f"{self.words} words of 32 bits for {inputs} weights, "
                f"{_WORD * self.words / inputs:g} bits each"
            )
            return Contradiction(scheme.bits_field, said, found, 2)
        if self.declared_bits is not None and self.declared_bits != scheme.bits:
            found = f"codes of {self.declared_bits} bits, as the file's metadata says"
            return Contradiction(scheme.bits_field, said, found, 2)
        return self._groups(scheme) or self._zero_points(scheme)

    def _groups(self, scheme: Scheme) -> Contradiction | None:
        rows, inputs = self.shape
        if scheme.block is not None:
            high, wide = scheme.block
            said, expected = f"{high} by {wide}", math.ceil(rows / high) * math.ceil(inputs / wide)
        elif scheme.group_size is not None:
            said, expected = str(scheme.group_size), rows * math.ceil(inputs / scheme.group_size)
        elif scheme.per_channel:
            said, expected = "one scale for each output channel", rows
        else:
            said, expected = "one scale for the matrix", 1
        agrees = self.scales == expected
        if self.declared_block is not None and scheme.group_size is not None:
            agrees = agrees and self.declared_block == (1, scheme.group_size)
        if agrees:
            return None
        each = self.elements / self.scales if self.scales else math.inf
        found = f"{self.scales} scales for {rows} rows of {inputs} weights, one for {each:g}"
        return Contradiction(scheme.group_field, said, found, 3)

    def _zero_points(self, scheme: Scheme) -> Contradiction | None:
        if scheme.symmetric is not False or self.has_zero_points:
            return None
        return Contradiction(f"{scheme.field}.symmetric", "false", "no zero points", 4)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The files of one directory: ``codes`` by layer, and the ``plain`` tensors beside them."""

    directory: Path
    codes: Mapping[str, Codes]
    plain: Mapping[str, StoredTensor]

    def excess(self, codes: Codes, bits: int) -> tuple[int, int] | None:
        """The lowest and highest code, where they are kept in bytes and take more values than
        ``bits`` bits have; else None."""
        if bits >= 8 or codes.dtype not in _BYTES:
            return None
        lowest, highest = _tensor(self.directory / codes.file, codes.key).aminmax()
        within = int(highest) - int(lowest) < 2**bits
        return None if within else (int(lowest), int(highest))


def read_checkpoint(directory: Path) -> Checkpoint:
    """Find the codes of these three ways in a directory; there may be none.

    Reads headers, and the few numbers that say a packed matrix's shape. Raises LoadError for a
    file that cannot be read, and for codes without what they need to be understood.
    """
    stored = read_headers(directory, weight_files(directory))
    codes: dict[str, Codes] = {}
    used: set[str] = set()
    declared: dict[str, Mapping[str, Any]] = {}
    for key, tensor in stored.items():
        torchao = _TORCHAO.match(key)
        if torchao is not None:
            layer, parameter = torchao.groups()
            if tensor.file not in declared:
                declared[tensor.file] = _metadata(directory / tensor.file)
            found = _of_torchao(layer, parameter, key, stored, declared[tensor.file])
        elif key.endswith(".weight_packed"):
            layer = key.removesuffix(".weight_packed")
            found = _packed_of_compressed_tensors(directory, layer, key, stored)
        elif (
            key.endswith(".weight")
            and (f"{key}_scale" in stored or f"{key}_scale_inv" in stored)
            and tensor.dtype in (_BYTES | _FLOAT_BYTES)
        ):
            layer = key.removesuffix(".weight")
            found = _of_compressed_tensors(layer, key, tensor.shape, stored, words=0)
        else:
            continue
        codes[layer] = found
        used |= {name for name in stored if _belongs(name, layer)}
    plain = {name: tensor for name, tensor in stored.items() if name not in used}
    return Checkpoint(directory, codes, plain)


def _belongs(name: str, layer: str) -> bool:
    rest = name.removeprefix(f"{layer}.")
    return rest != name and "." not in rest and rest != "bias"


def _packed_of_compressed_tensors(
    directory: Path, layer: str, key: str, stored: Mapping[str, StoredTensor]
) -> Codes:
    said = stored.get(f"{layer}.weight_shape")
    tensor = stored[key]
    if said is None or len(tensor.shape) != 2:
        raise LoadError(
            f"{tensor.file}: {key} has no {layer}.weight_shape beside it or is no matrix, so its "
            "codes cannot be told apart. Fetch the checkpoint again, or quantize it anew"
        )
    values = _tensor(directory / said.file, f"{layer}.weight_shape").tolist()
    shape = tuple(int(size) for size in values)
    if len(shape) != 2 or shape[0] != tensor.shape[0] or min(shape) < 1:
        raise LoadError(
            f"{said.file}: {layer}.weight_shape says {list(shape)}, but {key} has "
            f"{tensor.shape[0]} rows. Fetch the checkpoint again, or quantize it anew"
        )
    return _of_compressed_tensors(layer, key, shape, stored, words=tensor.shape[1])


def _of_compressed_tensors(
    layer: str,
    key: str,
    shape: tuple[int, ...],
    stored: Mapping[str, StoredTensor],
    *,
    words: int,
) -> Codes:
    scale = stored.get(f"{layer}.weight_scale") or stored.get(f"{layer}.weight_scale_inv")
    zero_points = stored.get(f"{layer}.weight_zero_point")
    return Codes(
        layer=layer,
        key=key,
        file=stored[key].file,
        dtype=stored[key].dtype,
        shape=shape,
        words=words,
        scales=scale.elements if scale is not None else 0,
        has_zero_points=zero_points is not None,
        stored_bytes=_size(stored[key], scale, zero_points),
        packed=words > 0,
    )


def _of_torchao(
    layer: str,
    parameter: str,
    key: str,
    stored: Mapping[str, StoredTensor],
    declared: Mapping[str, Any],
) -> Codes:
    tensor = stored[key]
    scale = stored.get(f"{layer}._{parameter}_scale")
    zero_points = stored.get(f"{layer}._{parameter}_zero_point")
    data = declared.get(f"{layer}.{parameter}", {})
    kind = str((data.get("target_dtype") or {}).get("_data", ""))
    block = data.get("block_size")
    if len(tensor.shape) != 2:
        raise LoadError(
            f"{tensor.file}: {key} has shape {list(tensor.shape)}; only matrices are supported"
        )
    return Codes(
        layer=layer,
        key=key,
        file=tensor.file,
        dtype=tensor.dtype,
        shape=tensor.shape,
        words=0,
        scales=scale.elements if scale is not None else 0,
        has_zero_points=zero_points is not None,
        stored_bytes=_size(tensor, scale, zero_points),
        packed=False,
        declared_bits=int(kind[3:]) if re.fullmatch(r"int[1-8]", kind) else None,
        declared_block=tuple(int(size) for size in block) if isinstance(block, list) else None,
    )


def _size(*tensors: StoredTensor | None) -> int:
    return sum(tensor.bytes for tensor in tensors if tensor is not None)


def _metadata(path: Path) -> Mapping[str, Any]:
    """What torchao wrote of each tensor in the file's metadata."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    found: dict[str, Any] = {}
    for name, text in metadata.items():
        try:
            data = json.loads(text).get("_data")
        except (ValueError, AttributeError):
            continue
        if isinstance(data, dict):
            found[name] = data
    return found


def _tensor(path: Path, key: str) -> Any:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.get_tensor(key)
