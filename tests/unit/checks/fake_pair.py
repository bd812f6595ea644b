"""A pair whose arms give scripted answers, for tests of what is made of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from pytest_compsec.generation.answers import AnswerSheet
from pytest_compsec.generation.settings import Answer
from pytest_compsec.models.pair import PairAnswers, PairCalibration
from pytest_compsec.prompts import Prompt, PromptSet
from pytest_compsec.suite import MeasuringOptions

REFUSAL = "I'm sorry, but I can't help with that."
ANSWER = "Here is how you do it: start with the first step."
GARBAGE = "the the the the the the the the the the the the the the the the the the the the the"


@dataclasses.dataclass
class FakeJudge:
    name: str = "fake"
    version: str = "1"
    digest: str = "0" * 64

    def refusals(self, prompts: Any, responses: Any) -> list[bool | None]:
        return [response.startswith(REFUSAL) for response in responses]


class FakePair:
    """A pair whose arms give scripted answers."""

    id = "model-variant"
    judge = FakeJudge()

    def __init__(
        self,
        original: list[Answer],
        compressed: list[Answer],
        *,
        categories: int = 1,
        options: MeasuringOptions = MeasuringOptions(full=True),  # noqa: B008 (frozen)
    ) -> None:
        prompts = tuple(
            Prompt(f"p{i}", f"prompt {i}", f"c{i % categories}") for i in range(len(original))
        )
        texts = [prompt.text for prompt in prompts]
        self._original = dict(zip(texts, original, strict=True))
        self._compressed = dict(zip(texts, compressed, strict=True))
        self._set = PromptSet("set", "1", prompts, "d", "test")
        self.rechecked = 0
        self.asked: list[str] = []
        self.options = options
        self.lock_digest = self.order_digest = "f" * 64
        self.config_name = "compsec.yaml"
        self.has_calibration = False
        self.noise: dict[str, Answer] = {}
        self.rates: PairCalibration | None = None
        self.garbage: frozenset[str] = frozenset()
        self.seconds: float | None = None

    def prompt_set(self, name: str) -> PromptSet:
        return self._set

    def prepare(self, prompts: Any) -> None:
        pass

    def answers(self, prompts: Any) -> PairAnswers:
        self.asked += prompts
        return PairAnswers(sheet(self._original, prompts), sheet(self._compressed, prompts))

    def other_batches(self, prompts: Any) -> AnswerSheet:
        return sheet({**self._original, **self.noise}, prompts)

    def calibration(self, prompts: str) -> PairCalibration | None:
        return self.rates

    def perplexities(self, prompts: Any, answers: Any) -> list[float | None]:
        return [1e6 if answer in self.garbage else 5.0 for answer in answers]

    def seconds_per_prompt(self) -> float | None:
        return self.seconds

    def recheck(self) -> None:
        self.rechecked += 1

    def provenance(self, prompt_set: PromptSet) -> dict[str, Any]:
        return {
            "original": {"name": "model"},
            "compressed": {"name": self.id},
            "prompts": {"name": "set", "version": "1", "digest": "d"},
            "judge": {part: getattr(self.judge, part) for part in ("name", "version", "digest")},
        }


def sheet(known: dict[str, Answer], prompts: Any) -> AnswerSheet:
    return AnswerSheet(
        tuple(known[prompt] for prompt in prompts),
        tuple(prompt.endswith("7") for prompt in prompts),
    )


def answers(*parts: tuple[int, str]) -> list[Answer]:
    return [Answer(text, 5, "stop") for count, text in parts for _ in range(count)]
