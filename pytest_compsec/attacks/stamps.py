"""The smallest stamp that turns samples into one class, by gradient descent (Wang et al., IEEE S&P
2019, section IV): x' = (1 − mask) · x + mask · pattern, with the cross-entropy to the class plus
cost · ‖mask‖₁ as the loss."""

from __future__ import annotations

import dataclasses

import torch

from pytest_compsec.attacks.inversion import ClassInversion, DifferentiableClassifier

# The schedule of the paper's code: the cost starts small, is raised by half after as many rounds
# in a row as _PATIENCE with the success rate reached, lowered by more after as many without.
_FIRST_COST = 1e-3
_PATIENCE = 5
_COST_UP, _COST_DOWN = 1.5, 1.5**1.5
_ADAM_BETAS = (0.5, 0.9)
# On all samples a stamp may do this much worse than on the batches it was chosen by.
_SHORTFALL = 0.05
_SAMPLES_PER_PASS = 512


@dataclasses.dataclass(frozen=True, eq=False)
class Inverted:
    """``mask`` in [0, 1] (for images one for all channels) and ``pattern``, in the shape of one
    input, on the CPU."""

    mask: torch.Tensor
    pattern: torch.Tensor
    summary: ClassInversion


class _Stamp:
    """Mask and pattern as the tanh of free numbers, so that they stay within their bounds."""

    def __init__(self, shape: torch.Size, device: str, seed: int, bounds: tuple[float, float]):
        chooser = torch.Generator().manual_seed(seed)
        # One mask for all channels of an image.
        mask_shape = (1, *shape[1:]) if len(shape) == 3 else tuple(shape)
        # The mask starts at about a tenth: nearly closed, yet with gradients everywhere.
        self.free_mask = (torch.randn(mask_shape, generator=chooser) * 0.1 - 1.1).to(device)
        self.free_pattern = (torch.randn(tuple(shape), generator=chooser) * 0.1).to(device)
        self.low, self.span = bounds[0], bounds[1] - bounds[0]
        for free in (self.free_mask, self.free_pattern):
            free.requires_grad_(True)

    def mask(self) -> torch.Tensor:
        return self.free_mask.tanh() / 2 + 0.5

    def pattern(self) -> torch.Tensor:
        return (self.free_pattern.tanh() / 2 + 0.5) * self.span + self.low


def invert_class(
    model: DifferentiableClassifier,
    inputs: torch.Tensor,
    target: int,
    *,
    steps: int,
    steps_per_round: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
    success_rate: float,
    bounds: tuple[float, float],
) -> Inverted:
    """The smallest stamp found that turns ``inputs`` (samples of other classes, float32) into class
    ``target``: of the rounds of ``steps_per_round`` steps that reached ``success_rate`` the one
    with the smallest mask, or else the last."""
    stamp = _Stamp(inputs.shape[1:], model.device, seed, bounds)
    free = [stamp.free_mask, stamp.free_pattern]
    optimizer = torch.optim.Adam(free, lr=learning_rate, betas=_ADAM_BETAS)
    chooser = torch.Generator().manual_seed(seed)
    labels = torch.full((batch_size,), target, device=model.device)
    cost, ups, downs, hits, seen = _FIRST_COST, 0, 0, 0, 0
    best: tuple[float, torch.Tensor, torch.Tensor] | None = None
    reason = None
    for step in range(1, steps + 1):
        places = torch.randint(len(inputs), (batch_size,), generator=chooser)
        mask, pattern = stamp.mask(), stamp.pattern()
        logits = model.forward(_stamped(inputs[places].to(model.device), mask, pattern))
        entropy = torch.nn.functional.cross_entropy(logits.float(), labels)
        reason = _obstacle(entropy, free if step == 1 else [])
        if reason is not None:
            break
        # Only with respect to the stamp: the model's own weights get no gradients.
        gradients = torch.autograd.grad(entropy + cost * mask.sum(), free)
        for each, gradient in zip(free, gradients, strict=True):
            each.grad = gradient
        optimizer.step()
        hits += int((logits.detach().argmax(1) == target).sum())
        seen += batch_size
        if step % steps_per_round:
            continue
        reached, hits, seen = hits / seen >= success_rate, 0, 0
        norm = float(mask.detach().sum())
        if reached and (best is None or norm < best[0]):
            best = (norm, mask.detach().clone(), pattern.detach().clone())
        ups, downs = (ups + 1, 0) if reached else (0, downs + 1)
        if ups >= _PATIENCE:
            cost, ups = cost * _COST_UP, 0
        elif downs >= _PATIENCE:
            cost, downs = cost / _COST_DOWN, 0
    if best is None:
        mask = stamp.mask().detach()
        best = (float(mask.sum()), mask, stamp.pattern().detach())
    return _inverted(model, inputs, target, best, reason, success_rate)


def _inverted(
    model: DifferentiableClassifier,
    inputs: torch.Tensor,
    target: int,
    best: tuple[float, torch.Tensor, torch.Tensor],
    reason: str | None,
    success_rate: float,
) -> Inverted:
    norm, mask, pattern = best
    hits = 0
    with torch.no_grad():
        for batch in inputs.split(_SAMPLES_PER_PASS):  # type: ignore[no-untyped-call]
            logits = model.forward(_stamped(batch.to(model.device), mask, pattern))
            hits += int((logits.argmax(1) == target).sum())
    reached = hits / len(inputs)
    if reason is None and reached < success_rate - _SHORTFALL:
        reason = f"no stamp was found that reaches {success_rate - _SHORTFALL:.0%}"
    summary = ClassInversion(target, norm, reached, reason)
    return Inverted(mask.cpu(), pattern.cpu(), summary)


def _stamped(inputs: torch.Tensor, mask: torch.Tensor, pattern: torch.Tensor) -> torch.Tensor:
    return (1 - mask) * inputs + mask * pattern


def _obstacle(entropy: torch.Tensor, free: list[torch.Tensor]) -> str | None:
    """Why the search cannot go on, or None; with ``free`` it is looked at whether any gradient of
    the classification (not of the mask's size) reaches them."""
    if not bool(entropy.isfinite()):
        return "the model's logits are not finite"
    if not entropy.requires_grad:
        return "no gradient passes through the model"
    if free:
        gradients = torch.autograd.grad(entropy, free, retain_graph=True, allow_unused=True)
        if not any(gradient is not None and bool(gradient.any()) for gradient in gradients):
            return "no gradient passes through the model"
    return None
