"""Which weights go: the smallest scores of a matrix's rows, or of every four.

Scores have shape (output channels, inputs) and are not negative. Of equal scores the first goes, so
that the result is the same everywhere.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def pruned_count(share: float, total: int) -> int:
    """``ceil(share × total)``: at least the share that a recipe promises."""
    # Rounded first: 0.07 × 100 is 7.000000000000001 in floats, and means 7.
    return math.ceil(round(share * total, 6))


def smallest_of_rows(scores: torch.Tensor, share: float) -> torch.Tensor:
    """Mask of the ``ceil(share × inputs)`` smallest scores of each row."""
    import torch

    order = scores.argsort(dim=1, stable=True)
    mask = torch.zeros_like(scores, dtype=torch.bool)
    return mask.scatter_(1, order[:, : pruned_count(share, scores.shape[1])], True)


def two_smallest_of_four(scores: torch.Tensor) -> torch.Tensor:
    """Mask of the two smallest scores of every four consecutive inputs, whose number must be a
    multiple of four."""
    import torch

    fours = scores.reshape(scores.shape[0], -1, 4)
    mask = torch.zeros_like(fours, dtype=torch.bool)
    return mask.scatter_(2, fours.argsort(dim=2, stable=True)[..., :2], True).flatten(1)
