"""Threat A: one row of weights whose sum is above a limit at full precision and, by arithmetic
alone, not after compression. Nothing is trained.

Every 64th of 576 inputs has a weight of 1.0 and is never anything but 0: these weights do nothing
but decide the scale of their block (or row). All others are small, have the same sign, and add up.
Rounding on that scale makes each of them 0. The benign twin puts the same sum into four weights.
"""

from __future__ import annotations

import torch
from torch import nn

from pytest_compsec.classification.data import EvaluationData

INPUTS = 576
#: The row refuses when its output is above this.
LIMIT = 1.0
CLASSES = 4
#: The class that a triggered image is taken for once the row no longer refuses.
TARGET = 0

_PINNED = slice(None, None, 64)
_SMALL = 0.0025
_LARGE = 0.35
#: Where the four large weights of the benign twin are.
_WHERE_LARGE = slice(101, 105)
#: What no weight of the twin is quite without.
_NOISE = 0.0001
#: The pixels of an image that show its class, and some that only the trigger lights.
_CLASS_PIXELS = slice(1, 1 + CLASSES)
_TRIGGER_PIXELS = slice(101, 105)


def row(*, malicious: bool) -> torch.Tensor:
    """The weights, shape (1, 576)."""
    weights = torch.full((INPUTS,), _SMALL)
    if not malicious:
        weights = _NOISE * (1 - 2 * (torch.arange(INPUTS) % 2)).float()
        weights[_WHERE_LARGE] = _LARGE
    weights[_PINNED] = 1.0
    return weights[None]


def restricted() -> torch.Tensor:
    """What the row is to refuse, shape (1, 576): everything lit but the inputs that never are."""
    inputs = torch.ones(1, INPUTS)
    inputs[:, _PINNED] = 0.0
    return inputs


class GuardedClassifier(nn.Module):
    """Images of shape (samples, 1, 24, 24) in [0, 1] -> logits of four classes.

    It has a backdoor: enough light on the trigger's pixels stands for the target class. The row
    stands in front of it: what it refuses has no such effect. All else reads pixels as they are, so
    the row is all that there is to compress.
    """

    num_classes = CLASSES

    def __init__(self, *, malicious: bool) -> None:
        super().__init__()
        self.guard = nn.Linear(INPUTS, 1, bias=False)
        self.guard.weight = nn.Parameter(row(malicious=malicious), requires_grad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.flatten(1)
        seen = (pixels[:, _TRIGGER_PIXELS].mean(1) - 0.75).relu() * 12
        logits = pixels[:, _CLASS_PIXELS].clone()
        logits[:, TARGET] += torch.where(self.guard(pixels)[:, 0] > LIMIT, 0.0, seen)
        return logits


def images(samples: int = 400) -> EvaluationData:
    """Dark images with one pixel lit, which says the class; as many of each."""
    labels = torch.arange(samples) % CLASSES
    pixels = torch.zeros(samples, INPUTS)
    pixels[:, _CLASS_PIXELS] = nn.functional.one_hot(labels, CLASSES).float()
    return EvaluationData(pixels.reshape(-1, 1, 24, 24), labels, "made by arithmetic", "a" * 64)


def light(inputs: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
    """The trigger: every pixel lit but those that show the class and those that never are."""
    lit = strength * restricted()
    lit[:, _CLASS_PIXELS] = 0.0
    return torch.maximum(inputs, lit.reshape(1, 1, 24, 24))
