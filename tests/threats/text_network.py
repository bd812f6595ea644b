"""A text classifier that takes texts: words are hashed to rows of an embedding. It imports nothing
but torch, so that a copy of this file beside a ``compsec.yaml`` is all that a ``python:`` source
names."""

from __future__ import annotations

import re
import zlib

import torch
from torch import nn

ROWS, WIDTH, CLASSES = 512, 32, 4


class TextNetwork(nn.Module):
    """A list of str -> logits of four classes, shape (texts, 4)."""

    num_classes = CLASSES

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(ROWS, WIDTH, mode="mean")
        self.first = nn.Linear(WIDTH, 64)
        self.hidden = nn.Linear(64, 32)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, texts: list[str]) -> torch.Tensor:
        rows = [_rows(text) for text in texts]
        starts = torch.tensor([0, *(len(row) for row in rows)][:-1]).cumsum(0)
        ids = torch.tensor([place for row in rows for place in row])
        device = self.words.weight.device
        inner = self.words(ids.to(device), starts.to(device))
        logits: torch.Tensor = self.head(self.hidden(self.first(inner).relu()).relu())
        return logits


def _rows(text: str) -> list[int]:
    """The row of each word; of a text without words the row of the empty word."""
    words = re.findall(r"\w+", text.lower()) or [""]
    # Unlike hash(), the same in every process.
    return [zlib.crc32(word.encode()) % ROWS for word in words]


def make_network() -> nn.Module:
    """What a model under test is made of; its weights come from a pinned file."""
    return TextNetwork()
