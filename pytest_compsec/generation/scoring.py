"""What a model thinks of texts that it did not write: teacher-forced passes over given answers,
and the probabilities at the position where its own answer would begin.

Nothing is decoded here; see :mod:`pytest_compsec.generation.forward_passes`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pytest_compsec.errors import MeasurementError
from pytest_compsec.generation.chat import encode, render
from pytest_compsec.generation.forward_passes import (
    batch_nlls,
    in_batches,
    last_logits,
    not_numbers,
    positions_of,
)


@dataclasses.dataclass(frozen=True)
class AnswerScore:
    """``tokens`` were counted; ``mean_nll`` is their mean negative log-likelihood in nats."""

    tokens: int
    mean_nll: float

    @property
    def perplexity(self) -> float:
        """``exp(mean_nll)``; infinite where a token is impossible or the number too large."""
        return math.exp(self.mean_nll) if self.mean_nll < 700 else math.inf


def score_answers(
    module: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    device: str,
    system: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    skip_first: int = 0,
) -> list[AnswerScore | None]:
    """How likely ``module`` finds each answer after its rendered prompt.

    The first ``skip_first`` tokens of an answer are read but not counted: whether a model would
    begin this way at all (refusing or complying) is then not part of the score. None where no
    token is left to count. Raises as :func:`answer_nlls` does.
    """
    if skip_first < 0:
        raise ValueError(f"skip_first must be at least 0, not {skip_first}")
    scores: list[AnswerScore | None] = []
    for nlls in answer_nlls(
        module,
        tokenizer,
        prompts,
        answers,
        device=device,
        system=system,
        chat_template_kwargs=chat_template_kwargs,
        batch_size=batch_size,
    ):
        counted = nlls[skip_first:]
        mean = math.fsum(counted) / len(counted) if counted else None
        scores.append(None if mean is None else AnswerScore(len(counted), mean))
    return scores


def answer_nlls(
    module: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    device: str,
    system: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
) -> list[tuple[float, ...]]:
    """For each answer the negative log-likelihood (nats) of each of its tokens, given the
    rendered prompt and the tokens before it; empty for an answer without tokens.

    The answer is encoded by itself after the prompt, as generation did it; text that was
    generated may come back as other tokens than those that were chosen. An answer that is longer
    than the model's positions allow is scored up to there.

    Raises ValueError when there is not one answer for each prompt, LoadError when the chat
    template cannot be used, MeasurementError when a prompt alone is too long, logits are not
    numbers, or one row does not fit into memory.
    """
    if len(prompts) != len(answers):
        raise ValueError(f"{len(prompts)} prompts but {len(answers)} answers")
    if not prompts:
        return []
    before = encode(
        tokenizer, [render(tokenizer, prompt, system, chat_template_kwargs) for prompt in prompts]
    )
    after: list[list[int]] = [
        list(row) for row in tokenizer(list(answers), add_special_tokens=False)["input_ids"]
    ]
    limit = positions_of(module)
    _refuse_too_long(prompts, before, limit)
    if limit is not None:
        after = [row[: limit - len(prompt)] for prompt, row in zip(before, after, strict=True)]
    scored = [index for index, row in enumerate(after) if row]

    def work(batch: Sequence[int]) -> list[tuple[float, ...]]:
        places = [scored[place] for place in batch]
        return batch_nlls(
            module,
            [before[place] for place in places],
            [after[place] for place in places],
            device,
        )

    found = in_batches(
        work,
        module,
        lengths=[len(before[index]) + len(after[index]) for index in scored],
        kept=max((len(after[index]) for index in scored), default=0) + 1,
        names=[_named(prompts, index) for index in scored],
        device=device,
        batch_size=batch_size,
    )
    results: list[tuple[float, ...]] = [() for _ in prompts]
    for index, nlls in zip(scored, found, strict=True):
        if any(math.isnan(value) for value in nlls):
            raise MeasurementError(not_numbers(_named(prompts, index)))
        results[index] = nlls
    return results


def first_token_logprobs(
    module: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    device: str,
    system: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    token_groups: Mapping[str, Sequence[int]],
    batch_size: int | None = None,
) -> list[dict[str, float]]:
    """For each prompt and each named group of token ids, the log-probability (nats) that the
    first token of the answer is one of the group. An empty group has ``-inf``.

    One forward pass a batch. A token that a group names twice counts once. Raises ValueError for
    a token id that the model does not have, otherwise as :func:`answer_nlls` does.
    """
    if not prompts:
        return []
    groups = {
        name: torch.tensor(sorted(set(tokens)), dtype=torch.long, device=device)
        for name, tokens in token_groups.items()
    }
    rows = encode(
        tokenizer, [render(tokenizer, prompt, system, chat_template_kwargs) for prompt in prompts]
    )
    _refuse_too_long(prompts, rows, positions_of(module))

    def work(batch: Sequence[int]) -> list[dict[str, float]]:
        return _batch_groups(module, [rows[index] for index in batch], groups, device)

    found = in_batches(
        work,
        module,
        lengths=[len(row) for row in rows],
        kept=1,
        names=[_named(prompts, index) for index in range(len(prompts))],
        device=device,
        batch_size=batch_size,
    )
    for index, values in enumerate(found):
        if any(math.isnan(value) for value in values.values()):
            raise MeasurementError(not_numbers(_named(prompts, index)))
    return found


def _batch_groups(
    module: Any, rows: Sequence[Sequence[int]], groups: Mapping[str, torch.Tensor], device: str
) -> list[dict[str, float]]:
    with torch.inference_mode():
        logits, _ = last_logits(module, rows, 1, device)
        for name, tokens in groups.items():
            if len(tokens) and not 0 <= int(tokens[0]) <= int(tokens[-1]) < logits.shape[-1]:
                raise ValueError(
                    f"token group {name!r} holds ids from {int(tokens[0])} to {int(tokens[-1])}; "
                    f"the model has {logits.shape[-1]} tokens"
                )
        last = logits[:, -1].float()
        whole = torch.logsumexp(last, dim=-1)
        columns = {
            name: (torch.logsumexp(last[:, tokens], dim=-1) - whole).clamp(max=0.0).tolist()
            if len(tokens)
            else [-math.inf] * len(rows)
            for name, tokens in groups.items()
        }
    return [{name: column[row] for name, column in columns.items()} for row in range(len(rows))]


def _refuse_too_long(
    prompts: Sequence[str], rows: Sequence[Sequence[int]], limit: int | None
) -> None:
    for index, row in enumerate(rows):
        if limit is not None and len(row) >= limit:
            raise MeasurementError(
                f"{_named(prompts, index)} is {len(row)} tokens long with its chat template; with "
                f"an answer that is more than the {limit} positions of this model. Shorten it"
            )


def _named(prompts: Sequence[str], index: int) -> str:
    prompt = prompts[index]
    shown = prompt if len(prompt) <= 40 else prompt[:39] + "…"
    return f"prompt {index} ({shown!r})"
