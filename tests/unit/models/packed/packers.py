"""Packers written from the formats' descriptions, number by number, sharing no code with the
package: known integers go in, and must come back."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def random_codes(seed: int, rows: int, columns: int, bits: int) -> list[list[int]]:
    source = random.Random(seed)
    return [[source.randrange(2**bits) for _ in range(columns)] for _ in range(rows)]


def words_of(codes: Sequence[int], bits: int) -> list[int]:
    """One stream of bits, the first code lowest, cut into signed 32-bit words."""
    stream = 0
    for place, code in enumerate(codes):
        stream |= code << (place * bits)
    assert len(codes) * bits % 32 == 0
    words = [(stream >> shift) & 0xFFFFFFFF for shift in range(0, len(codes) * bits, 32)]
    return [word - 2**32 if word >= 2**31 else word for word in words]


def pack_columns(codes: Sequence[Sequence[int]], bits: int) -> torch.Tensor:
    """Each row packed on its own (as ``qzeros`` are)."""
    return torch.tensor([words_of(row, bits) for row in codes], dtype=torch.int32)


def pack_rows(codes: Sequence[Sequence[int]], bits: int) -> torch.Tensor:
    """Each column packed on its own (as ``qweight`` is)."""
    columns = [words_of(column, bits) for column in zip(*codes, strict=True)]
    return torch.tensor(columns, dtype=torch.int32).T.contiguous()


def pack_awq(codes: Sequence[Sequence[int]]) -> torch.Tensor:
    """Eight neighbours of a row in a word, in AWQ's order."""
    rows = [
        [row[start + place] for start in range(0, len(row), 8) for place in AWQ_ORDER]
        for row in codes
    ]
    return pack_columns(rows, 4)


@dataclasses.dataclass(frozen=True)
class KnownLayer:
    """One layer whose integers are known: ``parts`` as a file holds them, ``weight`` (outputs,
    inputs) in float64, computed one number at a time."""

    parts: dict[str, torch.Tensor]
    weight: torch.Tensor


def known_layer(
    seed: int,
    inputs: int,
    outputs: int,
    *,
    bits: int,
    group_size: int,
    method: str = "gptq",
    less_one: bool = True,
    shuffled: bool = False,
) -> KnownLayer:
    """Random codes, scales and zero points; ``shuffled`` gives the inputs groups out of order."""
    source = random.Random(seed)
    size = inputs if group_size == -1 else group_size
    groups = [i // size for i in range(inputs)]
    if shuffled:
        source.shuffle(groups)
    count = max(groups) + 1
    codes = random_codes(seed + 1, inputs, outputs, bits)
    # Version 1 has no place for a zero point of 0.
    lowest = 1 if less_one and method == "gptq" else 0
    zeros = [[source.randrange(lowest, 2**bits) for _ in range(outputs)] for _ in range(count)]
    scales = torch.tensor(
        [[source.uniform(0.001, 0.02) for _ in range(outputs)] for _ in range(count)]
    ).half()
    weight = [
        [float(scales[groups[i], j]) * (codes[i][j] - zeros[groups[i]][j]) for i in range(inputs)]
        for j in range(outputs)
    ]
    if method == "awq":
        parts = {"qweight": pack_awq(codes), "qzeros": pack_awq(zeros), "scales": scales}
    else:
        stored = [[zero - 1 for zero in row] for row in zeros] if less_one else zeros
        parts = {
            "qweight": pack_rows(codes, bits),
            "qzeros": pack_columns(stored, bits),
            "scales": scales,
            "g_idx": torch.tensor(groups, dtype=torch.int32),
        }
    return KnownLayer(parts, torch.tensor(weight, dtype=torch.float64))


def pack_checkpoint(
    directory: Path,
    *,
    quantization: dict[str, Any],
    names: tuple[str, ...] = ("_proj",),
    **how: Any,
) -> dict[str, torch.Tensor]:
    """Replace the linear layers of a model directory by known packed ones; returns their weights
    by name. ``names``: ends of the layers' names."""
    from safetensors.torch import load_file, save_file

    path = directory / "model.safetensors"
    tensors, expected = load_file(path), {}
    for seed, key in enumerate(sorted(tensors)):
        name = key.removesuffix(".weight")
        if key.endswith(".weight") and name.endswith(names):
            outputs, inputs = tensors.pop(key).shape
            layer = known_layer(seed, inputs, outputs, **how)
            tensors |= {f"{name}.{part}": tensor for part, tensor in layer.parts.items()}
            expected[key] = layer.weight
    save_file(tensors, path, metadata={"format": "pt"})
    edit_json(directory / "config.json", quantization_config=quantization)
    return expected


def edit_json(path: Path, **changes: Any) -> None:
    """Set the keys of a JSON object; None removes one."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
