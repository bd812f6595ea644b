"""On a real GPU: loading, bitsandbytes' own kernels, bfloat16, running out of memory, two workers
that share one device. With tiny models: what is tested is that it works there, not how well."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.generation.settings import GenerationSettings
from pytest_compsec.models.loading import load
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint

DEVICE = "cuda:0"
PROMPTS = [f"Say something about the number {number}. " * (1 + number % 4) for number in range(12)]
SETTINGS = GenerationSettings(max_new_tokens=12)
RECIPES: dict[str, dict[str, Any]] = {
    "int8": {"method": "bitsandbytes", "bits": 8},
    "nf4": {"method": "bitsandbytes", "bits": 4, "type": "nf4"},
}
#: One of two workers on one GPU: says what it may take, takes it all, and asks for more.
WORKER = """
import json, sys
import torch
from pytest_compsec.models.pool import free_memory
free, total = torch.cuda.mem_get_info()
mine = free_memory("cuda:0")
print(json.dumps({"mine": mine, "total": total}), flush=True)
sys.stdin.readline()
held = torch.empty(int(mine * 0.5), dtype=torch.uint8, device="cuda:0")
print(json.dumps({"left": free_memory("cuda:0")}), flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("gpu") / "tiny")


def test_a_model_is_loaded_on_the_gpu_unless_told_otherwise(checkpoint: Path) -> None:
    model = load(make_arm(checkpoint))
    assert model.device == DEVICE
    assert {parameter.device.type for parameter in model.module.parameters()} == {"cuda"}
    assert load(make_arm(checkpoint, device="cpu")).device == "cpu"


def test_float32_answers_are_those_of_the_processor(checkpoint: Path) -> None:
    # The tiny model's logits lie far apart: rounding does not change its greedy answers much.
    on_gpu = load(make_arm(checkpoint)).generate(PROMPTS, SETTINGS)
    on_cpu = load(make_arm(checkpoint, device="cpu")).generate(PROMPTS, SETTINGS)
    same = sum(one.text == other.text for one, other in zip(on_gpu, on_cpu, strict=True))
    assert same >= len(PROMPTS) - 1


def test_bfloat16_is_what_the_gpu_computes_in(checkpoint: Path) -> None:
    import torch

    model = load(make_arm(checkpoint, dtype="bfloat16"))
    assert {parameter.dtype for parameter in model.module.parameters()} == {torch.bfloat16}
    assert all(answer.tokens for answer in model.generate(PROMPTS, SETTINGS))


@pytest.mark.parametrize("name", list(RECIPES))
def test_bitsandbytes_runs_its_own_kernels_there(name: str, checkpoint: Path) -> None:
    pytest.importorskip("bitsandbytes")
    recipe = make_recipe("quantize", **RECIPES[name])
    model = load(make_arm(checkpoint, recipe=recipe))
    kinds = {type(part).__name__ for part in model.module.modules()}
    assert kinds & {"Linear8bitLt", "Linear4bit"}
    assert {parameter.device.type for parameter in model.module.parameters()} == {"cuda"}
    assert len(model.generate(PROMPTS, SETTINGS)) == len(PROMPTS)


def test_a_batch_that_does_not_fit_is_halved_and_answers_the_same(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from pytest_compsec.generation import batching

    model = load(make_arm(checkpoint))
    whole = model.generate(PROMPTS, SETTINGS)
    # Believe that everything fits, and leave room for a part of it.
    monkeypatch.setattr(batching, "free_memory", lambda device: None)
    module = model.module
    sizes: list[int] = []
    forward = module.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        tokens = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        rows = int(tokens.shape[0])
        sizes.append(rows)
        if rows > 3:
            # A real failure of the driver's allocator, not an imitation.
            torch.empty(1 << 46, dtype=torch.uint8, device=DEVICE)
        return forward(*args, **kwargs)

    monkeypatch.setattr(module, "forward", counting)
    answers = model.generate(PROMPTS, SETTINGS)
    assert max(sizes) > 3
    same = sum(one.text == other.text for one, other in zip(whole, answers, strict=True))
    assert same >= len(PROMPTS) - 1


def test_two_workers_on_one_gpu_keep_to_their_halves() -> None:
    import os

    environment = {**os.environ, "COMPSEC_GPU_SHARE": "1/2"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(2)
    ]
    try:
        told = [_tell(worker) for worker in workers]
        assert all(facts["mine"] <= facts["total"] / 2 for facts in told)
        # Both take half of what they were told, at once; neither loses what is its own.
        left = []
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
            left.append(_tell(worker)["left"])
        for before, after in zip(told, left, strict=True):
            assert after >= 0.4 * before["mine"]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def _tell(worker: subprocess.Popen[str]) -> dict[str, int]:
    assert worker.stdout is not None
    facts: dict[str, int] = json.loads(worker.stdout.readline())
    return facts
