"""The grids of round-to-nearest that its tests go through."""

from __future__ import annotations

from typing import Any

import torch

FLOATS = [torch.float32, torch.bfloat16, torch.float16]
SYMMETRIC: list[dict[str, Any]] = [
    {"bits": 8},
    {"bits": 4},
    {"bits": 3},
    {"bits": 2},
    {"levels": "ternary"},
    {"levels": "binary"},
]
ASYMMETRIC: list[dict[str, Any]] = [{"bits": bits, "symmetric": False} for bits in (8, 4, 3, 2)]


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def values_per_group(weight: torch.Tensor, group_size: int | None) -> int:
    """Counted by hand: the most different values in any group of any row."""
    size = group_size or weight.shape[1]
    rows: list[list[float]] = weight.tolist()
    return max(len(set(row[i : i + size])) for row in rows for i in range(0, len(row), size))


def label(options: dict[str, Any]) -> str:
    return "-".join(str(value) for value in options.values())
