"""The trainer of students: what it changes, what it leaves as it was, what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from pytest_compsec.compression.distillation import (
    DistillationBatch,
    SafetyAwareDistillation,
    distill,
)
from pytest_compsec.errors import MeasurementError


class Classifier(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, width)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.dropout(self.hidden(x).tanh()))
        return found


def new(seed: int, width: int = 8) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Classifier(width)


def batches(count: int = 5) -> list[DistillationBatch]:
    chooser = torch.Generator().manual_seed(0)
    found = []
    for _ in range(count):
        x = torch.randn(16, 4, generator=chooser)
        safety = torch.zeros(16, dtype=torch.bool)
        safety[0] = True
        found.append(DistillationBatch({"x": x}, x[:, :3].argmax(1), safety))
    return found


def train(student: nn.Module, teacher: nn.Module, **changes: Any) -> Any:
    values: dict[str, Any] = {"steps": 60, "learning_rate": 1e-2, **changes}
    loss = values.pop("loss", SafetyAwareDistillation(safety_weight=3.0))
    return distill(student, teacher, values.pop("batches", batches()), loss, **values)


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(before: dict[str, torch.Tensor], module: nn.Module) -> bool:
    return all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_a_student_comes_to_answer_as_its_teacher_does() -> None:
    student, teacher = new(1, width=6), new(0)
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(9))

    def agreement() -> float:
        student.eval()
        teacher.eval()
        with torch.no_grad():
            return float((student(x).argmax(1) == teacher(x).argmax(1)).float().mean())

    before = agreement()
    report = train(student, teacher, loss=SafetyAwareDistillation(alpha=1.0), steps=300)
    assert before < 0.6
    assert agreement() > 0.9
    assert sum(report.losses[-20:]) < 0.2 * sum(report.losses[:20])


def test_the_report_says_what_was_trained_on_what() -> None:
    student = new(1)
    report = train(student, new(0), steps=12)
    assert report.steps == len(report.losses) == 12
    assert report.trained_parameters == 4 * 8 + 8 + 8 * 3 + 3
    assert (report.samples, report.safety_samples, report.rows) == (80, 5, 80)
    assert report.to_json()["losses"] == list(report.losses)


def test_the_same_seed_gives_the_same_student_and_leaves_random_numbers_alone() -> None:
    found = []
    for place, seed in enumerate((0, 0, 1)):
        torch.manual_seed(place)
        wanted = torch.rand(3)
        torch.manual_seed(place)
        student = new(1)
        train(student, new(0), seed=seed, steps=7)
        assert torch.equal(torch.rand(3), wanted)
        found.append(state(student))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not torch.equal(found[0]["head.weight"], found[2]["head.weight"])


def test_the_teacher_stays_and_the_student_is_left_to_answer() -> None:
    student, teacher = new(1), new(0)
    teacher.train()
    before = state(teacher)
    train(student, teacher)
    assert same(before, teacher)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not teacher.training  # Its dropout would make another target every time.
    assert not student.training
    assert all(parameter.grad is None for parameter in student.parameters())


def test_a_model_loaded_to_answer_is_trained_and_handed_back_as_it_was() -> None:
    student = new(1).eval().requires_grad_(False)
    before = state(student)
    train(student, new(0))
    assert not same(before, student)
    assert not any(parameter.requires_grad for parameter in student.parameters())


def test_frozen_parameters_stay_where_others_are_not() -> None:
    student = new(1)
    student.hidden.requires_grad_(False)
    before = state(student)
    report = train(student, new(0))
    assert torch.equal(student.hidden.weight, before["hidden.weight"])
    assert not torch.equal(student.head.weight, before["head.weight"])
    assert report.trained_parameters == 8 * 3 + 3
    assert [p.requires_grad for p in student.parameters()] == [False, False, True, True]


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_an_error_and_nothing_stays_unfrozen(wrong: float) -> None:
    student, teacher = new(1).requires_grad_(False), new(0)
    teacher.head.weight.data[0, 0] = wrong
    with pytest.raises(MeasurementError, match=r"failed at step 1: the loss is nan"):
        train(student, teacher)
    assert not any(parameter.requires_grad for parameter in student.parameters())
    assert not student.training


def test_a_gradient_that_is_no_number_is_an_error() -> None:
    student = new(1)
    weight: Any = student.head.weight
    weight.register_hook(lambda gradient: gradient * math.nan)
    before = state(student)
    with pytest.raises(MeasurementError, match=r"failed at step 1: a gradient is nan"):
        train(student, new(0))
    assert same(before, student)


def test_flags_that_nobody_set_are_an_error_and_not_plain_distillation() -> None:
    unflagged = [DistillationBatch(batch.inputs, batch.labels) for batch in batches()]
    with pytest.raises(ValueError, match="safety_weight is 3, but no sample is flagged"):
        train(new(1), new(0), batches=unflagged)
    # A flag on what is not learned is none.
    ignored = [
        DistillationBatch(b.inputs, torch.where(b.safety, -100, b.labels), b.safety)
        for b in batches()
        if b.safety is not None
    ]
    with pytest.raises(ValueError, match="no sample is flagged"):
        train(new(1), new(0), batches=ignored)
    assert train(new(1), new(0), batches=unflagged, loss=SafetyAwareDistillation()).steps == 60


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"steps": 0}, "steps must be at least 1"), ({"batches": []}, "no batches")],
)
def test_nothing_to_do_is_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(new(1), new(0), **changes)


def test_a_student_that_shares_with_its_teacher_is_refused() -> None:
    student, teacher = new(1), new(0)
    student.head = teacher.head
    with pytest.raises(ValueError, match="share parameters"):
        train(student, teacher)


def test_a_student_in_sixteen_bits_is_refused() -> None:
    with pytest.raises(ValueError, match=r"holds bfloat16.*train it in float32"):
        train(new(1).to(torch.bfloat16), new(0))


def test_a_module_that_gives_no_logits_is_refused() -> None:
    class Both(Classifier):
        def forward(self, x: torch.Tensor) -> Any:
            return super().forward(x), x

    with pytest.raises(ValueError, match="the student returns tuple"):
        train(Both(), new(0))
