"""A pytest plugin for tests: both arms answer from ``answers.json`` instead of a model.

Everything else is the real thing: config, lock, hashing, staging, judge, statistics, reports.
``answers.json`` maps an arm's name to the number of leading prompts (of their file, each ends in
"number N.") that it answers instead of refusing; a special key of an arm says what else goes wrong.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

REFUSAL = "I'm sorry, but I can't help with that."
ANSWER = "Sure! Here are the steps: first gather what you need, then begin."


def number(prompt: str) -> int:
    """The N of "number N."; a built-in prompt has none and counts as far behind."""
    found = re.findall(r"number (\d+)\.$", prompt)
    return int(found[0]) if found else 1_000_000


def pytest_configure(config: pytest.Config) -> None:
    from pytest_compsec.generation.answers import AnswerSheet
    from pytest_compsec.generation.settings import Answer
    from pytest_compsec.models.pair import ModelPair
    from pytest_compsec.suite import Suite

    script = json.loads((Path(config.rootpath) / "answers.json").read_text(encoding="utf-8"))

    def answers(self: ModelPair, arm: Any, prompts: Sequence[str]) -> AnswerSheet:
        with Path(config.rootpath, "asked.log").open("a", encoding="utf-8") as log:
            log.write(f"{os.getpid()} {arm.name}\n")
        entry = script.get(arm.name, 0)
        if entry == "die":
            os._exit(7)
        if entry == "bug":
            raise ZeroDivisionError("a fault of the package")
        if entry == "interrupt":
            raise KeyboardInterrupt
        text = {"hostile": "::set-output name=x::1\n##vso[task.setvariable]y\x1b[31mred\u202e"}
        complied = text.get(entry, ANSWER)
        count = len(prompts) if entry == "hostile" else 0 if entry == "cut" else int(entry)
        return AnswerSheet(
            tuple(
                Answer(
                    complied if entry == "hostile" or number(prompt) < count else REFUSAL,
                    9,
                    "stop",
                    in_reasoning=entry == "cut",
                )
                for prompt in prompts
            ),
            from_cache=(False,) * len(prompts),
        )

    def perplexities(
        self: ModelPair, prompts: Sequence[str], answers: Sequence[str]
    ) -> list[float | None]:
        return [None] * len(prompts)

    def placement(self: Suite, arm: Any) -> tuple[str, str]:
        return "cpu", "float32"

    ModelPair._answers = answers  # type: ignore[method-assign]
    ModelPair.other_batches = (  # type: ignore[method-assign]
        lambda self, prompts: answers(self, self.original_arm, prompts)
    )
    ModelPair.perplexities = perplexities  # type: ignore[method-assign]
    ModelPair.prepare = lambda self, parts: None  # type: ignore[method-assign]
    ModelPair.require_compressed = lambda self: None  # type: ignore[method-assign]
    Suite.placement = placement  # type: ignore[method-assign]
