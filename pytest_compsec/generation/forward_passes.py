"""Forward passes over given tokens, in batches that fit: what every score of a text rests on.

Nothing is decoded here. A batch is one pass; the logits of positions that nobody asked for are not
computed, and the others become float32 a few positions at a time, so that a vocabulary of 128,000
does not decide how many rows fit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from pytest_compsec.errors import MeasurementError
from pytest_compsec.generation.batching import (
    free_memory,
    is_out_of_memory,
    memory_budget,
    memory_need,
    plan_batches,
    release_memory,
    row_limit,
)
from pytest_compsec.generation.greedy import left_padded

#: Logits that are float32 at one time: 4 million of them are 16 MB, twice while they are reduced.
_FLOAT32_ITEMS = 4_000_000

_Result = TypeVar("_Result")


def batch_nlls(
    module: Any,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    device: str,
) -> list[tuple[float, ...]]:
    """For each row the negative log-likelihood (nats) of each token of the answer, given the prompt
    and the tokens before it; NaN where the logits are none (:func:`not_numbers`), infinity for a
    token that the model excludes."""
    longest = max(len(answer) for answer in answers)
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    with torch.inference_mode():
        logits, ids = last_logits(module, rows, longest + 1, device)
        # The logits at a position speak of the token after it.
        logits, targets = logits[:, :-1], ids[:, -longest:].to(logits.device)
        nlls = torch.empty(targets.shape, dtype=torch.float32, device=logits.device)
        step = max(1, _FLOAT32_ITEMS // (logits.shape[0] * logits.shape[2]))
        for start in range(0, longest, step):
            part = logits[:, start : start + step].float()
            chosen = part.gather(2, targets[:, start : start + step, None])[..., 0]
            total = torch.logsumexp(part, dim=-1)
            # Where any logit of a position is NaN or infinite no token has a probability. One of
            # minus infinity is no fault: that token is excluded, and its score is infinite.
            known = torch.isfinite(total)
            nlls[:, start : start + step] = torch.where(known, total - chosen, torch.nan)
    # Rounding may leave a certain token at minus a millionth.
    table = nlls.clamp(min=0.0).tolist()
    return [tuple(row[longest - len(own) :]) for row, own in zip(table, answers, strict=True)]


def last_logits(
    module: Any, rows: Sequence[Sequence[int]], keep: int, device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits of the last ``keep`` positions in the module's own float type, token ids)."""
    accepted = inspect.signature(module.forward).parameters
    ids, mask, positions = left_padded(rows, device)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if "position_ids" in accepted:
        inputs["position_ids"] = positions
    if "use_cache" in accepted:
        inputs["use_cache"] = False
    if "logits_to_keep" in accepted:
        inputs["logits_to_keep"] = keep
    if hasattr(module, "eval"):
        module.eval()
    return module(**inputs).logits[:, -keep:], ids


def in_batches(
    work: Callable[[Sequence[int]], list[_Result]],
    module: Any,
    *,
    lengths: Sequence[int],
    kept: int,
    names: Sequence[str],
    device: str,
    batch_size: int | None,
) -> list[_Result]:
    """``work`` on every index of ``lengths``, in batches that are halved when memory does not
    suffice; results in the order of ``lengths``. ``kept``: positions of a row with logits."""
    if batch_size is None:
        pending = plan_batches(lengths, row_limit(device), _fit(module, device, kept))
    else:
        pending = plan_batches(lengths, batch_size)
    results: dict[int, _Result] = {}
    while pending:
        batch = pending[0]
        found: list[_Result] | None = None
        try:
            found = work(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise MeasurementError(
                    f"not enough memory on {device} to score {names[batch[0]]} alone: "
                    f"{lengths[batch[0]]} tokens. Free memory, choose a smaller dtype or another "
                    "device, or shorten the prompt"
                ) from error
        if found is None:
            # Outside of the except clause: the error's traceback holds the tensors.
            release_memory()
            left = [index for group in pending for index in group]
            plan = plan_batches([lengths[index] for index in left], len(batch) // 2)
            pending = [[left[place] for place in group] for group in plan]
            continue
        results.update(zip(batch, found, strict=True))
        pending = pending[1:]
    return [results[index] for index in range(len(lengths))]


def _fit(module: Any, device: str, kept: int) -> Callable[[int, int], bool]:
    """As :func:`batching.automatic_fit`, with room for the logits of ``kept`` positions a row."""
    budget = memory_budget(free_memory(device))
    if budget is None:
        return lambda rows, width: True
    need = memory_need(module)
    keeps = "logits_to_keep" in inspect.signature(module.forward).parameters

    def fits(rows: int, width: int) -> bool:
        logits = rows * need.per_row * (kept if keeps else width)
        return need.of_batch(rows, width, 0) + logits <= budget

    return fits


def positions_of(module: Any) -> int | None:
    config: Any = getattr(module, "config", None)
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    limit = getattr(text, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def not_numbers(name: str) -> str:
    return (
        f"the model gave NaN or infinite logits on {name}, so nothing can be said of it. float16 "
        "overflows in some models (set `dtype: bfloat16`); otherwise the weights are damaged"
    )
