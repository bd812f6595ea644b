"""A model spread over two real GPUs answers as it does on one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pytest_compsec.generation.settings import GenerationSettings
from pytest_compsec.models import spreading
from pytest_compsec.models.loading import load
from tests.unit.tiny_model import make_arm, make_tiny_checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]
SETTINGS = GenerationSettings(max_new_tokens=8)
PROMPTS = ("Hello there", "What is the capital of France?", "Name a colour")


def test_a_model_larger_than_one_gpu_answers_as_on_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = make_arm(make_tiny_checkpoint(tmp_path / "model", seed=1), device="cuda")
    alone = load(arm)
    expected = [answer.text for answer in alone.generate(PROMPTS, SETTINGS)]
    size = spreading.module_bytes(alone.module)
    small = {"cuda:0": int(0.8 * size), "cuda:1": 4 * size}
    monkeypatch.setattr(
        "pytest_compsec.models.loading.room_for", lambda arm, device: spreading.Room(small)
    )
    model = load(arm)
    places = {str(parameter.device) for parameter in model.module.parameters()}
    assert places == {"cuda:0", "cuda:1"}
    assert [answer.text for answer in model.generate(PROMPTS, SETTINGS)] == expected
