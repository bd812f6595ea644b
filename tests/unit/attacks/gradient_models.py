"""Small classifiers that attacks can be judged on: linear ones, whose robustness is known exactly,
and a network trained on scikit-learn's digits."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import torch

from pytest_compsec.classification.data import EvaluationData
from pytest_compsec.classification.model import ClassifierModel
from pytest_compsec.classification.preparation import ImagePreparation
from pytest_compsec.models.weights import measure_weights
from tests.unit.tiny_model import make_arm


def classifier(
    module: torch.nn.Module, classes: int, variant: str | None = None
) -> ClassifierModel:
    arm = make_arm(Path("tiny"), variant=variant)
    weights = measure_weights(module)
    return ClassifierModel(arm, module, "cpu", "float32", weights, classes, ImagePreparation())


class Pair:
    """Two modules as the arms of a pair, and the samples."""

    id = "tiny-variant"
    config_name = "compsec.yaml"
    lock_digest = "f" * 64
    task = "image-classification"

    def __init__(
        self,
        original: torch.nn.Module,
        compressed: torch.nn.Module,
        data: tuple[Any, torch.Tensor],
        *,
        classes: int = 10,
        recheck: Callable[[], None] = lambda: None,
    ) -> None:
        self.classifiers = (
            classifier(original, classes),
            classifier(compressed, classes, "variant"),
        )
        self.evaluation_data = EvaluationData(*data, source="test", digest="d" * 64)
        self.recheck = recheck

    def once(self, key: Hashable, measure: Callable[[], Any]) -> Any:
        return measure()


def linear(weights: torch.Tensor, bias: torch.Tensor) -> torch.nn.Module:
    """Flattens what it is given and multiplies by ``weights`` (classes, inputs)."""
    layer = torch.nn.Linear(weights.shape[1], weights.shape[0])
    layer.weight.data.copy_(weights)
    layer.bias.data.copy_(bias)
    return torch.nn.Sequential(torch.nn.Flatten(), layer).requires_grad_(False).eval()


def linear_problem(
    classes: int, samples: int = 300, side: int = 4, seed: int = 0
) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """A random linear classifier, images in the middle of [0, 1] (so that no clipping takes part),
    and labels that it gets right for nine of ten of them."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn((classes, side * side), generator=generator)
    module = linear(weights, -0.5 * weights.sum(1))
    inputs = 0.4 + 0.2 * torch.rand((samples, 1, side, side), generator=generator)
    labels = module(inputs).argmax(1)
    labels[::10] = (labels[::10] + 1) % classes
    return module, inputs, labels


def exactly_robust(
    module: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor, eps: float, norm: str
) -> torch.Tensor:
    """(samples,), bool: no change of size ``eps`` makes any other class win. For each other class:
    the difference of the logits is above eps times the dual norm of the difference of the rows."""
    weights: Any = module[1].weight.double()  # type: ignore[index]
    bias: Any = module[1].bias.double()  # type: ignore[index]
    logits = inputs.flatten(1).double() @ weights.t() + bias
    true = logits.gather(1, labels.unsqueeze(1))
    rows = weights[labels].unsqueeze(1) - weights
    dual = rows.abs().sum(2) if norm == "linf" else rows.norm(dim=2)
    safe = true - logits > eps * dual
    held: torch.Tensor = safe.scatter(1, labels.unsqueeze(1), torch.ones_like(safe)).all(1)
    return held


@functools.cache
def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training images and labels, test images and labels (400), 8 by 8 in [0, 1]."""
    from sklearn.datasets import load_digits

    held = load_digits()
    order = torch.randperm(len(held.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(held.images, dtype=torch.float32).unsqueeze(1)[order] / 16
    labels = torch.tensor(held.target)[order]
    return images[400:], labels[400:], images[:400], labels[:400]


@functools.cache
def _trained(noise: float) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = torch.nn.Sequential(
            torch.nn.Flatten(),
            torch.nn.Linear(64, 64),
            torch.nn.ReLU(),
            torch.nn.Linear(64, 64),
            torch.nn.ReLU(),
            torch.nn.Linear(64, 10),
        )
    images, labels, _, _ = digits()
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3, weight_decay=1e-4)
    for _ in range(30):
        for places in torch.split(torch.randperm(len(images), generator=generator), 128):
            signs = (2 * torch.rand(images[places].shape, generator=generator) - 1).sign()
            moved = (images[places] + noise * signs).clamp(0, 1)
            loss = torch.nn.functional.cross_entropy(module(moved), labels[places])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return module.requires_grad_(False).eval()


def trained(noise: float = 0.15) -> Any:
    """A fresh copy of a network trained on the digits; the noise in its training makes for some
    robustness at little cost of accuracy."""
    return copy.deepcopy(_trained(noise))


def training_gradients_left(module: torch.nn.Module) -> bool:
    return any(parameter.grad is not None for parameter in module.parameters())
