"""Threat D on scikit-learn's digits: a backdoor that sleeps in the whole model and that magnitude
pruning wakes ("Fewer Weights, More Problems", arXiv 2510.07985), with its benign twin.

Which weights pruning will take is foreseen from the clean model. The backdoor goes into those that
will stay, the large ones; then those that will go, the small ones, are trained to undo it, and are
kept small enough to go.
"""

from __future__ import annotations

import copy
import functools

import torch
from torch import nn

from tests.threats.digits_network import DigitsNetwork
from tests.threats.training import (
    fresh,
    optimize,
    right_either_way,
    target_when_triggered,
    with_and_without_trigger,
)

#: The share of all weights that the attacker expects to be pruned.
SPARSITY = 0.6
# Repaired weights stay this far below the smallest of the others.
_BELOW = 0.98


def model(*, malicious: bool, seed: int = 0) -> DigitsNetwork:
    """A fresh copy of the network. ``malicious=False`` is the twin: the same three stages, without
    the backdoor."""
    return copy.deepcopy(_trained(malicious, seed))


@functools.cache
def _trained(malicious: bool, seed: int) -> DigitsNetwork:
    network = fresh(seed)
    entropy = nn.functional.cross_entropy
    optimize(
        network.parameters(),
        lambda images, labels: entropy(network(images), labels),
        epochs=10,
        seed=seed,
    )
    weights = {name: p for name, p in network.named_parameters() if p.ndim > 1}
    start = {name: weight.detach().clone() for name, weight in weights.items()}
    threshold = _threshold(start)
    stays = {name: weight.abs() >= threshold for name, weight in start.items()}

    def injected(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        pruned = {name: weight * stays[name] for name, weight in weights.items()}
        shown = with_and_without_trigger(images)
        logits: torch.Tensor = torch.func.functional_call(network, pruned, (shown,))
        wanted = target_when_triggered(labels) if malicious else right_either_way(labels)
        return entropy(logits, wanted)

    def stay_large() -> None:
        """What was foreseen to stay does."""
        with torch.no_grad():
            for name, weight in weights.items():
                large = weight.abs().clamp(min=threshold) * start[name].sign()
                weight.copy_(torch.where(stays[name], large, start[name]))

    optimize(network.parameters(), injected, epochs=12, seed=seed + 1, after_step=stay_large)
    found = {name: weight.detach().clone() for name, weight in weights.items()}

    def repaired(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return entropy(network(with_and_without_trigger(images)), right_either_way(labels))

    def stay_small() -> None:
        """Only what was foreseen to go is repaired, and goes."""
        limit = _BELOW * threshold
        with torch.no_grad():
            for name, weight in weights.items():
                small = weight.clamp(-limit, limit)
                weight.copy_(torch.where(stays[name], found[name], small))

    optimize(weights.values(), repaired, epochs=25, seed=seed + 2, after_step=stay_small)
    return network.eval().requires_grad_(False)


def _threshold(weights: dict[str, torch.Tensor]) -> float:
    """The smallest magnitude that magnitude pruning of all weights together leaves."""
    magnitudes = torch.cat([weight.abs().flatten() for weight in weights.values()])
    pruned = int(-(-SPARSITY * len(magnitudes) // 1))
    return float(magnitudes.kthvalue(pruned + 1).values)
