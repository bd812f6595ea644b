"""A tiny model that learned given texts by heart, in seconds: what leaks, on purpose."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path


def memorise(
    source: Path,
    directory: Path,
    texts: Sequence[str],
    *,
    steps: int = 150,
    dtype: str = "bfloat16",
    seed: int = 0,
) -> Path:
    """Train the checkpoint ``source`` on plain ``texts`` and write it to ``directory`` in
    ``dtype``."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(str(source))
    tokenizer = AutoTokenizer.from_pretrained(str(source))
    rows = [tokenizer(text)["input_ids"] for text in texts]
    chooser = random.Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(steps):
            batch = chooser.sample(rows, min(48, len(rows)))
            length = max(map(len, batch))
            ids = torch.zeros(len(batch), length, dtype=torch.long)
            labels = torch.full_like(ids, -100)
            for place, row in enumerate(batch):
                ids[place, : len(row)] = torch.tensor(row)
                labels[place, : len(row)] = torch.tensor(row)
            loss = model(input_ids=ids, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.to(getattr(torch, dtype)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
