"""Refusal log-odds of a module, hundreds of times on the same prompts.

For each prompt ``ln(p / (1 - p))``, in nats, where p is the probability that the first token of
the answer is one that opens a refusal. The first token alone, because it needs one forward pass,
no answer to force on the model and no judge, and because it is where a refusal of these models is
decided (Qi et al. 2024, "Safety alignment should be made more than just a few tokens deep", arXiv
2406.05946). It is a signal to rank parts of a model by, never a verdict.

A :class:`Probe` holds the prompts encoded and padded once. Not clipped, and computed in float32
from the logits of the last position, the only ones asked for.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import torch

from pytest_compsec.errors import MeasurementError
from pytest_compsec.generation.batching import (
    automatic_fit,
    is_out_of_memory,
    plan_batches,
    release_memory,
    row_limit,
)
from pytest_compsec.generation.chat import encode, render
from pytest_compsec.generation.greedy import left_padded
from pytest_compsec.localization.subject import Subject


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Inputs of one forward pass, each ``[rows, width]``; ``places`` of the rows among the prompts,
    ``mask`` is 1 at tokens and 0 at padding, which is on the left."""

    places: tuple[int, ...]
    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
    """Prompts ready for any number of passes, and the tokens that open a refusal."""

    batches: tuple[Batch, ...]
    openings: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]

    @property
    def prompts(self) -> int:
        return len(self.rows)


def make_probe(
    subject: Subject,
    prompts: Sequence[str],
    openings: Sequence[int],
    *,
    batch_size: int | None = None,
) -> Probe:
    """Encode ``prompts`` in the subject's chat template. ``batch_size`` None: as memory allows.

    Raises ValueError without openings, LoadError when the chat template cannot be used,
    MeasurementError for a prompt that is longer than the model's positions.
    """
    if not openings:
        raise ValueError("openings must hold at least one token id")
    rows = encoded(subject, prompts)
    lengths = [len(row) for row in rows]
    if batch_size is None:
        fits = automatic_fit(subject.module, subject.device, 0)
        plan = plan_batches(lengths, row_limit(subject.device), fits)
    else:
        plan = plan_batches(lengths, batch_size)
    batches = tuple(
        Batch(tuple(places), *_tensors([rows[place] for place in places], subject.device))
        for places in plan
    )
    return Probe(batches, tuple(sorted(set(openings))), tuple(map(tuple, rows)))


def encoded(subject: Subject, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of the rendered prompts; errors as of :func:`make_probe`."""
    rows = encode(
        subject.tokenizer,
        [
            render(subject.tokenizer, prompt, subject.system, subject.chat_template_kwargs)
            for prompt in prompts
        ],
    )
    config: Any = getattr(subject.module, "config", None)
    limit = getattr(config, "max_position_embeddings", None)
    for place, row in enumerate(rows):
        if isinstance(limit, int) and len(row) >= limit:
            raise MeasurementError(
                f"prompt {place} is {len(row)} tokens long with its chat template; the model has "
                f"{limit} positions. Shorten it or leave it out"
            )
    return rows


def refusal_log_odds(module: Any, probe: Probe) -> torch.Tensor:
    """One number for each prompt, float64 on the CPU; one forward pass a batch.

    Raises MeasurementError for logits that are not numbers and when memory does not suffice.
    """
    values = torch.empty(probe.prompts, dtype=torch.float64)
    for batch in probe.batches:
        values[list(batch.places)] = batch_log_odds(module, batch, probe.openings)
    return values


def batch_log_odds(module: Any, batch: Batch, openings: Sequence[int]) -> torch.Tensor:
    """As :func:`refusal_log_odds`, of one batch, in the order of its rows."""
    last = last_logits(module, batch)
    if not 0 <= min(openings) <= max(openings) < last.shape[-1]:
        raise ValueError(
            f"openings hold ids from {min(openings)} to {max(openings)}; the model has "
            f"{last.shape[-1]} tokens"
        )
    chosen = torch.tensor(list(openings), device=last.device)
    inside = torch.logsumexp(last[:, chosen], dim=-1)
    outside = torch.logsumexp(last.index_fill(-1, chosen, -torch.inf), dim=-1)
    odds = (inside - outside).double().cpu()
    if not bool(torch.isfinite(odds).all()):
        raise MeasurementError(
            "the model gave NaN or infinite logits, so nothing can be said of its refusals. "
            "float16 overflows in some models (set `dtype: bfloat16`); otherwise the weights are "
            "damaged"
        )
    return odds


def last_logits(module: Any, batch: Batch) -> torch.Tensor:
    """``[rows, vocabulary]`` of float32: what each row's next token would be."""
    accepted = inspect.signature(module.forward).parameters
    inputs: dict[str, Any] = {"input_ids": batch.ids, "attention_mask": batch.mask}
    offered = {"position_ids": batch.positions, "use_cache": False, "logits_to_keep": 1}
    inputs.update({name: value for name, value in offered.items() if name in accepted})
    try:
        logits: torch.Tensor = module(**inputs).logits[:, -1].float()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        rows, width = batch.ids.shape
        release_memory()
        raise MeasurementError(
            f"not enough memory for {rows} prompts of {width} tokens at once. Set a smaller "
            "batch_size, or free memory"
        ) from error
    return logits


def _tensors(
    rows: Sequence[Sequence[int]], device: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return left_padded(rows, device)
