"""Greedy decoding of one padded batch, in which finished rows do not hold the others up.

Plain greedy search: at every step the token with the largest logit, nothing else. Penalties,
suppressed tokens, samplers and beams of a checkpoint's ``generation_config`` are left out on
purpose: they would blur the comparison of two forms of one model, and every value of them would
be one more thing to pin. The end tokens of ``generation_config`` are honoured.

The result is, token for token, what ``module.generate(do_sample=False)`` gives for the same
padded batch in float32, up to ties between logits.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pytest_compsec.errors import MeasurementError

#: Stands for "the logits of this row are not numbers" among the token ids of a step.
_NOT_FINITE = -1

#: Rows are taken out of the running batch when at least one in this many has finished: it costs
#: one copy of the key-value cache, about what a step costs anyway.
_COMPACT_ONE_IN = 16


OnFirst = Callable[[torch.Tensor], None]


class NotFiniteError(MeasurementError):
    """The module gave NaN or infinite logits; ``row`` is the row of the batch."""

    def __init__(self, row: int) -> None:
        self.row = row
        super().__init__("the model gave NaN or infinite logits")


def greedy_batch(
    module: Any,
    rows: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end_tokens: frozenset[int],
    device: str,
    on_first: OnFirst | None = None,
) -> list[list[int]]:
    """The new tokens of every row (prompt token ids, none empty), its end token included.

    ``on_first`` is shown the logits of the first step, ``[len(rows), vocabulary]`` of float32.
    Raises NotFiniteError when a row's logits are not finite, and whatever the module raises
    (out-of-memory errors among it).
    """
    if max_new_tokens < 1:
        return [[] for _ in rows]
    with torch.inference_mode():
        if _can_step(module):
            return _step_by_step(module, rows, max_new_tokens, end_tokens, device, on_first)
        return _by_library(module, rows, max_new_tokens, end_tokens, device, on_first)


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


def _step_by_step(
    module: Any,
    rows: Sequence[Sequence[int]],
    max_new_tokens: int,
    end_tokens: frozenset[int],
    device: str,
    on_first: OnFirst | None,
) -> list[list[int]]:
    from transformers import DynamicCache

    accepted = inspect.signature(module.forward).parameters
    cache: Any = DynamicCache(config=module.config)
    ids, mask, positions = left_padded(rows, device)
    width = ids.shape[1]
    # Room for the mask of all steps at once; a step reads a slice of it.
    mask = torch.nn.functional.pad(mask, (0, max_new_tokens), value=1)

    produced: list[list[int]] = [[] for _ in rows]
    in_batch = list(range(len(rows)))  # which row of the result each row of the batch is
    finished = [False] * len(rows)
    for step in range(max_new_tokens):
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask[:, : width + step],
            "past_key_values": cache,
            "use_cache": True,
        }
        if "position_ids" in accepted:
            inputs["position_ids"] = positions
        if "logits_to_keep" in accepted:
            inputs["logits_to_keep"] = 1
        output = module(**inputs)
        if getattr(output, "past_key_values", None) is None:
            # The module keeps its state in a place of its own.
            return _by_library(module, rows, max_new_tokens, end_tokens, device, on_first)
        logits = output.logits[:, -1].to(torch.float32, copy=True)
        if step == 0 and on_first is not None:
            on_first(logits)
        cache = output.past_key_values
        del output  # the logits of every prompt position, where logits_to_keep is not known
        best = logits.argmax(dim=-1)
        is_number = torch.isfinite(logits.gather(1, best[:, None])[:, 0])
        tokens = torch.where(is_number, best, _NOT_FINITE).tolist()

        for row, token in zip(in_batch, tokens, strict=True):
            if finished[row]:
                continue
            if token == _NOT_FINITE:
                raise NotFiniteError(row)
            produced[row].append(token)
            finished[row] = token in end_tokens
        running = [place for place, row in enumerate(in_batch) if not finished[row]]
        if not running or step + 1 == max_new_tokens:
            break

        ids = best[:, None]
        positions = positions[:, -1:] + 1
        idle = len(in_batch) - len(running)
        if idle * _COMPACT_ONE_IN >= len(in_batch) and _can_compact(cache):
            keep = torch.tensor(running, device=device)
            # Not batch_select_indices: layers that mix attention with a recurrent state inherit
            # one that forgets the state, and purely recurrent layers have none.
            cache.reorder_cache(keep)
            ids, positions, mask = ids[keep], positions[keep], mask[keep]
            in_batch = [in_batch[place] for place in running]
    return produced


def _by_library(
    module: Any,
    rows: Sequence[Sequence[int]],
    max_new_tokens: int,
    end_tokens: frozenset[int],
    device: str,
    on_first: OnFirst | None,
) -> list[list[int]]:
    """The slow way for modules whose forward is not that of a usual decoder: the library's own
    loop, with the penalties of the checkpoint's generation config set to do nothing."""
    from transformers import GenerationConfig, LogitsProcessorList

    ids, mask, _ = left_padded(rows, device)
    make: Any = GenerationConfig  # its constructor has no types
    settings = make(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(end_tokens) or None,
        pad_token_id=min(end_tokens, default=0),
        repetition_penalty=1.0,
        encoder_repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        min_length=0,
        use_cache=True,
    )
    output = module.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=settings,
        logits_processor=LogitsProcessorList([_RefuseNotFinite(on_first)]),
    )
    return [up_to_end(new, end_tokens) for new in output[:, ids.shape[1] :].tolist()]


def up_to_end(tokens: Sequence[int], end_tokens: frozenset[int]) -> list[int]:
    """The tokens up to and including the first end token."""
    for place, token in enumerate(tokens):
        if token in end_tokens:
            return list(tokens[: place + 1])
    return list(tokens)


class _RefuseNotFinite:
    """A logits processor that changes nothing, shows the first step's logits and raises on
    logits that are not numbers."""

    def __init__(self, on_first: OnFirst | None) -> None:
        self._on_first = on_first

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self._on_first is not None:
            self._on_first(scores.to(torch.float32))
            self._on_first = None
        largest = scores.gather(1, scores.argmax(dim=-1)[:, None])[:, 0]
        wrong = torch.nonzero(~torch.isfinite(largest)).flatten().tolist()
        if wrong:
            raise NotFiniteError(wrong[0])
        return scores


def _can_step(module: Any) -> bool:
    accepted = inspect.signature(module.forward).parameters
    return {"input_ids", "attention_mask", "past_key_values", "use_cache"} <= set(accepted)


def _can_compact(cache: Any) -> bool:
    from transformers import DynamicCache

    # A cache class of a model's own may hold tensors that reorder_cache does not know of.
    return type(cache) is DynamicCache
