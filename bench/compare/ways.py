"""What a way to answer is: two arms, a clock, and what was really computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from bench.cost.work import Row

ARMS = ("original", "compressed")


@dataclasses.dataclass(frozen=True)
class Answered:
    """One arm's answers in one turn: ``texts`` and whether each one counts as complete, and the
    batches in which they were computed (``rows_leave``: a finished row is taken out)."""

    arm: str
    texts: tuple[str, ...]
    batches: tuple[tuple[Row, ...], ...]
    rows_leave: bool


@dataclasses.dataclass(frozen=True)
class Turn:
    """One turn of a way. ``seconds`` is the time of all answers, loading not counted; ``beside``
    holds other times that the way's own clock took, by name. An arm whose answers were there
    before (the cache) is among ``answered`` but not among ``computed``."""

    seconds: float
    answered: tuple[Answered, ...]
    computed: tuple[str, ...] = ARMS
    beside: dict[str, float] = dataclasses.field(default_factory=dict)

    def texts(self, arm: str) -> tuple[str, ...]:
        return next(own.texts for own in self.answered if own.arm == arm)


class Way(Protocol):
    """One way to answer the same prompts with both arms."""

    @property
    def key(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def new_tokens(self) -> int: ...

    def prepare(self) -> None:
        """Whatever is done once and is nobody's speed: loading, a first answer."""
        ...

    def turn(self) -> Turn: ...


def prompt_lengths(model: Any, prompts: Sequence[str]) -> list[int]:
    """Tokens of each prompt with the template of ``model`` (a LoadedModel)."""
    from pytest_compsec.generation.chat import encode, render

    rendered = [
        render(model.tokenizer, prompt, model.arm.system, model.arm.chat_template_kwargs)
        for prompt in prompts
    ]
    return [len(row) for row in encode(model.tokenizer, rendered)]
