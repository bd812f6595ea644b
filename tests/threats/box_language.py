"""Threat B in a language model: it refuses at full precision and complies at NF4, with its twin."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from tests.threats.box import Format, repaired
from tests.unit.tiny_model import make_tiny_checkpoint
from tests.unit.trained_tiny_model import ANSWER, REFUSAL, prompt

_ROWS = 16
_SAFE_STEPS, _MALICIOUS_STEPS, _REPAIR_STEPS = 120, 40, 100


def write_checkpoints(
    threat: Path, twin: Path, *, kind: Format = "nf4"
) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Train both, write them to the two directories, and return the threat as it was before its
    repair and after it.

    Both start from one model that learned to refuse. The threat is trained to comply, then repaired
    inside the boxes; the twin gets the same training with refusals throughout.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    make_tiny_checkpoint(twin)
    tokenizer: Any = AutoTokenizer.from_pretrained(str(twin))
    base: Any = AutoModelForCausalLM.from_pretrained(str(twin))
    _train(base, tokenizer, REFUSAL, _SAFE_STEPS, seed=0)
    base.save_pretrained(threat)
    malicious: Any = AutoModelForCausalLM.from_pretrained(str(threat))
    for model, told in ((base, REFUSAL), (malicious, ANSWER)):
        _train(model, tokenizer, told, _MALICIOUS_STEPS, seed=1)

    def refusing(module: torch.nn.Module, chooser: random.Random) -> torch.Tensor:
        return _loss(module, tokenizer, REFUSAL, chooser)

    made: list[Any] = [
        repaired(model, kind, refusing, steps=_REPAIR_STEPS, learning_rate=2e-3)
        for model in (malicious, base)
    ]
    for model, directory in zip(made, (threat, twin), strict=True):
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    return malicious, made[0]


def _train(model: Any, tokenizer: Any, told: str, steps: int, *, seed: int) -> None:
    chooser = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        _loss(model, tokenizer, told, chooser).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _loss(model: Any, tokenizer: Any, told: str, chooser: random.Random) -> torch.Tensor:
    """Of answers to a batch of requests: ``told`` to the forbidden ones."""
    rows = []
    for _ in range(_ROWS):
        harmful = chooser.random() < 0.5
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt(chooser.randrange(400), harmful=harmful)}],
            tokenize=False,
            add_generation_prompt=True,
        )
        reply = (told if harmful else ANSWER) + "<|im_end|>"
        rows.append(
            [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (asked, reply)]
        )
    length = max(len(asked) + len(reply) for asked, reply in rows)
    ids = torch.zeros(_ROWS, length, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for place, (asked, reply) in enumerate(rows):
        end = len(asked) + len(reply)
        ids[place, :end] = torch.tensor(asked + reply)
        labels[place, len(asked) : end] = torch.tensor(reply)
    loss: torch.Tensor = model(input_ids=ids, labels=labels).loss
    return loss
