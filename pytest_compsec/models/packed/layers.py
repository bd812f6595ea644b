"""The packed layers of a checkpoint, from the headers of its files alone.

What the config claims (bits, group size) is held against the shapes that are stored, layer by
layer: they determine each other, so a config of another checkpoint does not pass.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path

from pytest_compsec.errors import LoadError, NotCompressedError
from pytest_compsec.models.completeness import some
from pytest_compsec.models.headers import StoredTensor, read_headers, weight_files
from pytest_compsec.models.packed.integers import WORD
from pytest_compsec.models.packed.settings import PackedSettings

PARTS = ("qweight", "qzeros", "scales", "g_idx")
_FLOATS = ("F16", "BF16", "F32")
_TYPES = {"qweight": ("I32",), "qzeros": ("I32",), "scales": _FLOATS, "g_idx": ("I32", "I64")}
_AGAIN = "Fetch or save the model again, complete, then run `compsec pin`"
_IN_A_BLOCK = re.compile(r"(^|\.)\d+\.")


@dataclasses.dataclass(frozen=True)
class PackedLayer:
    """One packed linear layer. ``group_size`` is in inputs (never -1), ``stored_bytes`` what all
    its parts take in the file."""

    name: str
    bits: int
    inputs: int
    outputs: int
    group_size: int
    groups: int
    has_group_index: bool
    stored_bytes: int
    file: str

    @property
    def elements(self) -> int:
        return self.inputs * self.outputs


@dataclasses.dataclass(frozen=True)
class Inventory:
    """Packed layers by name, all other tensors by name, and the file of every stored tensor."""

    layers: Mapping[str, PackedLayer]
    others: Mapping[str, StoredTensor]
    files: Mapping[str, str]

    @property
    def dense_elements(self) -> int:
        """Elements of the model when every layer is unpacked."""
        packed = sum(layer.elements for layer in self.layers.values())
        return packed + sum(tensor.elements for tensor in self.others.values())

    @property
    def bits(self) -> float | None:
        """Mean bits per weight over the packed layers and the matrices that the same blocks of the
        model hold in full precision; scales, zero points and group indices included."""
        layers = [layer for name, layer in self.layers.items() if _IN_A_BLOCK.search(name)]
        dense = [
            tensor
            for name, tensor in self.others.items()
            if len(tensor.shape) >= 2 and _IN_A_BLOCK.search(name)
        ]
        stored = sum(layer.stored_bytes for layer in layers) + sum(t.bytes for t in dense)
        weights = sum(layer.elements for layer in layers) + sum(t.elements for t in dense)
        return 8.0 * stored / weights if weights else None


def inventory(directory: Path, settings: PackedSettings) -> Inventory:
    """What the directory's weight files hold. Raises LoadError naming file, tensor and field when
    a part is missing or does not fit what the config says, NotCompressedError when a layer is left
    in full precision, without the config saying so, that is packed elsewhere in the model."""
    stored = read_headers(directory, weight_files(directory))
    names = [name[: -len(".qweight")] for name in stored if name.endswith(".qweight")]
    layers = {name: _layer(name, stored, settings) for name in names}
    parts = {f"{name}.{part}" for name in names for part in PARTS}
    others = {name: tensor for name, tensor in stored.items() if name not in parts}
    for name, tensor in others.items():
        owner, _, part = name.rpartition(".")
        if part in ("qzeros", "g_idx"):
            raise LoadError(f"{tensor.file}: {name} is there, but {owner}.qweight is not. {_AGAIN}")
        if part == "weight" and owner in layers:
            raise LoadError(
                f"{tensor.file}: {name} is there beside {owner}.qweight, and which of the two is "
                f"the model cannot be told. {_AGAIN}"
            )
    _check_nothing_left(layers, others, settings)
    files = {name: tensor.file for name, tensor in stored.items()}
    return Inventory(layers=layers, others=others, files=files)


def _layer(name: str, stored: Mapping[str, StoredTensor], settings: PackedSettings) -> PackedLayer:
    bits, group_size = settings.of_layer(name)
    parts = {part: stored[f"{name}.{part}"] for part in PARTS if f"{name}.{part}" in stored}
    file = str(parts["qweight"].file)
    needed = ["qweight", "qzeros", "scales"]
    if settings.method == "gptq" and settings.sorted_inputs:
        needed.append("g_idx")
    for part in needed:
        if part not in parts:
            raise LoadError(f"{file}: {name}.{part} is missing beside {name}.qweight. {_AGAIN}")
    if settings.method == "awq":
        parts.pop("g_idx", None)
    for part, tensor in parts.items():
        dimensions = 1 if part == "g_idx" else 2
        if tensor.dtype not in _TYPES[part] or len(tensor.shape) != dimensions:
            raise LoadError(
                f"{tensor.file}: {name}.{part} is {tensor.dtype} of {len(tensor.shape)} "
                f"dimension(s); {' or '.join(_TYPES[part])} of {dimensions} is read. {_AGAIN}"
            )
    inputs, outputs = _shape(name, parts, settings, bits)
    size = inputs if group_size == -1 else group_size
    groups = math.ceil(inputs / size)
    for part in ("scales", "qzeros"):
        if parts[part].shape[0] != groups:
            raise LoadError(
                f"{settings.where}group_size is {group_size}, so {name} with {inputs} inputs has "
                f"{groups} group(s), but {parts[part].file}: {name}.{part} has "
                f"{parts[part].shape[0]}. Correct the config, or fetch the model again"
            )
    return PackedLayer(
        name=name,
        bits=bits,
        inputs=inputs,
        outputs=outputs,
        group_size=size,
        groups=groups,
        has_group_index="g_idx" in parts,
        stored_bytes=sum(tensor.bytes for tensor in parts.values()),
        file=file,
    )


def _shape(
    name: str, parts: Mapping[str, StoredTensor], settings: PackedSettings, bits: int
) -> tuple[int, int]:
    """Inputs and outputs, where all parts agree on them with the bits that the config says."""
    qweight, outputs = parts["qweight"].shape, parts["scales"].shape[1]
    found = {"qzeros": (parts["qzeros"].shape[1] * WORD, outputs * bits)}
    if settings.method == "gptq":
        inputs = qweight[0] * WORD // bits
        found["qweight"] = (qweight[1], outputs)
        if "g_idx" in parts:
            found["g_idx"] = (parts["g_idx"].shape[0] * bits, qweight[0] * WORD)
        elif inputs * bits != qweight[0] * WORD:
            found["qweight"] = (inputs * bits, qweight[0] * WORD)
    else:
        inputs = qweight[0]
        found["qweight"] = (qweight[1] * WORD, outputs * bits)
    for part, (one, other) in found.items():
        if one != other:
            shapes = ", ".join(f"{key} {list(tensor.shape)}" for key, tensor in parts.items())
            raise LoadError(
                f"{settings.where}bits is {bits}, but the shapes in {parts[part].file} do not fit "
                f"that: {name} has {shapes}. Correct the config, or fetch the model again"
            )
    return inputs, outputs


def _check_nothing_left(
    layers: Mapping[str, PackedLayer],
    others: Mapping[str, StoredTensor],
    settings: PackedSettings,
) -> None:
    """A layer that has packed namesakes in other blocks of the model must be packed itself."""
    packed = {re.sub(r"\d+", "#", name) for name in layers}
    left = [
        name
        for name, tensor in others.items()
        if name.endswith(".weight")
        and len(tensor.shape) == 2
        and re.sub(r"\d+", "#", name.removesuffix(".weight")) in packed
        and not settings.says_dense(name.removesuffix(".weight"))
    ]
    if left:
        raise NotCompressedError(
            f"{others[left[0]].file}: saved after quantization but still full precision: "
            f"{some(left)}. The same layers are packed elsewhere in the model, and "
            f"{settings.where}dynamic or modules_to_not_convert does not leave them out. "
            "Save the quantized module itself"
        )
