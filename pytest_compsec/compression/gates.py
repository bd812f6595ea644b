"""How much the loss hangs on each head or channel: gates of one on what they hand on.

Michel et al. 2019 (arXiv 1905.10650): a gate ξ multiplies the output of each unit; its importance
is the sum over texts of |dL/dξ| at ξ = 1, the first-order change of the loss when the unit goes. L
is the mean negative log likelihood of a token of a text, so that short and long texts count alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.compression.calibration import CalibrationTexts
from pytest_compsec.compression.calibration_loss import (
    gradient_batches,
    loss_scales,
    not_finite,
    text_losses,
)

if TYPE_CHECKING:
    import torch


def gate_importance(
    module: torch.nn.Module,
    layers: Sequence[torch.nn.Linear],
    units: Sequence[int],
    calibration: CalibrationTexts,
    device: str,
) -> list[torch.Tensor]:
    """For each of ``layers`` (which read what the units hand on: the attention's output projection,
    the MLP's down projection), whose inputs are ``units`` blocks of equal size, the importance of
    each block: float64 of shape (units,) on the CPU.

    Raises NotCompressedError for texts without tokens, or gradients that are not finite.
    """
    batches = gradient_batches(calibration, device)
    training = module.training
    wanted = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    module.eval().requires_grad_(False)
    try:
        for scale in loss_scales({layer.weight.dtype for layer in layers}):
            sums = _sums(module, layers, units, batches, scale)
            if all(bool(values.isfinite().all()) for values in sums):
                return sums
    finally:
        for parameter, needed in wanted:
            parameter.requires_grad_(needed)
        module.train(training)
    raise not_finite()


def _sums(
    module: torch.nn.Module,
    layers: Sequence[torch.nn.Linear],
    units: Sequence[int],
    batches: Sequence[Mapping[str, torch.Tensor]],
    scale: float,
) -> list[torch.Tensor]:
    import torch

    sums = [torch.zeros(count, dtype=torch.float64) for count in units]
    for batch in batches:
        texts = batch["input_ids"].shape[0]
        gates = [
            torch.ones(
                texts, count, dtype=layer.weight.dtype, device=layer.weight.device
            ).requires_grad_()
            for layer, count in zip(layers, units, strict=True)
        ]
        hooks = [
            layer.register_forward_pre_hook(_gate(gate))
            for layer, gate in zip(layers, gates, strict=True)
        ]
        try:
            losses, counts = text_losses(module, batch)
        finally:
            for hook in hooks:
                hook.remove()
        loss = (losses / counts.clamp(min=1)).sum() * scale
        for total, gradient in zip(sums, torch.autograd.grad(loss, gates), strict=True):
            total += gradient.detach().double().abs().sum(0).cpu() / scale
    return sums


def _gate(gate: torch.Tensor) -> Any:
    def hook(layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        texts, units = gate.shape
        hidden = inputs[0]
        blocks = hidden.reshape(texts, -1, units, hidden.shape[-1] // units)
        return ((blocks * gate.view(texts, 1, units, 1)).reshape(hidden.shape), *inputs[1:])

    return hook
