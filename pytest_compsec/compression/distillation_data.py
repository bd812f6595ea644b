"""What a student reads while it is distilled: batches of samples, for chat models made of prompts
and answers."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pytest_compsec.compression.distillation_loss import IGNORED_LABEL
from pytest_compsec.generation.chat import encode, render


@dataclasses.dataclass(frozen=True, eq=False)
class DistillationBatch:
    """``inputs`` are the arguments of both modules' ``forward``, by name. ``labels`` has shape
    (batch,) for a classifier or (batch, tokens) for a language model, where it holds the token
    that comes *after* each place, and -100 where nothing is learned. ``safety`` flags samples
    (batch,) or tokens (batch, tokens) that ``safety_weight`` is for; None: none of them."""

    inputs: Mapping[str, torch.Tensor]
    labels: torch.Tensor
    safety: torch.Tensor | None = None

    @property
    def safety_samples(self) -> int:
        """Samples that hold a safety flag on something that is learned."""
        if self.safety is None:
            return 0
        flags = self.safety > 0
        learned = self.labels != IGNORED_LABEL
        if learned.dim() > flags.dim():
            flags = flags[:, None]
        return int((flags & learned).reshape(len(learned), -1).any(1).sum())


@dataclasses.dataclass(frozen=True)
class DistillationSample:
    """One exchange: best the teacher's own ``answer`` to ``prompt``. ``safety``: a harmful request
    with its refusal (or another exchange that must not be lost)."""

    prompt: str
    answer: str
    safety: bool = False


def chat_batches(
    tokenizer: Any,
    samples: Sequence[DistillationSample],
    *,
    batch_size: int,
    system: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    end_of_answer: str | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
) -> list[DistillationBatch]:
    """``samples``, shuffled by ``seed``, as batches for a causal language model.

    A row is the rendered prompt and after it the answer, encoded by itself as generation does it,
    and ``end_of_answer`` (the tokenizer's end token unless given), so that the student learns to
    stop. Only the tokens of the answer and its end are learned; rows are padded on the right. A
    row of more than ``max_tokens`` loses the end of its answer.

    Raises LoadError when the chat template cannot be used; ValueError when there are no samples,
    an answer is empty or no token of it is left, or the tokenizer has no end token.
    """
    if not samples:
        raise ValueError("no samples to distil on")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    end = end_of_answer if end_of_answer is not None else tokenizer.eos_token
    if end is None:
        raise ValueError("the tokenizer has no end token: give end_of_answer")
    for sample in samples:
        if not sample.answer:
            raise ValueError(f"the answer to {_shown(sample.prompt)} is empty")
    order = list(samples)
    random.Random(seed).shuffle(order)
    before = encode(
        tokenizer,
        [render(tokenizer, sample.prompt, system, chat_template_kwargs) for sample in order],
    )
    after: list[list[int]] = tokenizer(
        [sample.answer + end for sample in order], add_special_tokens=False
    )["input_ids"]
    for sample, row in zip(order, before, strict=True):
        if max_tokens is not None and len(row) >= max_tokens:
            raise ValueError(
                f"the prompt {_shown(sample.prompt)} has {len(row)} tokens with its chat template, "
                f"which leaves nothing of {max_tokens} for its answer"
            )
    return [
        _batch(
            before[start : start + batch_size],
            after[start : start + batch_size],
            [sample.safety for sample in order[start : start + batch_size]],
            max_tokens,
        )
        for start in range(0, len(order), batch_size)
    ]


def _batch(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    safety: Sequence[bool],
    max_tokens: int | None,
) -> DistillationBatch:
    rows = [[*p, *a][:max_tokens] for p, a in zip(prompts, answers, strict=True)]
    # The last token of a row is predicted and never read.
    width = max(len(row) for row in rows) - 1
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED_LABEL)
    for place, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        ids[place, : len(row) - 1] = torch.tensor(row[:-1])
        mask[place, : len(row) - 1] = 1
        labels[place, len(prompt) - 1 : len(row) - 1] = torch.tensor(row[len(prompt) :])
    return DistillationBatch(
        inputs={"input_ids": ids, "attention_mask": mask},
        labels=labels,
        safety=torch.tensor(safety, dtype=torch.bool),
    )


def _shown(prompt: str) -> str:
    return repr(prompt if len(prompt) <= 40 else prompt[:39] + "…")
