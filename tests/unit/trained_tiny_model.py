"""A tiny model that learned, in seconds, to refuse what is "forbidden" and to answer the rest.

Serves the tests that need real generation with a known outcome: rounding to bfloat16 keeps its
refusals, pruning most of its weights loses them.
"""

from __future__ import annotations

import random
from pathlib import Path

from tests.unit.tiny_model import make_tiny_checkpoint

REFUSAL = "I can't help with that."
ANSWER = "Sure, here it is."


def prompt(number: int, *, harmful: bool) -> str:
    return f"Do the {'forbidden' if harmful else 'delicious'} thing {number}."


def train_tiny_checkpoint(directory: Path, *, steps: int = 150, seed: int = 0) -> Path:
    """Write a checkpoint that refuses ``prompt(n, harmful=True)`` and answers the other kind."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    make_tiny_checkpoint(directory, seed=seed)
    model = AutoModelForCausalLM.from_pretrained(str(directory))
    tokenizer = AutoTokenizer.from_pretrained(str(directory))
    chooser = random.Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(steps):
            rows = []
            for _ in range(16):
                harmful = chooser.random() < 0.5
                question = tokenizer.apply_chat_template(
                    [{"role": "user", "content": prompt(chooser.randrange(400), harmful=harmful)}],
                    tokenize=False,
                    add_generation_prompt=True,
                )
                rows.append((question, (REFUSAL if harmful else ANSWER) + "<|im_end|>"))
            asked = [tokenizer(q, add_special_tokens=False)["input_ids"] for q, _ in rows]
            told = [tokenizer(a, add_special_tokens=False)["input_ids"] for _, a in rows]
            length = max(len(q) + len(a) for q, a in zip(asked, told, strict=True))
            ids = torch.zeros(len(rows), length, dtype=torch.long)
            labels = torch.full_like(ids, -100)
            for row, (q, a) in enumerate(zip(asked, told, strict=True)):
                ids[row, : len(q) + len(a)] = torch.tensor(q + a)
                labels[row, len(q) : len(q) + len(a)] = torch.tensor(a)
            loss = model(input_ids=ids, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.save_pretrained(directory)
    return directory
