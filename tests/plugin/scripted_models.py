"""A pytest plugin for tests: models that answer from a script, everything around them is real.

Unlike ``scripted_answers`` it keeps cache, claims and progress: what is scripted is the loaded
model. ``models.json``: ``seconds`` a prompt takes, and ``comply``, by arm the number of leading
prompts that it answers instead of refusing. Every loaded model and every generated answer is
written to ``work.log``: worker, device, what, arm, seconds on a clock that all processes share.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

REFUSAL = "I'm sorry, but I can't help with that."
ANSWER = "Sure! Here are the steps: first gather what you need, then begin."
BATCH = 50


def pytest_configure(config: pytest.Config) -> None:
    from pytest_compsec.generation.settings import Answer
    from pytest_compsec.models.pair import ModelPair
    from pytest_compsec.suite import Suite

    root = Path(config.rootpath)
    script = json.loads((root / "models.json").read_text(encoding="utf-8"))
    worker = getattr(config, "workerinput", {"workerid": "serial"})["workerid"]
    loaded: list[str] = []

    def log(what: str, arm: str) -> None:
        device = os.environ.get("CUDA_VISIBLE_DEVICES", "-")
        with (root / "work.log").open("a", encoding="utf-8") as file:
            file.write(f"{worker} {device} {what} {arm} {time.time():.3f}\n")

    class Finished:
        def pytest_runtest_logfinish(self, nodeid: str) -> None:
            log("finishes", nodeid)

    if hasattr(config, "workerinput"):
        config.pluginmanager.register(Finished())

    class Model:
        def __init__(self, name: str) -> None:
            self._name = name

        def generate(
            self,
            prompts: Sequence[str],
            settings: Any,
            *,
            on_answers: Callable[[Sequence[int], Sequence[Any]], None] | None = None,
            **others: Any,
        ) -> list[Any]:
            log(f"generates-{len(prompts)}", self._name)
            comply = script.get("comply", {}).get(self._name, 0)
            answers = []
            for start in range(0, len(prompts), BATCH):
                part = prompts[start : start + BATCH]
                time.sleep(script["seconds"] * len(part))
                found = [
                    Answer(ANSWER if _number(prompt) < comply else REFUSAL, 9, "stop")
                    for prompt in part
                ]
                answers += found
                if on_answers is not None:
                    on_answers(range(start, start + len(part)), found)
            log("ends", self._name)
            return answers

    def load(self: ModelPair, arm: Any) -> Any:
        if arm.name not in loaded:
            loaded.append(arm.name)
            log("loads", arm.name)
        return Model(arm.name)

    ModelPair._load = load  # type: ignore[method-assign]
    ModelPair.perplexities = (  # type: ignore[method-assign]
        lambda self, prompts, answers: [None] * len(prompts)
    )
    ModelPair.prepare = lambda self, parts: None  # type: ignore[method-assign]
    ModelPair.require_compressed = lambda self: None  # type: ignore[method-assign]
    Suite.placement = lambda self, arm: ("cpu", "float32")  # type: ignore[method-assign]


def _number(prompt: str) -> int:
    found = re.findall(r"number (\d+)\.$", prompt)
    return int(found[0]) if found else 1_000_000
