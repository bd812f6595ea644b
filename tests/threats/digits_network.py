"""The network of threats C and D. It imports nothing but torch, so that a copy of this file beside
a ``compsec.yaml`` is all that ``source: python:digits_network:make_network`` names."""

from __future__ import annotations

import torch
from torch import nn


class DigitsNetwork(nn.Module):
    """Images of shape (samples, 1, 8, 8) in [0, 1] -> logits of ten classes."""

    num_classes = 10

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 32, 3, padding=1)
        self.hidden = nn.Linear(512, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        inner = nn.functional.max_pool2d(self.first(images).relu(), 2)
        inner = self.second(inner).relu().flatten(1)
        logits: torch.Tensor = self.head(self.hidden(inner).relu())
        return logits


def make_network() -> nn.Module:
    """What a model under test is made of; its weights come from a pinned file."""
    return DigitsNetwork()
