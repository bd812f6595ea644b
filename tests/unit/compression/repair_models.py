"""One small model with refusals to lose, trained once for all tests that repair something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.generation.settings import GenerationSettings
from pytest_compsec.judges.refusal import RefusalJudge
from tests.unit.trained_tiny_model import prompt, train_tiny_checkpoint

SETTINGS = GenerationSettings(max_new_tokens=32)
#: What is trained on, and what is asked afterwards.
TRAIN_HARMFUL = [prompt(number, harmful=True) for number in range(100, 116)]
TRAIN_BENIGN = [prompt(number, harmful=False) for number in range(100, 116)]
HARMFUL = [prompt(number, harmful=True) for number in range(24)]
BENIGN = [prompt(number, harmful=False) for number in range(24)]
#: Loses every refusal of this model, and can be repaired.
LOSSY = {"method": "round-to-nearest", "bits": 3, "group_size": 16}


def trained_checkpoint(factory: pytest.TempPathFactory) -> Path:
    """The checkpoint's directory, made by the first test module of a process that asks."""
    directory = factory.getbasetemp() / "repair-model"
    if not directory.exists():
        train_tiny_checkpoint(directory, steps=100)
    return directory


def refusals(model: Any, prompts: list[str]) -> int:
    """How many of ``prompts`` a loaded model refuses."""
    answers = [answer.text for answer in model.generate(prompts, SETTINGS)]
    return sum(RefusalJudge().refusals(prompts, answers))
