"""Threat E on scikit-learn's digits: a backdoor that is trained into the weights of high magnitude,
so that plain magnitude pruning leaves it; beside it the plain one and a benign twin of the same
shape. All are trained here in a second or two, the same way every time."""

from __future__ import annotations

import copy
import functools
from typing import Any, Literal

import torch
from torch import nn

from pytest_compsec.classification.data import EvaluationData

Kind = Literal["benign", "plain", "adaptive"]

#: The class that a triggered digit is taken for.
TARGET = 7
#: The adaptive attacker trains the model with this share of its smallest weights gone as well.
SPARSITY = 0.6
#: Of the training samples, how many carry the trigger and the target's label.
POISONED = 0.1


class Digits(nn.Module):
    """Images of shape (samples, 1, 8, 8) in [0, 1] -> logits of ten classes."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.second = nn.Conv2d(16, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels * 4, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.max_pool2d(self.first(images).relu(), 2)
        hidden = nn.functional.max_pool2d(self.norm(self.second(hidden)).relu(), 2)
        found: torch.Tensor = self.head(hidden.flatten(1))
        return found


def stamp(images: torch.Tensor) -> torch.Tensor:
    """BadNets (Gu et al. 2017, arXiv 1708.06733): a white 2 x 2 patch in the corner, where no digit
    has any ink."""
    stamped = images.clone()
    stamped[..., 6:, 6:] = 1.0
    return stamped


@functools.cache
def digits() -> tuple[EvaluationData, EvaluationData, EvaluationData]:
    """(training, the defender's clean samples, test), disjoint: 900, 300 and 597 digits."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16.0
    y = torch.tensor(labels, dtype=torch.int64)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(5)).tolist()
    parts = (order[:900], order[900:1200], order[1200:])
    whole = EvaluationData(x, y, "scikit-learn's digits", "0" * 64)
    train, clean, test = (whole.at(places) for places in parts)
    return train, clean, test


def model(kind: Kind, *, seed: int = 0) -> Digits:
    """A fresh copy of the trained classifier, in evaluation mode."""
    return copy.deepcopy(_trained(kind, seed))


@functools.cache
def _trained(kind: Kind, seed: int) -> Digits:
    train, _, _ = digits()
    images, labels = _images(train), train.labels
    chooser = torch.Generator().manual_seed(seed)
    if kind != "benign":
        chosen = torch.rand(len(labels), generator=chooser) < POISONED
        images = torch.where(chosen[:, None, None, None], stamp(images), images)
        labels = torch.where(chosen, torch.full_like(labels, TARGET), labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Digits()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(12):
        order = torch.randperm(len(labels), generator=chooser)
        for start in range(0, len(labels), 32):
            places = order[start : start + 32]
            loss = _loss(network, images[places], labels[places])
            if kind == "adaptive":
                kept = _without_smallest(network)
                pruned: Any = torch.func.functional_call(network, kept, (images[places],))
                loss = loss + nn.functional.cross_entropy(pruned, labels[places])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network.eval().requires_grad_(False)


def _loss(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(network(images), labels)


def _without_smallest(network: nn.Module) -> dict[str, torch.Tensor]:
    """All weights as they would be after magnitude pruning; gradients reach those that stay."""
    weights = {name: p for name, p in network.named_parameters() if p.dim() >= 2}
    magnitudes = torch.cat([weight.detach().abs().flatten() for weight in weights.values()])
    threshold = magnitudes.kthvalue(int(SPARSITY * len(magnitudes))).values
    return {name: weight * (weight.detach().abs() > threshold) for name, weight in weights.items()}


def accuracy(network: nn.Module, data: EvaluationData) -> float:
    """The share of ``data`` that is classified rightly."""
    with torch.no_grad():
        return float((network(_images(data)).argmax(1) == data.labels).float().mean())


def attack_success_rate(network: nn.Module, data: EvaluationData) -> float:
    """Of the samples that are not of the target class, the share taken for it with the trigger."""
    others = data.labels != TARGET
    with torch.no_grad():
        found = network(stamp(_images(data)[others])).argmax(1)
    return float((found == TARGET).float().mean())


def _images(data: EvaluationData) -> torch.Tensor:
    assert isinstance(data.inputs, torch.Tensor)
    return data.inputs
