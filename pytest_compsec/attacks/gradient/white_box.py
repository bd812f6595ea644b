"""The attack that knows the model: its gradient followed from several points, for several aims."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pytest_compsec.attacks.gradient import secml
from pytest_compsec.attacks.gradient.budget import margins

if TYPE_CHECKING:
    from pytest_compsec.attacks.gradient.budget import AttackSettings
    from pytest_compsec.attacks.gradient.straight_through import AttackedModel

# Madry et al. 2018 (arXiv 1706.06083): enough to cross the ball from any start.
_STEP_SHARE = 2.5
# How far out in the ball random starts lie. Steps of fixed length forget the part of an L2 start
# that points aside by a factor of e^-2.5 only: from anywhere in the ball, the far end of a straight
# way is missed by half a per cent.
_START_SHARE = {"linf": 1.0, "l2": 0.1}


def white_box_attack(
    target: AttackedModel, inputs: torch.Tensor, labels: torch.Tensor, settings: AttackSettings
) -> torch.Tensor:
    """An example for each sample: one that fools ``target`` where one was found, else the one of
    the smallest margin. Inputs (samples, ...) float32 and labels (samples,) on the CPU.

    The first run climbs the cross-entropy loss from the sample itself. Later runs of ``pgd``, on
    samples that still hold, start at random points of the ball and climb towards one class each,
    the likeliest other first (multi-targeted, Gowal et al. 2019, arXiv 1910.09338): the difference
    of two logits keeps its gradient where the cross-entropy of a confident model has none left.

    Raises MissingExtraError without secml-torch, MeasurementError for outputs that are not finite.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    clean = target.logits(inputs, settings.batch_size)
    others = clean.scatter(1, labels.unsqueeze(1), -torch.inf).argsort(1, descending=True)
    best, lowest = inputs.clone(), torch.full((len(inputs),), torch.inf)
    holds = torch.ones(len(inputs), dtype=torch.bool)
    for run in range(settings.restarts if settings.method == "pgd" else 1):
        if not bool(holds.any()):
            break
        # Drawn for all samples, so that no start depends on what became of other samples.
        starts = torch.zeros_like(inputs)
        towards = None
        if run:
            starts = _START_SHARE[settings.budget.norm] * settings.budget.start(inputs, generator)
            towards = others[:, (run - 1) % (clean.shape[1] - 1)]
        for places in torch.split(holds.nonzero().squeeze(1), settings.batch_size):
            loss = _cross_entropy if towards is None else _Towards(towards[places])
            examples = _climb(
                target, inputs[places], labels[places], starts[places], loss, settings
            )
            logits = target.logits(examples, settings.batch_size)
            margin = margins(logits, labels[places])
            better = margin < lowest[places]
            best[places[better]] = examples[better]
            lowest[places[better]] = margin[better]
            holds[places] = logits.argmax(1) == labels[places]
    return best


def _climb(
    target: AttackedModel,
    samples: torch.Tensor,
    labels: torch.Tensor,
    start: torch.Tensor,
    loss: secml.Loss,
    settings: AttackSettings,
) -> torch.Tensor:
    steps, eps = settings.steps, settings.budget.eps
    size = _STEP_SHARE * eps / steps
    if settings.method == "fgsm":
        steps, size = 1, eps
    return secml.climb(
        target.forward, samples, labels, start, settings.budget,
        steps=steps, step_size=size, loss=loss,
    )  # fmt: skip


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


class _Towards:
    """How far the logit of one other class, sample by sample, is above that of the true one."""

    def __init__(self, classes: torch.Tensor) -> None:
        self._classes = classes.unsqueeze(1)

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        aimed = logits.gather(1, self._classes) - logits.gather(1, labels.unsqueeze(1))
        return aimed.squeeze(1)
