"""A batch at work: its rows, padded, and what the model has read of them.

Left padding, so that all rows end in one column, and a cache of keys and values that rows may
leave.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import torch

#: Stands for "the logits of this row are not numbers" among the token ids of a step.
NOT_FINITE = -1


def left_padded(
    rows: Sequence[Sequence[int]], device: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(token ids, attention mask, position ids) of rows padded on the left, each
    ``[len(rows), longest row]`` of int64. Positions of padding are 0."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return ids.to(device), mask.to(device), positions.to(device)


@dataclasses.dataclass
class Running:
    """The rows of a batch between two steps.

    ``ids`` and ``positions`` (``[rows, new columns]`` of int64) are what the module reads next,
    ``mask`` (``[rows, all columns that will ever be]``) is 0 at padding, ``cache`` holds what it
    has read, ``seen`` columns of it, and ``places`` says which row of the result each row is.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    cache: Any
    seen: int
    places: list[int]


def started(
    module: Any,
    rows: Sequence[Sequence[int]],
    new_columns: int,
    device: str,
    places: list[int],
) -> Running:
    """Rows of which nothing is read yet, with room for ``new_columns`` more tokens each."""
    from transformers import DynamicCache

    ids, mask, positions = left_padded(rows, device)
    # Room for the mask of all steps at once; a step reads a slice of it.
    mask = torch.nn.functional.pad(mask, (0, new_columns), value=1)
    return Running(ids, positions, mask, DynamicCache(config=module.config), 0, places)


def read(module: Any, running: Running, logits_to_keep: int = 1) -> torch.Tensor | None:
    """Let the module read ``ids``; its logits at the last ``logits_to_keep`` columns (all of them
    where it knows no such thing), None when it keeps its state in a place of its own."""
    accepted = inspect.signature(module.forward).parameters
    width = running.seen + running.ids.shape[1]
    inputs: dict[str, Any] = {
        "input_ids": running.ids,
        "attention_mask": running.mask[:, :width],
        "past_key_values": running.cache,
        "use_cache": True,
    }
    if "position_ids" in accepted:
        inputs["position_ids"] = running.positions
    if "logits_to_keep" in accepted:
        inputs["logits_to_keep"] = logits_to_keep
    output = module(**inputs)
    running.cache, running.seen = getattr(output, "past_key_values", None), width
    logits: torch.Tensor = output.logits
    return None if running.cache is None else logits


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """The largest logit's token along the last dimension, -1 where that is no finite number."""
    best = logits.argmax(dim=-1)
    largest = logits.gather(-1, best[..., None])[..., 0]
    return torch.where(torch.isfinite(largest), best, NOT_FINITE)


def keep_rows(running: Running, going: Sequence[int]) -> None:
    """Take all other rows out of the batch."""
    keep = torch.tensor(going, device=running.ids.device)
    # Not batch_select_indices: layers that mix attention with a recurrent state inherit one that
    # forgets the state, and purely recurrent layers have none.
    running.cache.reorder_cache(keep)
    running.ids, running.positions = running.ids[keep], running.positions[keep]
    running.mask = running.mask[keep]
    running.places = [running.places[place] for place in going]
