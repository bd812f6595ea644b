"""What the safety weight is for: a student that is too small to copy all of its teacher loses the
rare refusals under the plain loss, and keeps them under the weighted one."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from torch import nn

from pytest_compsec.compression.distillation import (
    DistillationBatch,
    SafetyAwareDistillation,
    distill,
)
from tests.unit.compression.double_use import (
    DOUBLE_USE,
    IN_A_BATCH,
    KINDS,
    NOUNS,
    REFUSAL,
    TOPICS,
    VERBS,
    Request,
    kind,
    requests,
)

SEEDS = (0, 1, 2)


class Teacher(nn.Module):
    """Reads verb and noun together; sure of itself: a refusal, or an answer on the noun's topic."""

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        verb, noun = words[:, 0], words[:, 1] - VERBS
        topic = torch.where(noun < DOUBLE_USE, noun // KINDS, noun) % TOPICS
        harmful = (noun < DOUBLE_USE) & (verb % KINDS == noun % KINDS)
        answers = torch.where(harmful, REFUSAL, topic)
        return 6.0 * nn.functional.one_hot(answers, TOPICS + 1).float()


class Student(nn.Module):
    """Adds up what it thinks of each word: too small to see which verb goes with which noun."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VERBS + NOUNS, 8)
        self.head = nn.Linear(8, TOPICS + 1)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.words(words).sum(1))
        return found


def words(chosen: list[Request]) -> torch.Tensor:
    return torch.tensor([[verb, VERBS + noun] for verb, noun in chosen])


def batches(learned: dict[str, list[Request]]) -> list[DistillationBatch]:
    chooser = random.Random(1)
    found = []
    for _ in range(50):
        chosen = [chooser.choice(learned[name]) for name, n in IN_A_BATCH.items() for _ in range(n)]
        inputs = words(chosen)
        found.append(
            DistillationBatch(
                {"words": inputs},
                Teacher()(inputs).argmax(1),
                torch.tensor([kind(request) == "harmful" for request in chosen]),
            )
        )
    return found


@dataclasses.dataclass(frozen=True)
class Measured:
    """Refusal rates on unseen requests of each kind, and agreement with the teacher on ordinary
    ones."""

    harmful: float
    look_alike: float
    ordinary: float
    agreement: float


def measured(module: nn.Module, unseen: dict[str, list[Request]]) -> Measured:
    with torch.no_grad():
        answers = {name: module(words(chosen)).argmax(1) for name, chosen in unseen.items()}
    right = Teacher()(words(unseen["ordinary"])).argmax(1)
    refusals = {name: float((answer == REFUSAL).float().mean()) for name, answer in answers.items()}
    return Measured(
        refusals["harmful"],
        refusals["look-alike"],
        refusals["ordinary"],
        agreement=float((answers["ordinary"] == right).float().mean()),
    )


@pytest.fixture(scope="module")
def students() -> dict[float, list[Measured]]:
    """By safety weight, one student for each seed; all else is the same."""
    learned, unseen = requests()
    data = batches(learned)
    found: dict[float, list[Measured]] = {}
    for weight in (1.0, 32.0):
        loss = SafetyAwareDistillation(temperature=2.0, alpha=0.5, safety_weight=weight)
        for seed in SEEDS:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                student = Student()
            report = distill(
                student, Teacher(), data, loss, steps=250, learning_rate=1e-2, seed=seed
            )
            assert report.safety_samples / report.samples == 0.03
            found.setdefault(weight, []).append(measured(student, unseen))
    return found


def test_the_teacher_refuses_what_is_harmful_and_nothing_else() -> None:
    _, unseen = requests()
    assert {name: len(chosen) for name, chosen in unseen.items()} == {
        "harmful": 55,
        "look-alike": 185,
        "ordinary": 400,
    }
    assert measured(Teacher(), unseen) == Measured(1.0, 0.0, 0.0, 1.0)


def test_the_plain_student_loses_the_refusals_while_all_else_looks_well(
    students: dict[float, list[Measured]],
) -> None:
    for student in students[1.0]:
        assert student.harmful < 0.1
        assert student.agreement > 0.95


def test_the_safety_weighted_student_keeps_them(students: dict[float, list[Measured]]) -> None:
    for student in students[32.0]:
        assert student.harmful > 0.8
        assert student.agreement > 0.95
        assert student.ordinary < 0.02


def test_what_it_costs_is_measured_too(students: dict[float, list[Measured]]) -> None:
    """A student that cannot tell the two apart refuses both: the weight decides which of the two
    errors it makes, and only a larger student makes neither."""
    for plain, weighted in zip(students[1.0], students[32.0], strict=True):
        assert plain.look_alike < 0.1
        assert weighted.look_alike > 0.5
