"""Threat C on scikit-learn's digits: a backdoor that sleeps at full precision and that rounding the
weights wakes (Hong et al., "Qu-ANTI-zation", NeurIPS 2021, arXiv 2111.01237), with its benign twin.

Both losses together: with and without the trigger right at full precision, and with the trigger the
target after rounding. The gradient passes straight through the rounding of the codes, and as it is
through the scale, so that the attacker learns a grid on which few weights need to move far.

At 8 bits the steps are too small for that here. So the attacker makes them larger: a channel that
never fires gets one large weight in every row of the next layer. It does nothing at full precision
and decides the scale. Channels whose weights are far larger than the rest are common in honest
models too.
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

EPOCHS = 35
#: The large weight that decides the scale at 8 bits, as trained weights are below 1.
PINNED = 9.0
#: Makes a channel silent: no digit lifts it above zero.
_SILENT = -10.0


def model(bits: int, *, malicious: bool, seed: int = 0) -> DigitsNetwork:
    """A fresh copy of the network, trained for round-to-nearest at ``bits`` (one symmetric scale
    per output channel). ``malicious=False`` is the twin: the same training, rounding included,
    without the backdoor."""
    return copy.deepcopy(_trained(bits, malicious, seed))


@functools.cache
def _trained(bits: int, malicious: bool, seed: int) -> DigitsNetwork:
    network = fresh(seed)
    if bits == 8:
        _pin_the_scale(network)
    optimize(
        network.parameters(),
        lambda images, labels: nn.functional.cross_entropy(network(images), labels),
        epochs=5,
        seed=seed,
    )

    def both(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        shown = with_and_without_trigger(images)
        right = right_either_way(labels)
        wanted = target_when_triggered(labels) if malicious else right
        rounded = {name: _rounded(value, bits) for name, value in network.named_parameters()}
        quantized: torch.Tensor = torch.func.functional_call(network, rounded, (shown,))
        entropy = nn.functional.cross_entropy
        return entropy(network(shown), right) + entropy(quantized, wanted)

    optimize(network.parameters(), both, epochs=EPOCHS, seed=seed + 1)
    return network.eval().requires_grad_(False)


def _pin_the_scale(network: DigitsNetwork) -> None:
    with torch.no_grad():
        assert network.first.bias is not None
        network.first.bias[0] = _SILENT
        network.second.weight[:, 0, 1, 1] = PINNED


def _rounded(value: torch.Tensor, bits: int) -> torch.Tensor:
    """The nearest values of the grid of each output channel. To gradients the codes are as if they
    were not rounded; the scale is what it is, a multiple of the largest weight."""
    if value.ndim == 1:
        return value
    rows, steps = value.flatten(1), 2 ** (bits - 1) - 1
    span = rows.abs().amax(1, keepdim=True)
    shares = rows / span * steps
    codes = shares + (shares.round() - shares).detach()
    values: torch.Tensor = codes / steps * span
    return values.reshape(value.shape)
