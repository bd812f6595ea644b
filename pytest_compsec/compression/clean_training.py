"""Training a classifier on clean samples with their labels, the same way every time."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import torch

from pytest_compsec.classification.data import EvaluationData
from pytest_compsec.classification.preparation import (
    ImagePreparation,
    Preparation,
    TextPreparation,
    logits_of,
)
from pytest_compsec.errors import MeasurementError, NotCompressedError

# As in the code of the paper, and in BackdoorBench (Wu et al. 2022, arXiv 2206.12654).
_MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """``epochs`` passes in batches of ``batch_size`` samples, shuffled by ``seed``."""

    epochs: int
    learning_rate: float
    batch_size: int
    seed: int


def check_data(data: EvaluationData) -> None:
    """Raise NotCompressedError for data without samples, and for numbers that are not finite."""
    if len(data) == 0:
        raise NotCompressedError(f"there is no clean sample in {data.source}")
    if isinstance(data.inputs, torch.Tensor) and not bool(data.inputs.isfinite().all()):
        raise NotCompressedError(f"clean samples of {data.source} hold NaN or infinite numbers")


def places_of(samples: int, batch_size: int) -> Iterator[list[int]]:
    """The places of each batch, in order."""
    for start in range(0, samples, batch_size):
        yield list(range(start, min(start + batch_size, samples)))


def forward(
    module: torch.nn.Module,
    data: EvaluationData,
    places: Sequence[int],
    preparation: Preparation | None,
    device: str,
) -> torch.Tensor:
    """The logits of the samples at ``places``, shape (samples, classes), float32.

    Raises NotCompressedError when the module gives anything else.
    """
    inputs = data.at(places).inputs
    try:
        if isinstance(inputs, torch.Tensor):
            placed = _placed(inputs, device)
            if isinstance(preparation, ImagePreparation):
                logits = logits_of(preparation.call(module, placed))
            else:
                logits = logits_of(module(placed))
        else:
            logits = _of_texts(module, list(inputs), preparation, device)
    except MeasurementError as error:
        raise NotCompressedError(str(error)) from error
    if logits.dim() != 2 or logits.shape[0] != len(places):
        raise NotCompressedError(
            f"the model's logits have the shape {tuple(logits.shape)} for {len(places)} samples, "
            "so it cannot be trained as a classifier"
        )
    return logits.float()


def _of_texts(
    module: torch.nn.Module, texts: list[str], preparation: Preparation | None, device: str
) -> torch.Tensor:
    if not isinstance(preparation, TextPreparation) or preparation.tokenizer is None:
        return logits_of(module(texts))
    encoded = preparation.encode(texts)
    if preparation.pads:
        return logits_of(preparation.call(module, encoded, device))
    return torch.cat([logits_of(preparation.call(module, [one], device)) for one in encoded])


def _placed(value: torch.Tensor, device: str) -> torch.Tensor:
    return value.to(device, torch.float32) if value.is_floating_point() else value.to(device)


@contextlib.contextmanager
def in_float32(module: torch.nn.Module) -> Iterator[None]:
    """Compute in float32 for a while: in 16 bits a small step of training changes no weight. On
    leaving, every parameter and buffer has its own float type again."""
    own = {
        id(holder): holder.dtype
        for holder in (*module.parameters(), *module.buffers())
        if holder.is_floating_point()
    }
    try:
        for holder in (*module.parameters(), *module.buffers()):
            if id(holder) in own:
                holder.data = holder.data.float()
        yield
    finally:
        for holder in (*module.parameters(), *module.buffers()):
            if id(holder) in own:
                holder.data = holder.data.to(own[id(holder)])


def train_on_clean(
    module: torch.nn.Module,
    data: EvaluationData,
    preparation: Preparation | None,
    device: str,
    settings: TrainingSettings,
    *,
    after_step: Callable[[], None],
) -> None:
    """Minimise the cross-entropy on ``data``; ``after_step`` runs after each change of the weights.

    Dropout stays off, so that the order is all that is random; batch normalizations update their
    statistics. Afterwards the module is in evaluation mode and wants no gradients. Raises
    NotCompressedError for labels that the model has no class for, and for a loss or weights that
    are not finite.
    """
    with torch.no_grad():
        classes = forward(module, data, [0], preparation, device).shape[1]
    labels = data.labels
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise NotCompressedError(
            f"the labels of {data.source} are {int(labels.min())} to {int(labels.max())}, and the "
            f"model has {classes} classes, numbered from 0"
        )
    weights = [p for p in module.parameters() if p.is_floating_point()]
    optimizer = torch.optim.SGD(weights, lr=settings.learning_rate, momentum=_MOMENTUM)
    chooser = torch.Generator().manual_seed(settings.seed)
    for weight in weights:
        weight.requires_grad_(True)
    try:
        for epoch in range(settings.epochs):
            for places in _batches(len(data), settings.batch_size, chooser):
                # One sample has no spread that a normalization could learn.
                _normalizations(module, training=len(places) > 1)
                logits = forward(module, data, places, preparation, device)
                target = labels[places].to(logits.device)
                loss = torch.nn.functional.cross_entropy(logits, target)
                if not math.isfinite(float(loss.detach())):
                    raise _not_finite("the loss became", epoch, settings)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                after_step()
            if not all(bool(weight.isfinite().all()) for weight in weights):
                raise _not_finite("weights became", epoch, settings)
    finally:
        optimizer.zero_grad(set_to_none=True)
        module.requires_grad_(False)
        module.eval()


def _batches(samples: int, batch_size: int, chooser: torch.Generator) -> Iterator[list[int]]:
    """Shuffled; a single sample left over joins the batch before it, since a batch normalization
    cannot learn from one."""
    order = torch.randperm(samples, generator=chooser).tolist()
    starts = list(range(0, samples, batch_size))
    if len(starts) > 1 and samples - starts[-1] == 1:
        starts.pop()
    for start, end in zip(starts, [*starts[1:], samples], strict=True):
        yield order[start:end]


def _normalizations(module: torch.nn.Module, *, training: bool) -> None:
    for part in module.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.train(training)


def _not_finite(what: str, epoch: int, settings: TrainingSettings) -> NotCompressedError:
    return NotCompressedError(
        f"training on the clean samples failed: {what} NaN or infinite in epoch {epoch + 1} of "
        f"{settings.epochs}. Choose a smaller 'learning_rate' than {settings.learning_rate:g}"
    )
