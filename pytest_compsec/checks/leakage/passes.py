"""Passes over given tokens, for canaries and snippets: nothing is decoded, no chat template."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from pytest_compsec.errors import MeasurementError
from pytest_compsec.generation.forward_passes import (
    in_batches,
    last_logits,
    not_numbers,
    positions_of,
)
from pytest_compsec.models.quiet import quiet

if TYPE_CHECKING:
    from pytest_compsec.models.loaded import LoadedModel


@dataclasses.dataclass(frozen=True)
class _Stem:
    """Tokens that several candidates begin with and differ in nothing but what follows, which is
    one token: ``common`` to the whole set, ``own`` after it, and each candidate's last token."""

    common: tuple[int, ...]
    own: tuple[int, ...]
    name: str
    places: list[int] = dataclasses.field(default_factory=list)
    last: list[int] = dataclasses.field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.common) + len(self.own)


def require_likelihoods(model: LoadedModel) -> None:
    """Raise MeasurementError for a model that another program runs."""
    model.module  # noqa: B018 (reading it raises)


def candidate_nlls(model: LoadedModel, sets: Sequence[Sequence[str]]) -> list[tuple[float, ...]]:
    """For each set of texts, the negative log-likelihood (nats) of each text given the tokens that
    all of its set begin with: what orders the texts of a set, and nothing else.

    Candidates that differ in their last token only share one pass, so that ten thousand PINs take
    a thousand. Raises MeasurementError for a model whose likelihoods are not at hand, for a text
    that is too long for it, and for numbers that are none.
    """
    module, tokenizer = model.module, model.tokenizer
    limit = positions_of(module)
    stems: list[_Stem] = []
    for number, texts in enumerate(sets):
        rows = [list(row) for row in tokenizer(list(texts))["input_ids"]]
        stems += _stems(rows, _start(tokenizer), f"canary {number}")
    for stem in stems:
        if limit is not None and stem.length + 1 > limit:
            raise MeasurementError(f"{stem.name} is longer than the model's {limit} positions")

    def work(batch: Sequence[int]) -> list[list[float]]:
        return _batch(module, [stems[index] for index in batch], model.device)

    with quiet():
        found = in_batches(
            work,
            module,
            lengths=[stem.length for stem in stems],
            kept=max(len(stem.own) for stem in stems) + 1,
            names=[stem.name for stem in stems],
            device=model.device,
            batch_size=None,
        )
    results = [[0.0] * len(texts) for texts in sets]
    numbers = {f"canary {number}": number for number in range(len(sets))}
    for stem, values in zip(stems, found, strict=True):
        for place, value in zip(stem.places, values, strict=True):
            results[numbers[stem.name]][place] = value
    return [tuple(row) for row in results]


def _stems(rows: Sequence[Sequence[int]], start: int | None, name: str) -> list[_Stem]:
    shortest = min(len(row) for row in rows)
    common = 0
    while common < shortest - 1 and len({row[common] for row in rows}) == 1:
        common += 1
    if common == 0:  # the first token already tells them apart
        if start is None:
            raise MeasurementError("the tokenizer has no token that begins a text")
        rows, common = [[start, *row] for row in rows], 1
    found: dict[tuple[int, ...], _Stem] = {}
    for place, row in enumerate(rows):
        own = tuple(row[common:-1])
        stem = found.setdefault(own, _Stem(tuple(row[:common]), own, name))
        stem.places.append(place)
        stem.last.append(row[-1])
    return list(found.values())


def _batch(module: Any, stems: Sequence[_Stem], device: str) -> list[list[float]]:
    keep = max(len(stem.own) for stem in stems) + 1
    found = []
    with torch.inference_mode():
        logits, _ = last_logits(module, [[*s.common, *s.own] for s in stems], keep, device)
        for row, stem in zip(logits, stems, strict=True):
            likely = torch.log_softmax(row[-(len(stem.own) + 1) :].float(), dim=-1)
            own = torch.tensor(stem.own, dtype=torch.long, device=likely.device)
            before = likely[:-1].gather(1, own[:, None]).sum()
            last = likely[-1, torch.tensor(stem.last, device=likely.device)]
            values = [-float(value) for value in (before + last).tolist()]
            if any(math.isnan(value) for value in values):
                raise MeasurementError(not_numbers(stem.name))
            found.append(values)
    return found


def verbatim_tokens(
    model: LoadedModel, given: Sequence[Sequence[int]], following: Sequence[Sequence[int]]
) -> list[int]:
    """For each row how many tokens of ``following`` the greedy continuation of ``given`` has in
    common with it from its start on.

    One pass over the true tokens: up to the first token that is not the likeliest, greedy decoding
    has read the same. Raises MeasurementError as :func:`candidate_nlls`.
    """
    module = model.module
    limit = positions_of(module)
    lengths = [len(first) + len(second) for first, second in zip(given, following, strict=True)]
    for place, length in enumerate(lengths):
        if limit is not None and length > limit:
            raise MeasurementError(
                f"snippet {place} has {length} tokens, more than the model's {limit} positions"
            )

    def work(batch: Sequence[int]) -> list[int]:
        longest = max(len(following[place]) for place in batch)
        rows = [[*given[place], *following[place]] for place in batch]
        with torch.inference_mode():
            logits, ids = last_logits(module, rows, longest + 1, model.device)
            # The logits at a position speak of the token after it.
            best = logits[:, :-1].max(dim=-1)
            same = (best.indices == ids[:, -longest:].to(best.indices.device)).tolist()
            numbers = (~torch.isnan(best.values)).tolist()
        found = []
        for row, numeric, place in zip(same, numbers, batch, strict=True):
            own = slice(longest - len(following[place]), None)  # before it there is padding
            if not all(numeric[own]):
                raise MeasurementError(not_numbers(f"snippet {place}"))
            found.append(_leading(row[own]))
        return found

    with quiet():
        return in_batches(
            work,
            module,
            lengths=lengths,
            kept=max(len(row) for row in following) + 1,
            names=[f"snippet {place}" for place in range(len(lengths))],
            device=model.device,
            batch_size=None,
        )


def _leading(same: Sequence[bool]) -> int:
    return next((place for place, one in enumerate(same) if not one), len(same))


def _start(tokenizer: Any) -> int | None:
    for name in ("bos_token_id", "eos_token_id"):
        found = getattr(tokenizer, name, None)
        if found is not None:
            return int(found)
    return None
