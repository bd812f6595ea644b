"""Where the zeros of a weight matrix are: as many in every output channel, two of every
four, or whole channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def least_row_zeros(rows: torch.Tensor) -> float:
    """The share of zeros in the output channel of ``rows`` (output channels, inputs) that has
    fewest; 0.0 for a matrix without weights."""
    if rows.numel() == 0:
        return 0.0
    return 1.0 - int(rows.count_nonzero(1).max()) / rows.shape[1]


def is_two_four(rows: torch.Tensor) -> bool:
    """Whether every four consecutive inputs of an output channel of ``rows`` (output channels,
    inputs) hold at most two nonzero weights: 2:4 sparsity (Mishra et al. 2021, arXiv
    2104.08378)."""
    if rows.numel() == 0 or rows.shape[1] % 4:
        return False
    return int(rows.reshape(rows.shape[0], -1, 4).count_nonzero(2).max()) <= 2


def silent_channels(rows: torch.Tensor, bias: torch.Tensor | None) -> float:
    """The share of output channels of ``rows`` (output channels, inputs) that have no weight, and
    no entry in ``bias`` (output channels,), other than zero; 0.0 for a matrix without weights."""
    if rows.numel() == 0:
        return 0.0
    silent = rows.count_nonzero(1) == 0
    if bias is not None:
        silent = silent & (bias.detach() == 0)
    return int(silent.sum()) / rows.shape[0]
