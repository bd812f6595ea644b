"""The architectures of the digits example: what ``source: python:digits_net:...`` names."""

from __future__ import annotations

import torch


class DigitsNet(torch.nn.Module):
    """A small convolutional network: images (samples, 1, 8, 8) in [0, 1] to ten logits."""

    num_classes = 10

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(
            torch.nn.Conv2d(1, width, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(width, 2 * width, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
        )
        self.head = torch.nn.Sequential(
            torch.nn.Flatten(),
            torch.nn.Linear(2 * width * 16, 64),
            torch.nn.ReLU(),
            torch.nn.Linear(64, 10),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(images))
        return logits


def make_net() -> torch.nn.Module:
    """The network of every original."""
    return DigitsNet(16)


def make_student() -> torch.nn.Module:
    """A quarter of its weights, for distillation."""
    return DigitsNet(8)
