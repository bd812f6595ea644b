"""The gradient of a compressed classifier, with respect to its inputs.

Quantized layers pass no gradient, or one that their rounding of activations spoils, and an attack
that follows such a gradient finds a model robust that is not (gradient masking). The backward
pass differentiable approximation (BPDA, Athalye et al. 2018, arXiv 1802.00420): the forward pass
is that of the real module, the backward pass that of a copy in which every packed layer is the
dense float32 layer that it stands for.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from pytest_compsec.attacks.gradient.budget import margins
from pytest_compsec.localization.dense import dense_weight, linear_layers

if TYPE_CHECKING:
    from pytest_compsec.classification.model import ClassifierModel


class _ForwardOfReal(torch.autograd.Function):
    """The first argument's values with the second one's gradient."""

    @staticmethod
    def forward(ctx: Any, real: torch.Tensor, surrogate: torch.Tensor) -> torch.Tensor:
        return real.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, torch.Tensor]:
        return None, gradients[0]


@dataclasses.dataclass(eq=False)
class AttackedModel:
    """One model as attacks see it: logits of the real module, with gradients of its own or of
    ``surrogate``. Counts the samples that went through it."""

    model: ClassifierModel
    surrogate: ClassifierModel | None = None
    forward_passes: int = 0
    backward_passes: int = 0

    @property
    def gradients(self) -> str:
        """Where gradients come from, in a word."""
        return "own" if self.surrogate is None else "straight-through"

    def logits(self, inputs: torch.Tensor, batch_size: int) -> torch.Tensor:
        """(samples, classes) of the real module, float32 on the CPU, without gradients.

        Raises MeasurementError when they are not finite.
        """
        self.forward_passes += len(inputs)
        return self.model.logits(inputs, batch_size=batch_size)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(samples, classes), differentiable with respect to ``inputs``, float32 on the CPU. The
        gradient is zero where neither the module nor the surrogate passes any."""
        self.forward_passes += len(inputs)
        self.backward_passes += len(inputs)
        if self.surrogate is None:
            found = self.model.forward(inputs).float().cpu()
        else:
            self.forward_passes += len(inputs)
            with torch.no_grad():
                real = self.model.forward(inputs.detach()).float().cpu()
            copied = self.surrogate.forward(inputs).float().cpu()
            found = _ForwardOfReal.apply(real, copied)  # type: ignore[no-untyped-call]
        if not found.requires_grad:
            found = found + 0.0 * inputs.flatten(1).sum(1, keepdim=True)
        return found

    def without_gradient(
        self, inputs: torch.Tensor, labels: torch.Tensor, batch_size: int
    ) -> torch.Tensor:
        """(samples,), bool: where the gradient of the margin between the true class and the next
        is zero everywhere, or not finite: a gradient attack has no way to go there."""
        missing = []
        for start in range(0, len(inputs), batch_size):
            classes = labels[start : start + batch_size]
            moving = inputs[start : start + batch_size].detach().clone().requires_grad_()
            with torch.enable_grad():
                total = margins(self.forward(moving), classes).sum()
                (gradient,) = torch.autograd.grad(total, moving)
            flat = gradient.flatten(1)
            missing.append(~(flat.isfinite().all(1) & (flat != 0).any(1)))
        return torch.cat(missing) if missing else torch.zeros(0, dtype=torch.bool)


def attacked(model: ClassifierModel) -> AttackedModel:
    """``model`` with its own gradients where all of its layers are dense, else with those of its
    dense copy."""
    packed = packed_layers(model.module)
    return AttackedModel(model, dense_copy(model, packed) if packed else None)


def packed_layers(module: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The linear layers, by name, whose weights are not floats that take part in the product as
    they are."""
    return {name: layer for name, layer in linear_layers(module).items() if not _is_dense(layer)}


def dense_copy(
    model: ClassifierModel, packed: dict[str, torch.nn.Module] | None = None
) -> ClassifierModel:
    """A float32 copy of ``model`` in which every packed layer is a dense one of the same values."""
    packed = packed_layers(model.module) if packed is None else packed
    # Told that they are copied already, deepcopy never looks into the packed layers.
    done: dict[int, Any] = {id(layer): _dense_layer(layer) for layer in packed.values()}
    module = copy.deepcopy(model.module, done).float().requires_grad_(False).eval()
    return dataclasses.replace(model, module=module, dtype="float32")


def _is_dense(layer: torch.nn.Module) -> bool:
    inner = getattr(layer, "base_layer", layer)
    weight: Any = getattr(inner, "weight", None)
    return (
        isinstance(weight, torch.Tensor)
        and weight.is_floating_point()
        # Tensors of quantization libraries call themselves floats.
        and type(weight) in (torch.Tensor, torch.nn.Parameter)
        and not hasattr(inner, "dequantize")
    )


def _dense_layer(layer: torch.nn.Module) -> torch.nn.Linear:
    # Cloned outside of inference mode, so that autograd may keep it.
    weight = dense_weight(layer).detach().clone()
    bias: Any = getattr(getattr(layer, "base_layer", layer), "bias", None)
    bias = bias() if callable(bias) and not isinstance(bias, torch.Tensor) else bias
    outputs, inputs = weight.shape
    dense = torch.nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    dense.weight = torch.nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        values = bias.detach().clone().to(weight)
        dense.bias = torch.nn.Parameter(values, requires_grad=False)
    return dense.eval()
