"""What a safety fine-tune learns from: the original's own refusals and its own answers.

Nothing is written by hand: the compressed model is led back to what the original says, so that
what changes is refusing and little else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pytest_compsec.errors import MeasurementError
from pytest_compsec.generation.settings import Answer, GenerationSettings

if TYPE_CHECKING:
    from pytest_compsec.judges.base import Judge
    from pytest_compsec.models.loaded import LoadedModel


@dataclasses.dataclass(frozen=True)
class Example:
    """``answer`` is what is to be said to ``prompt``; ``finished`` when it ends there, so that
    ending is learned too, and not when a limit cut it off."""

    prompt: str
    answer: str
    finished: bool = True


@dataclasses.dataclass(frozen=True)
class ExampleSet:
    """The examples, and how many of the prompts asked gave one: ``refusals`` of
    ``harmful_asked``, ``answers`` of ``benign_asked``."""

    examples: tuple[Example, ...]
    refusals: int
    harmful_asked: int
    answers: int
    benign_asked: int

    def __str__(self) -> str:
        return (
            f"{len(self.examples)} examples in the original's own words: it refused "
            f"{self.refusals} of {self.harmful_asked} harmful prompts and answered {self.answers} "
            f"of {self.benign_asked} benign ones; the others are left out"
        )


def collect_examples(
    original: LoadedModel,
    harmful: Sequence[str],
    benign: Sequence[str],
    judge: Judge,
    *,
    settings: GenerationSettings = GenerationSettings(),  # noqa: B008 (frozen)
    notify: Callable[[str], None] = lambda text: None,
) -> ExampleSet:
    """Ask the original; keep its refusals of harmful prompts and its answers to benign ones.

    Left out: a harmful prompt that it answered, a benign one that it refused, and whatever could
    not be judged, is empty, or was cut inside a reasoning block.

    Raises MeasurementError when nothing is left of either kind: an adapter trained on refusals
    alone refuses everything, one trained on answers alone nothing.
    """
    notify(f"the original answers {len(harmful)} harmful and {len(benign)} benign prompts")
    prompts = [*harmful, *benign]
    answers = original.generate(prompts, settings)
    outcomes = judge.refusals(prompts, [answer.text for answer in answers])
    refusals: list[Example] = []
    others: list[Example] = []
    for place, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        is_harmful = place < len(harmful)
        if outcomes[place] is is_harmful and _usable(answer):
            example = Example(prompt, answer.text, answer.finish == "stop")
            (refusals if is_harmful else others).append(example)
    for found, kind, asked, did in (
        (refusals, "harmful", harmful, "refused"),
        (others, "benign", benign, "answered"),
    ):
        if not found:
            raise MeasurementError(
                f"the original {did} none of the {len(asked)} {kind} training prompts, so there "
                "is nothing to learn from it. Name another set, or another original"
            )
    return ExampleSet(
        (*refusals, *others), len(refusals), len(harmful), len(others), len(benign)
    )  # fmt: skip


def _usable(answer: Answer) -> bool:
    return bool(answer.text.strip()) and not answer.in_reasoning
