"""First-order Taylor pruning: the weights whose removal changes the loss least become zero.

The importance of a weight w is |w · dL/dw|, the first-order change of the loss L when w becomes
zero (Molchanov et al. 2017, arXiv 1611.06440; 2019, arXiv 1906.10771), here of single weights. L is
the mean negative log likelihood of a token of the calibration texts under the dense model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.compression.calibration import CalibrationTexts
from pytest_compsec.compression.calibration_loss import (
    gradient_batches,
    loss_scales,
    not_finite,
    require_calibration,
    text_losses,
)
from pytest_compsec.compression.expectation import Expectation

if TYPE_CHECKING:
    import torch

    from pytest_compsec.compression.prunable import PrunableLayer

# Shares are exact up to one weight; this allows for float rounding of shares.
_TOLERANCE = 1e-6


def expected(options: Mapping[str, Any]) -> Expectation:
    """At least ``sparsity`` of all weights of linear layers (``per: layer``: of each linear layer)
    are zero."""
    share = float(options["sparsity"]) - _TOLERANCE
    if options.get("per") == "layer":
        return Expectation(min_layer_zeros=share)
    return Expectation(min_zero_fraction=share)


def apply(
    module: torch.nn.Module,
    options: Mapping[str, Any],
    device: str,
    *,
    calibration: CalibrationTexts | None = None,
) -> torch.nn.Module:
    """Prune in place, for good, and put ``module`` on ``device``.

    Exactly ``ceil(sparsity × n)`` weights of all linear layers together become zero, or of each
    (``per: layer``). Takes the memory of the dense model on ``device``, and four bytes a weight.

    Raises NotCompressedError without texts, for weights or gradients that are not finite, and when
    nothing changes.
    """
    from pytest_compsec.compression.magnitude import smallest_overall
    from pytest_compsec.compression.prunable import prunable_layers, require_changed

    layers = prunable_layers(module)
    module.to(device)
    scores = importance(module, layers, require_calibration(calibration), device)
    share = float(options["sparsity"])
    if options.get("per") == "layer":
        masks = [mask for score in scores for mask in smallest_overall([score], share)]
    else:
        masks = list(smallest_overall(scores, share))
    changed = False
    for layer, mask in zip(layers, masks, strict=True):
        changed |= layer.zero(mask)
    require_changed(changed, len(layers))
    return module


def importance(
    module: torch.nn.Module,
    layers: Sequence[PrunableLayer],
    calibration: CalibrationTexts,
    device: str,
) -> list[torch.Tensor]:
    """|w · dL/dw| of each weight, float32, in the shape of each layer's ``rows``.

    Computed in the module's own float type with gradients summed in float32, which frees the
    gradient of one layer before that of the next is computed. The module is left as it was.
    """
    import torch

    batches = gradient_batches(calibration, device)
    training = module.training
    wanted = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    module.eval().requires_grad_(False)
    for layer in layers:
        layer.weight.requires_grad_(True)
    try:
        for scale in loss_scales({layer.weight.dtype for layer in layers}):
            gradients = _gradients(module, layers, batches, scale)
            if gradients is not None:
                break
        else:
            raise not_finite()
    finally:
        for parameter, needed in wanted:
            parameter.requires_grad_(needed)
        module.train(training)
    with torch.no_grad():
        return [
            layer.layout.matrix(gradient).mul_(layer.rows).abs_()
            for layer, gradient in zip(layers, gradients, strict=True)
        ]


def _gradients(
    module: torch.nn.Module,
    layers: Sequence[PrunableLayer],
    batches: Sequence[Mapping[str, torch.Tensor]],
    scale: float,
) -> list[torch.Tensor] | None:
    """dL/dw of each layer's stored weight in float32, or None when one is not finite."""
    import torch

    weights = [layer.weight for layer in layers]
    sums = {id(weight): torch.zeros_like(weight, dtype=torch.float32) for weight in weights}
    tokens = sum(int(batch["attention_mask"][:, 1:].sum()) for batch in batches)
    factor = 1.0

    def take(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        sums[id(parameter)].add_(parameter.grad.float(), alpha=factor)
        parameter.grad = None

    hooks: list[Any] = []
    try:
        for weight in weights:
            hook: Any = weight.register_post_accumulate_grad_hook
            hooks.append(hook(take))
        for batch in batches:
            losses, counts = text_losses(module, batch)
            count = int(counts.sum())
            if count == 0:
                continue
            # The mean of the batch, so that the size of float16 gradients hangs on no batch size.
            factor = count / (tokens * scale)
            (losses.sum() * (scale / count)).backward(inputs=weights)  # type: ignore[no-untyped-call]
    finally:
        for handle in hooks:
            handle.remove()
    gradients = [sums[id(weight)] for weight in weights]
    return gradients if all(bool(g.isfinite().all()) for g in gradients) else None
