"""Projected gradient descent (Madry et al. 2018, arXiv 1706.06083) by the library secml-torch.

The library steps and projects. Ours are the random starts (its own start at the sample's values
instead of around them), the losses, and the check that what comes back is within the budget: its
success is never taken at its word.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from pytest_compsec.errors import MissingExtraError

if TYPE_CHECKING:
    from pytest_compsec.attacks.gradient.budget import Budget

#: (logits (samples, classes), labels (samples,)) -> loss (samples,), which the attack raises.
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
DISTRIBUTION = "secml-torch"


def require_library() -> None:
    """Raises MissingExtraError, with the way to install it, when secml-torch is not there."""
    _library("secmlt.adv.evasion.pgd")


def climb(
    forward: Callable[[torch.Tensor], torch.Tensor],
    samples: torch.Tensor,
    labels: torch.Tensor,
    start: torch.Tensor,
    budget: Budget,
    *,
    steps: int,
    step_size: float,
    loss: Loss,
) -> torch.Tensor:
    """Examples for one batch: of the points on the way from ``samples + start``, after 0 to
    ``steps`` steps of ``step_size`` (in the norm of the budget), the one of the largest ``loss``.

    ``forward`` gives logits on the CPU, differentiable; samples, labels and start are on the CPU.
    The global random state is as before. Raises MissingExtraError, and MeasurementError for
    examples out of the budget.
    """
    attack = _library("secmlt.adv.evasion.pgd").PGDNative(
        perturbation_model=budget.norm,
        epsilon=budget.eps,
        # The library never looks at the point that its last step leads to.
        num_steps=steps + 1,
        step_size=step_size,
        random_start=False,
        lb=budget.lower,
        ub=budget.upper,
    )
    attack.initializer = lambda inputs: start.clone()
    attack.loss_function = loss
    batch = torch.utils.data.TensorDataset(samples, labels)
    loader = torch.utils.data.DataLoader(batch, batch_size=len(samples))
    # A data loader draws a seed from the global generator each time.
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        ((examples, _),) = attack(_wrapped(forward), loader, stream=True)
    found: torch.Tensor = examples.detach()
    budget.require_kept(samples, found)
    return found


def _wrapped(forward: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    base = _library("secmlt.models.pytorch.base_pytorch_nn").BasePyTorchClassifier

    class Wrapped(base):  # type: ignore[misc, valid-type]
        """The library would move inputs to where the first parameter is, which the model does
        itself, and which a model of buffers alone cannot answer."""

        def _decision_function(self, x: torch.Tensor) -> torch.Tensor:
            return forward(x)

    return Wrapped(model=None)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = MissingExtraError(DISTRIBUTION, "attacks", "a gradient attack on a classifier")
        hint = (
            f"{missing}. It asks for torchvision, which it does not need here and which breaks "
            f"beside some builds of torch: pip install --no-deps {DISTRIBUTION} leaves it out"
        )
        missing.args = (hint,)
        raise missing from error
