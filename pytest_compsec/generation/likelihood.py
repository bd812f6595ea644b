"""How likely a model finds plain texts and continuations, without a chat template.

For perplexity, multiple choice and membership inference. Scores are negative log-likelihoods in
nats, one for each token that is scored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import MeasurementError
from pytest_compsec.models.quiet import quiet

if TYPE_CHECKING:
    from pytest_compsec.models.loaded import LoadedModel


def text_nlls(
    model: LoadedModel, texts: Sequence[str], *, most_tokens: int = 1024
) -> list[tuple[float, ...]]:
    """For each text the negative log-likelihood (nats) of each of its tokens but the first, given
    those before it; at most ``most_tokens`` of a text are read. Empty for a text of one token.

    A model that begins texts with a special token gets it, and then the first token counts too.
    A token that the model excludes (a logit of minus infinity) scores infinity.
    Raises MeasurementError for a model whose likelihoods are not at hand (a server, llama.cpp), and
    for logits that are NaN or infinite.
    """
    module, tokenizer = _parts(model)
    if not texts:
        return []
    ending = _ending(tokenizer)
    rows = [_without(ending, row)[:most_tokens] for row in tokenizer(list(texts))["input_ids"]]
    contexts = [row[:1] for row in rows]
    return _scored(module, contexts, [row[1:] for row in rows], model.device, "text")


def continuation_nlls(
    model: LoadedModel, contexts: Sequence[str], continuations: Sequence[str]
) -> list[tuple[float, ...]]:
    """For each pair the negative log-likelihood (nats) of each token of the continuation, given the
    context and the tokens before it. A continuation begins with its own space, where one belongs.

    Context and continuation are encoded together and split where the context's tokens end (as
    lm-evaluation-harness does), so that the tokens are those that the model would read; a token
    that reaches over that end is scored. Of a context that is too long for the model the beginning
    goes. Raises ValueError when there is not one continuation for each context, or one of them is
    empty; MeasurementError as :func:`text_nlls`, and for a continuation of which the tokenizer
    leaves nothing.
    """
    if len(contexts) != len(continuations):
        raise ValueError(f"{len(contexts)} contexts but {len(continuations)} continuations")
    module, tokenizer = _parts(model)
    before, after, ending = [], [], _ending(tokenizer)
    for context, continuation in zip(contexts, continuations, strict=True):
        first, second = _split(tokenizer, context, continuation, ending)
        before.append(first)
        after.append(second)
    return _scored(module, before, after, model.device, "continuation")


def _split(
    tokenizer: Any, context: str, continuation: str, ending: list[int]
) -> tuple[list[int], list[int]]:
    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    first = _without(ending, tokenizer(stripped)["input_ids"])
    if not first:  # an empty context, and a tokenizer without a first token
        first = [_start(tokenizer)]
        second = list(tokenizer(continuation, add_special_tokens=False)["input_ids"])
    else:
        whole = _without(ending, tokenizer(stripped + continuation)["input_ids"])
        split = 0
        # A token that reaches over the end of the context is the continuation's.
        while split < min(len(first), len(whole)) and first[split] == whole[split]:
            split += 1
        first, second = whole[:split] or [_start(tokenizer)], whole[split:]
    if not second:
        what = f"the continuation {continuation!r} has no token of its own"
        if continuation.strip():
            raise MeasurementError(f"{what} after {stripped[-40:]!r}: this model cannot read it")
        raise ValueError(what)
    return first, second


def _ending(tokenizer: Any) -> list[int]:
    """What a tokenizer puts after every text (an end of text). Kept, it would stand between a
    context and its continuation, and shift where the one ends and the other begins."""
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    for begin in range(len(whole) - len(plain) + 1):
        if plain and whole[begin : begin + len(plain)] == plain:
            return whole[begin + len(plain) :]
    return []


def _without(ending: list[int], row: Sequence[int]) -> list[int]:
    ids = list(row)
    return ids[: -len(ending)] if ending and ids[-len(ending) :] == ending else ids


def _start(tokenizer: Any) -> int:
    for name in ("bos_token_id", "eos_token_id"):
        found = getattr(tokenizer, name, None)
        if found is not None:
            return int(found)
    raise MeasurementError("the tokenizer has no token that begins a text")


def _parts(model: LoadedModel) -> tuple[Any, Any]:
    """Module and tokenizer. Reading ``module`` raises MeasurementError where there is none."""
    return model.module, model.tokenizer


def _require_known(module: Any, rows: Sequence[Sequence[int]]) -> None:
    """Raise MeasurementError for a token that the model has no vector for: on the CPU that is an
    error without words, and on a GPU it ends everything that runs there."""
    embedding = module.get_input_embeddings() if hasattr(module, "get_input_embeddings") else None
    known = getattr(embedding, "num_embeddings", None)
    largest = max((max(row) for row in rows if row), default=-1)
    if isinstance(known, int) and largest >= known:
        raise MeasurementError(
            f"the tokenizer gives the token {largest}, and the model has vectors for {known} only: "
            "they do not belong together. Save the model with its own tokenizer, or resize its "
            "embedding"
        )


def _scored(
    module: Any,
    before: Sequence[Sequence[int]],
    after: Sequence[Sequence[int]],
    device: str,
    what: str,
) -> list[tuple[float, ...]]:
    from pytest_compsec.generation.forward_passes import (
        batch_nlls,
        in_batches,
        not_numbers,
        positions_of,
    )

    _require_known(module, [*before, *after])
    limit = positions_of(module)
    if limit is not None:
        after = [row[: limit - 1] for row in after]
        before = [
            row[-(limit - len(rest)) :] if len(row) + len(rest) > limit else row
            for row, rest in zip(before, after, strict=True)
        ]
    scored = [place for place, row in enumerate(after) if row]

    def work(batch: Sequence[int]) -> list[tuple[float, ...]]:
        places = [scored[index] for index in batch]
        return batch_nlls(
            module, [before[place] for place in places], [after[place] for place in places], device
        )

    with quiet():
        found = in_batches(
            work,
            module,
            lengths=[len(before[place]) + len(after[place]) for place in scored],
            kept=max((len(after[place]) for place in scored), default=0) + 1,
            names=[f"{what} {place}" for place in scored],
            device=device,
            batch_size=None,
        )
    results: list[tuple[float, ...]] = [() for _ in after]
    for place, nlls in zip(scored, found, strict=True):
        if any(math.isnan(value) for value in nlls):
            raise MeasurementError(not_numbers(f"{what} {place}"))
        results[place] = nlls
    return results
