"""What a model thinks of texts that it did not write: teacher-forced passes over given answers,
and the probabilities at the position where its own answer would begin.

Nothing is decoded here. A batch is one forward pass; the logits of prompt positions are not asked
for, and those of answer positions become float32 a few positions at a time, so that a vocabulary
of 128,000 does not decide how many rows fit.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
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
from pytest_compsec.generation.chat import encode, render
from pytest_compsec.generation.greedy import left_padded

#: Logits that are float32 at one time: 4 million of them are 16 MB, twice while they are reduced.
_FLOAT32_ITEMS = 4_000_000

_Result = TypeVar("_Result")


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
    limit = _positions(module)
    _refuse_too_long(prompts, before, limit)
    if limit is not None:
        after = [row[: limit - len(prompt)] for prompt, row in zip(before, after, strict=True)]
    scored = [index for index, row in enumerate(after) if row]

    def work(batch: Sequence[int]) -> list[tuple[float, ...]]:
        places = [scored[place] for place in batch]
        return _batch_nlls(
            module,
            [before[place] for place in places],
            [after[place] for place in places],
            device,
        )

    found = _in_batches(
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
            raise MeasurementError(_not_numbers(_named(prompts, index)))
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
    _refuse_too_long(prompts, rows, _positions(module))

    def work(batch: Sequence[int]) -> list[dict[str, float]]:
        return _batch_groups(module, [rows[index] for index in batch], groups, device)

    found = _in_batches(
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
            raise MeasurementError(_not_numbers(_named(prompts, index)))
    return found


def _batch_nlls(
    module: Any,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    device: str,
) -> list[tuple[float, ...]]:
    longest = max(len(answer) for answer in answers)
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    with torch.inference_mode():
        logits, ids = _last_logits(module, rows, longest + 1, device)
        # The logits at a position speak of the token after it.
        logits, targets = logits[:, :-1], ids[:, -longest:].to(logits.device)
        nlls = torch.empty(targets.shape, dtype=torch.float32, device=logits.device)
        step = max(1, _FLOAT32_ITEMS // (logits.shape[0] * logits.shape[2]))
        for start in range(0, longest, step):
            part = logits[:, start : start + step].float()
            chosen = part.gather(2, targets[:, start : start + step, None])[..., 0]
            nlls[:, start : start + step] = torch.logsumexp(part, dim=-1) - chosen
    # Rounding may leave a certain token at minus a millionth.
    table = nlls.clamp(min=0.0).tolist()
    return [tuple(row[longest - len(own) :]) for row, own in zip(table, answers, strict=True)]


def _batch_groups(
    module: Any, rows: Sequence[Sequence[int]], groups: Mapping[str, torch.Tensor], device: str
) -> list[dict[str, float]]:
    with torch.inference_mode():
        logits, _ = _last_logits(module, rows, 1, device)
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


def _last_logits(
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


def _in_batches(
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


def _positions(module: Any) -> int | None:
    config: Any = getattr(module, "config", None)
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    limit = getattr(text, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def _refuse_too_long(
    prompts: Sequence[str], rows: Sequence[Sequence[int]], limit: int | None
) -> None:
    for index, row in enumerate(rows):
        if limit is not None and len(row) >= limit:
            raise MeasurementError(
                f"{_named(prompts, index)} is {len(row)} tokens long with its chat template; with "
                f"an answer that is more than the {limit} positions of this model. Shorten it"
            )


def _not_numbers(name: str) -> str:
    return (
        f"the model gave NaN or infinite logits on {name}, so nothing can be said of it. float16 "
        "overflows in some models (set `dtype: bfloat16`); otherwise the weights are damaged"
    )


def _named(prompts: Sequence[str], index: int) -> str:
    prompt = prompts[index]
    shown = prompt if len(prompt) <= 40 else prompt[:39] + "…"
    return f"prompt {index} ({shown!r})"
