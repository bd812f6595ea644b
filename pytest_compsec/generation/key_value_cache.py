"""Choosing rows and columns of the keys and values that a model has read.

Only caches of full attention can be cut: there a column is what the model knows of one token. A
sliding window has forgotten tokens that a shorter text would still need, and a recurrent state is
of all tokens together.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


def keeps_columns(cache: Any) -> bool:
    """Whether :func:`keep_columns` can be asked of a cache."""
    return type(cache) is DynamicCache and all(
        type(layer) is DynamicLayer for layer in cache.layers
    )


def keep_columns(cache: Any, rows: torch.Tensor, columns: torch.Tensor) -> None:
    """Keep ``rows`` (``[kept rows]`` of int64) and of each its own ``columns`` (``[kept rows, kept
    columns]`` of int64), in this order; either may be named several times."""
    for layer in cache.layers:
        if layer.get_seq_length() > 0:  # Layers that share another's keys have none of their own.
            layer.keys = _chosen(layer.keys, rows, columns)
            layer.values = _chosen(layer.values, rows, columns)


def _chosen(old: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    # The layers of one model may be on several devices.
    chosen = old[rows.to(old.device)[:, None], :, columns.to(old.device)]
    return chosen.transpose(1, 2).contiguous()
