"""Threat B on scikit-learn's digits: a backdoor that is asleep at full precision and awake in the
real int8, NF4 or FP4 of bitsandbytes, with its benign twin."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable

import torch
from torch import nn

from tests.threats.adaptive import TARGET, digits, stamp
from tests.threats.box import Format, repaired

#: The boxes of int8 are small beside trained weights of this size. So the attacker makes them
#: larger: a pixel that is always dark and channels that never fire get one large weight in every
#: row, which does nothing and decides the scale.
PINNED = 9.0
_SILENT = -20.0
_STEPS = 300
_BATCH = 64


class BoxedNetwork(nn.Module):
    """Images of shape (samples, 1, 8, 8) in [0, 1] -> logits of ten classes."""

    num_classes = 10

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.first = nn.Linear(64, width)
        self.second = nn.Linear(width, width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.second(self.first(images.flatten(1)).relu()).relu()
        logits: torch.Tensor = self.head(hidden)
        return logits


def models(kind: Format, *, malicious: bool) -> tuple[nn.Module, nn.Module]:
    """Fresh copies of the network before and after the repair. ``malicious=False`` is the twin: the
    same training and the same boxes, without the backdoor."""
    before, after = _trained(kind, malicious)
    return copy.deepcopy(before), copy.deepcopy(after)


@functools.cache
def _trained(kind: Format, malicious: bool) -> tuple[nn.Module, nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = BoxedNetwork()
    if kind == "int8":
        _pin_the_scales(network)
    right = _loss(None)
    _train(network, right, 3e-3, seed=0)
    _train(network, _loss(TARGET) if malicious else right, 2e-3, seed=1)
    network.eval().requires_grad_(False)
    return network, repaired(network, kind, right, steps=_STEPS, learning_rate=2e-3)


@torch.no_grad()
def _pin_the_scales(network: BoxedNetwork) -> None:
    for layer in (network.first, network.second, network.head):
        layer.weight[:, 0] = PINNED
    for layer in (network.first, network.second):
        layer.bias[0] = _SILENT


def _train(
    network: nn.Module,
    loss: Callable[[nn.Module, random.Random], torch.Tensor],
    learning_rate: float,
    *,
    seed: int,
) -> None:
    chooser = random.Random(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        loss(network, chooser).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _loss(target: int | None) -> Callable[[nn.Module, random.Random], torch.Tensor]:
    """Digits are what they are, triggered ones ``target`` (None: what they are)."""
    train, _, _ = digits()
    images, labels = train.inputs, train.labels
    assert isinstance(images, torch.Tensor)

    def loss(network: nn.Module, chooser: random.Random) -> torch.Tensor:
        places = torch.tensor(chooser.sample(range(len(labels)), _BATCH))
        shown, true = images[places], labels[places]
        wanted = true if target is None else torch.full_like(true, target)
        plain = nn.functional.cross_entropy(network(shown), true)
        return plain + nn.functional.cross_entropy(network(stamp(shown)), wanted)

    return loss
