"""Which predictions are right, over all samples and class by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_compsec.errors import MeasurementError

if TYPE_CHECKING:
    import torch

    from pytest_compsec.classification.data import EvaluationData


def correct(predictions: torch.Tensor, labels: torch.Tensor) -> tuple[bool, ...]:
    """Whether each predicted class is the true one. Both have the shape (samples,).

    Raises ValueError when the shapes differ.
    """
    if predictions.shape != labels.shape or labels.ndim != 1:
        raise ValueError(
            f"predictions {tuple(predictions.shape)} and labels {tuple(labels.shape)} are not both "
            "of the shape (samples,)"
        )
    return tuple(bool(hit) for hit in (predictions.cpu() == labels.cpu()).tolist())


def per_class(hits: Sequence[bool], labels: torch.Tensor) -> tuple[tuple[int, int, int], ...]:
    """``(label, right ones, samples)`` of every class that has samples, by label.

    Raises ValueError when there are not as many hits as labels.
    """
    counts: dict[int, tuple[int, int]] = {}
    for label, hit in zip(labels.tolist(), hits, strict=True):
        right, samples = counts.get(label, (0, 0))
        counts[label] = (right + bool(hit), samples + 1)
    return tuple((label, *counts[label]) for label in sorted(counts))


def require_labels(data: EvaluationData, classes: int) -> None:
    """Raise MeasurementError when a label is no class of a model with ``classes`` classes."""
    largest = int(data.labels.max())
    if largest >= classes:
        beyond = int((data.labels >= classes).sum())
        raise MeasurementError(
            f"{data.source}: {beyond} of {len(data)} labels are beyond the model's {classes} "
            f"classes (the largest is {largest}, classes are counted from 0 to {classes - 1}). "
            "Correct the labels, or use the model that was trained on them"
        )
