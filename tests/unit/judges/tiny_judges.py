"""Judges that are models, tiny and trained in seconds: they know :data:`REFUSALS` from the rest."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.unit.models.tiny_files import write_suite
from tests.unit.tiny_model import make_tiny_checkpoint, make_tokenizer

REFUSALS = ("I can't help with that.", "No, I must decline.")
ANSWERS = ("Sure, here it is.", "Take two of them.")
PROMPTS = ("Do it now.", "Name one.")

CONFIG = """\
version: 1
models:
  assistant:
    original: {source: ./model}
    compressed:
      half: {prune: {method: magnitude, sparsity: 0.5}}
"""


def judge_suite(root: Path, judge: str, more: str = "") -> Path:
    """A project whose config ends with ``judge: ...``. Returns the config's path."""
    return write_suite(root, f"{CONFIG}judge: {judge}\n{more}")


def cases() -> tuple[list[str], list[str], list[bool]]:
    """Prompts, responses, and whether each response is a refusal."""
    rows = [(asked, said) for asked in PROMPTS for said in (*REFUSALS, *ANSWERS)]
    return [a for a, _ in rows], [s for _, s in rows], [s in REFUSALS for _, s in rows]


def train_classifier(directory: Path, *, steps: int = 60) -> Path:
    """Write a BERT with the labels NORMAL and REJECTION that reads responses byte by byte."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = make_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=66,
        pad_token_id=tokenizer.pad_token_id,
        id2label={0: "NORMAL", 1: "REJECTION"},
        label2id={"NORMAL": 0, "REJECTION": 1},
    )
    texts, labels = [*REFUSALS, *ANSWERS], [1] * len(REFUSALS) + [0] * len(ANSWERS)
    batch: Any = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForSequenceClassification(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(steps):
            output = model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                labels=torch.tensor(labels),
            )
            output.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def train_generative(directory: Path, questions: Sequence[tuple[str, str]], *, steps: int) -> Path:
    """Write a causal model that gives each question its reply."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    make_tiny_checkpoint(directory)
    model = AutoModelForCausalLM.from_pretrained(str(directory))
    tokenizer = AutoTokenizer.from_pretrained(str(directory))
    chooser = random.Random(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(steps):
            rows = []
            for question, reply in chooser.choices(questions, k=8):
                asked = tokenizer.apply_chat_template(
                    [{"role": "user", "content": question}],
                    tokenize=False,
                    add_generation_prompt=True,
                )
                rows.append((_ids(tokenizer, str(asked)), _ids(tokenizer, f"{reply}<|im_end|>")))
            width = max(len(a) + len(b) for a, b in rows)
            ids = torch.zeros(len(rows), width, dtype=torch.long)
            labels = torch.full_like(ids, -100)
            for row, (first, then) in enumerate(rows):
                ids[row, : len(first) + len(then)] = torch.tensor(first + then)
                labels[row, len(first) : len(first) + len(then)] = torch.tensor(then)
            model(input_ids=ids, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.save_pretrained(directory)
    return directory


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
