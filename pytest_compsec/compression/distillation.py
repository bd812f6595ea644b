"""Distillation: a small student learns from a large teacher, and keeps its refusals.

The student is a model of its own, so it enters ``compsec.yaml`` as files and needs no recipe: after
:func:`distill`, write it with ``student.save_pretrained("student")`` and
``tokenizer.save_pretrained("student")``, name it as a variant, and pin it::

    models:
      assistant:
        original: {source: ./teacher}
        compressed:
          distilled: {source: ./student}

The suite then compares the two as it compares any pair, on prompts that the student never read.

The parts: :class:`SafetyAwareDistillation` is the loss, :func:`chat_batches` makes batches of
prompts and answers, :func:`distill` trains.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pytest_compsec.compression.distillation_data import (
    DistillationBatch,
    DistillationSample,
    chat_batches,
)
from pytest_compsec.compression.distillation_loss import IGNORED_LABEL, SafetyAwareDistillation
from pytest_compsec.errors import MeasurementError

__all__ = [
    "DistillationBatch",
    "DistillationReport",
    "DistillationSample",
    "SafetyAwareDistillation",
    "chat_batches",
    "distill",
]


@dataclasses.dataclass(frozen=True)
class DistillationReport:
    """What was trained on what. ``losses``: of each step, before it. ``samples`` and
    ``safety_samples`` are those of all batches, ``rows`` the tokens (for a classifier: samples)
    that were learned from; each counted once, however often the batches were gone through."""

    losses: tuple[float, ...]
    trained_parameters: int
    samples: int
    safety_samples: int
    rows: int

    @property
    def steps(self) -> int:
        return len(self.losses)

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "losses": list(self.losses)}


def distill(
    student: torch.nn.Module,
    teacher: torch.nn.Module,
    batches: Sequence[DistillationBatch],
    loss: SafetyAwareDistillation,
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float = 0.0,
    max_gradient_norm: float = 1.0,
    seed: int = 0,
) -> DistillationReport:
    """Train ``student`` in place with AdamW, one batch a step, and leave it in evaluation mode.

    The batches are gone through in an order drawn anew for each round; order and dropout follow
    from ``seed``, so a second run on the same machine gives the same student. Trained are the
    parameters that require gradients; where none does, as in a model loaded for evaluation, all
    that hold floats. Which of them require gradients is afterwards as it was, even on an error.
    The teacher is in evaluation mode, gets no gradients, and may be on another device.

    Raises ValueError when there is nothing to train (on), student and teacher share parameters,
    the student's floats have 16 bits (steps of AdamW are smaller than those resolve: train in
    float32 and cast the student afterwards), no sample is flagged for a ``safety_weight`` above 1,
    and for whatever the loss refuses. Raises MeasurementError, naming the step, when the loss or a
    gradient is not a number; the student is then of no use.
    """
    _check(student, teacher, batches, loss, steps)
    teacher.eval()
    order = _order(len(batches), steps, seed)
    losses: list[float] = []
    with _trainable(student) as parameters, _seeded(student, seed):
        optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
        student.train()
        try:
            for step, place in enumerate(order, start=1):
                value = _loss_of(student, teacher, batches[place], loss)
                losses.append(float(value.detach()))
                _refuse_not_finite(losses[-1], "the loss", step, learning_rate)
                optimizer.zero_grad()
                value.backward()  # type: ignore[no-untyped-call]
                norm = torch.nn.utils.clip_grad_norm_(parameters, max_gradient_norm)
                _refuse_not_finite(float(norm), "a gradient", step, learning_rate)
                optimizer.step()
        finally:
            student.eval()
            optimizer.zero_grad()
    return DistillationReport(
        losses=tuple(losses),
        trained_parameters=sum(parameter.numel() for parameter in parameters),
        samples=sum(len(batch.labels) for batch in batches),
        safety_samples=sum(batch.safety_samples for batch in batches),
        rows=sum(int((batch.labels != IGNORED_LABEL).sum()) for batch in batches),
    )


def _loss_of(
    student: torch.nn.Module,
    teacher: torch.nn.Module,
    batch: DistillationBatch,
    loss: SafetyAwareDistillation,
) -> torch.Tensor:
    with torch.no_grad():
        wanted = _logits(teacher, batch.inputs, "teacher")
    found = _logits(student, batch.inputs, "student")
    return loss(found, wanted, batch.labels, safety=batch.safety)


def _logits(module: torch.nn.Module, inputs: Mapping[str, torch.Tensor], who: str) -> torch.Tensor:
    device = _device(module)
    arguments: dict[str, Any] = {name: value.to(device) for name, value in inputs.items()}
    if "use_cache" in inspect.signature(module.forward).parameters:
        arguments["use_cache"] = False
    output = module(**arguments)
    logits = getattr(output, "logits", output)
    if not isinstance(logits, torch.Tensor):
        raise ValueError(f"the {who} returns {type(output).__name__}: neither logits nor a tensor")
    return logits


def _check(
    student: torch.nn.Module,
    teacher: torch.nn.Module,
    batches: Sequence[DistillationBatch],
    loss: SafetyAwareDistillation,
    steps: int,
) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if not batches:
        raise ValueError("no batches to distil on")
    shared = {id(parameter) for parameter in teacher.parameters()}
    if any(id(parameter) in shared for parameter in student.parameters()):
        raise ValueError(
            "student and teacher share parameters: training one would change the other; give the "
            "student a copy"
        )
    if loss.safety_weight > 1 and not any(batch.safety_samples for batch in batches):
        raise ValueError(
            f"safety_weight is {loss.safety_weight:g}, but no sample is flagged as safety: this "
            "would be plain distillation"
        )


@contextmanager
def _trainable(student: torch.nn.Module) -> Iterator[list[torch.nn.Parameter]]:
    """The parameters to train, requiring gradients for as long as the context lasts."""
    before = [(parameter, parameter.requires_grad) for parameter in student.parameters()]
    chosen = [parameter for parameter, requires in before if requires]
    chosen = chosen or [p for p, _ in before if p.is_floating_point()]
    if not chosen:
        raise ValueError("the student has no float parameters to train")
    narrow = [p.dtype for p in chosen if p.element_size() < 4]
    if narrow:
        raise ValueError(
            f"the student holds {str(narrow[0]).removeprefix('torch.')}, in which most steps of "
            "AdamW round to nothing: train it in float32 and cast it afterwards"
        )
    try:
        for parameter in chosen:
            parameter.requires_grad_(True)
        yield chosen
    finally:
        for parameter, requires in before:
            parameter.requires_grad_(requires)


@contextmanager
def _seeded(student: torch.nn.Module, seed: int) -> Iterator[None]:
    """Random numbers from ``seed``; the caller's go on afterwards where they were."""
    device = _device(student)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _device(module: torch.nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def _order(count: int, steps: int, seed: int) -> list[int]:
    chooser = random.Random(seed)
    order: list[int] = []
    while len(order) < steps:
        order += chooser.sample(range(count), count)
    return order[:steps]


def _refuse_not_finite(value: float, what: str, step: int, learning_rate: float) -> None:
    if not math.isfinite(value):
        raise MeasurementError(
            f"distillation failed at step {step}: {what} is {value}. Lower the learning rate "
            f"({learning_rate:g}), or look for NaN in the teacher's logits"
        )
