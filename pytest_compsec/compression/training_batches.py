"""From examples to the tensors, the loss and the learning rate of a fine-tune. No peft here."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.compression.training_examples import Example
from pytest_compsec.generation.chat import encode, render

if TYPE_CHECKING:
    import torch

    from pytest_compsec.models.loaded import LoadedModel

#: Whether to refuse is decided in the first words; the rest of a long answer teaches nothing new.
ANSWER_TOKENS = 20
#: Longest prompt that is learned from, in tokens: one very long one would set the batch's memory.
PROMPT_TOKENS = 1024

#: Token ids of a rendered prompt, and of the answer to learn.
Encoded = tuple[list[int], list[int]]


def learning_rate_share(step: int, warmup: int, steps: int) -> float:
    """Linear warm-up over ``warmup`` steps to 1, then half a cosine to 0 at ``steps``."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def batches(
    items: Sequence[Encoded], *, steps: int, size: int, shuffler: random.Random
) -> Iterator[list[Encoded]]:
    """``steps`` batches of ``size``: every item once, shuffled, before any comes again."""
    queue: list[Encoded] = []
    for _ in range(steps):
        while len(queue) < size:
            queue += shuffler.sample(items, len(items))
        yield queue[:size]
        queue = queue[size:]


def batch_tensors(
    chosen: Sequence[Encoded], pad: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-padded ids, mask and labels (-100 where no loss is taken), each (batch, tokens)."""
    import torch

    length = max(len(question) + len(reply) for question, reply in chosen)
    ids = torch.full((len(chosen), length), pad)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for row, (question, reply) in enumerate(chosen):
        size = len(question) + len(reply)
        ids[row, :size] = torch.tensor(question + reply)
        mask[row, :size] = 1
        labels[row, len(question) : size] = torch.tensor(reply)
    return ids, mask, labels


def mean_per_example(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, averaged over each example's answer first, so that a short refusal weighs as
    much as a longer answer. Shapes: logits (batch, tokens, vocabulary), labels (batch, tokens)."""
    import torch

    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2).float(), labels[:, 1:], reduction="none", ignore_index=-100
    )
    counted = (labels[:, 1:] != -100).float()
    return ((losses * counted).sum(1) / counted.sum(1)).mean()


def encode_examples(compressed: LoadedModel, examples: Sequence[Example]) -> list[Encoded]:
    """(prompt token ids, answer token ids) of each example that can be learned from."""
    from pytest_compsec.generation.decoding import end_tokens

    tokenizer, arm = compressed.tokenizer, compressed.arm
    ends = end_tokens(compressed.module, tokenizer)
    own = tokenizer.eos_token_id
    end = own if own in ends or not ends else min(ends)
    rendered = [
        render(tokenizer, example.prompt, arm.system, arm.chat_template_kwargs)
        for example in examples
    ]
    questions = encode(tokenizer, rendered) if rendered else []
    encoded = []
    for example, question in zip(examples, questions, strict=True):
        reply = list(tokenizer(example.answer, add_special_tokens=False)["input_ids"])
        if not reply or len(question) > PROMPT_TOKENS:
            continue
        if example.finished and end is not None:
            reply.append(end)
        encoded.append((question, reply[:ANSWER_TOKENS]))
    return encoded


def pad_token(tokenizer: Any) -> int:
    """A token to fill rows with; no loss is taken on it, and it is masked."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0
