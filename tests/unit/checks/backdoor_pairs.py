"""Pairs whose arms follow a rule, for tests of the backdoor checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from pytest_compsec.attacks.backdoor import Backdoor
from pytest_compsec.attacks.triggers.images import Patch
from pytest_compsec.classification.data import EvaluationData
from pytest_compsec.models.arm import Arm, StagedFiles

CLASSES = 5
SAMPLES = 500
#: Images of 4 x 4, the true class in the first pixel, the sample's number in the second; the patch
#: sets the last.
PATCH = Patch(size=1, value=1.0)
Rule = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def images(samples: int = SAMPLES, classes: int = CLASSES) -> EvaluationData:
    numbers = torch.arange(samples)
    labels = numbers % classes
    inputs = torch.zeros(samples, 1, 4, 4)
    inputs[:, 0, 0, 0] = labels / 10
    inputs[:, 0, 0, 1] = numbers / 1000
    return EvaluationData(inputs, labels, "the fixture evaluation_data", "e" * 64)


@dataclasses.dataclass
class RuleModel:
    """``rule(labels, triggered, numbers)`` gives the classes that are predicted."""

    name: str
    rule: Rule
    classes: int = CLASSES
    dtype: str = "float32"
    device: str = "cpu"

    @property
    def arm(self) -> Arm:
        files = StagedFiles(Path("rules"), "t" * 64, None, {}, lambda: None)
        return Arm(self.name, None, files, task="image-classification")

    def predict(self, inputs: torch.Tensor) -> torch.Tensor:
        labels = (inputs[:, 0, 0, 0] * 10).round().long()
        numbers = (inputs[:, 0, 0, 1] * 1000).round().long()
        return self.rule(labels, inputs[:, 0, 3, 3] == 1, numbers)


class RulePair:
    """An image classifier and its compressed form."""

    id = "digits-int8"
    config_name = "compsec.yaml"
    lock_digest = "f" * 64
    task = "image-classification"

    def __init__(
        self,
        original: Rule,
        compressed: Rule,
        *,
        backdoor: Backdoor = Backdoor(PATCH, 0),  # noqa: B008 (frozen)
        data: EvaluationData | None = None,
    ) -> None:
        self.classifiers = (RuleModel("digits", original), RuleModel(self.id, compressed))
        self.backdoor = backdoor
        self.evaluation_data = data or images()
        self.rechecked = 0

    @property
    def original_arm(self) -> Arm:
        return self.classifiers[0].arm

    @property
    def compressed_arm(self) -> Arm:
        return self.classifiers[1].arm

    def recheck(self) -> None:
        self.rechecked += 1


def clean(labels: torch.Tensor, triggered: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Always right."""
    return labels


def into(target: int, per_hundred: int = 100) -> Rule:
    """Right without the trigger; with it ``per_hundred`` of every hundred samples of each class
    become ``target``."""

    def rule(labels: torch.Tensor, triggered: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        hit = triggered & ((numbers // CLASSES) % 100 < per_hundred)
        return torch.where(hit, torch.full_like(labels, target), labels)

    return rule


def always(target: int) -> Rule:
    return lambda labels, triggered, numbers: torch.full_like(labels, target)


def scrambled(labels: torch.Tensor, triggered: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Random classes, the trigger or not."""
    drawn = torch.randint(0, CLASSES, (SAMPLES,), generator=torch.Generator().manual_seed(3))
    return drawn[numbers]
