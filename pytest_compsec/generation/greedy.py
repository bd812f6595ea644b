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
from pytest_compsec.generation.running import (
    NOT_FINITE,
    Running,
    keep_rows,
    likeliest,
    read,
    started,
)
from pytest_compsec.generation.running import left_padded as left_padded

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
        if can_step(module):
            running = started(module, rows, max_new_tokens, device, list(range(len(rows))))
            produced: list[list[int]] = [[] for _ in rows]
            if finish(module, running, produced, max_new_tokens, end_tokens, on_first):
                return produced
        return _by_library(module, rows, max_new_tokens, end_tokens, device, on_first)


def finish(
    module: Any,
    running: Running,
    produced: list[list[int]],
    max_new_tokens: int,
    end_tokens: frozenset[int],
    on_first: OnFirst | None = None,
) -> bool:
    """Read and append to ``produced`` until no row of the batch is unfinished; False, and nothing
    done, when the module keeps its state in a place of its own."""
    first = True
    while True:
        logits = read(module, running)
        if logits is None:
            return False
        logits = logits[:, -1]
        if first and on_first is not None:
            on_first(logits.to(torch.float32, copy=True))
        first = False
        best = likeliest(logits)
        del logits  # those of every prompt position, where logits_to_keep is not known
        tokens = best.tolist()

        for row, token in zip(running.places, tokens, strict=True):
            if is_finished(produced[row], max_new_tokens, end_tokens):
                continue
            if token == NOT_FINITE:
                raise NotFiniteError(row)
            produced[row].append(token)
        going = [
            place
            for place, row in enumerate(running.places)
            if not is_finished(produced[row], max_new_tokens, end_tokens)
        ]
        if not going:
            return True

        # A finished row may still be in the batch, whatever its logits are by now.
        running.ids = best.clamp(min=0)[:, None].to(running.mask.device)
        running.positions = running.positions[:, -1:] + 1
        idle = len(running.places) - len(going)
        if idle * _COMPACT_ONE_IN >= len(running.places) and _can_compact(running.cache):
            keep_rows(running, going)


def is_finished(tokens: Sequence[int], max_new_tokens: int, end_tokens: frozenset[int]) -> bool:
    """Whether an answer is complete: its end token is there, or no more may come."""
    return len(tokens) >= max_new_tokens or (bool(tokens) and tokens[-1] in end_tokens)


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


def can_step(module: Any) -> bool:
    """Whether a module takes and gives a cache of keys and values, as usual decoders do."""
    accepted = inspect.signature(module.forward).parameters
    return {"input_ids", "attention_mask", "past_key_values", "use_cache"} <= set(accepted)


def _can_compact(cache: Any) -> bool:
    from transformers import DynamicCache

    # A cache class of a model's own may hold tensors that reorder_cache does not know of.
    return type(cache) is DynamicCache
