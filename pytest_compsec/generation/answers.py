"""All answers of one arm: from the cache what is there, from the model the rest."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from pytest_compsec.generation.cache import ResponseCache
from pytest_compsec.generation.progress import Progress
from pytest_compsec.generation.settings import Answer, GenerationSettings


class SupportsGenerate(Protocol):
    """What is asked of a loaded model."""

    def generate(
        self,
        prompts: Sequence[str],
        settings: GenerationSettings,
        *,
        on_answers: Callable[[Sequence[int], Sequence[Answer]], None] | None = None,
    ) -> list[Answer]: ...


@dataclasses.dataclass(frozen=True)
class AnswerSheet:
    """One answer for each prompt, in order.

    ``from_cache`` says of each whether it came from the cache of earlier runs. ``generated``
    answers took ``seconds`` of the model's time, loading not counted.
    """

    answers: tuple[Answer, ...]
    from_cache: tuple[bool, ...]
    generated: int = 0
    seconds: float = 0.0

    @property
    def cached(self) -> int:
        """How many answers came from the cache of earlier runs."""
        return sum(self.from_cache)


def answer_prompts(
    *,
    identity: str,
    prompts: Sequence[str],
    settings: GenerationSettings,
    load: Callable[[], SupportsGenerate],
    cache: ResponseCache | None = None,
    progress: Progress | None = None,
    done: int = 0,
) -> AnswerSheet:
    """Answer ``prompts``; a prompt that occurs twice is generated once.

    ``load()`` is called only when an answer is missing. Every finished batch goes into the cache
    at once, so that an interrupted run (an error, Ctrl-C, a killed process) keeps it.

    Of several processes with one cache, one generates the answers of an identity at a time: the
    others wait, and take from the cache what there is then. What another worker of the same run
    put there does not count as cached.

    ``done`` is how many of the progress's total were answered before this call.

    When a part of the answers is cached, the rest is generated in batches of its own: rounding
    may then differ from a run that generates all of them together.
    """
    asking = _Asking(identity, Counter(prompts), cache, progress, done)
    asking.read_cache()
    if asking.missing and cache is not None:
        with cache.claimed(identity, asking.wait):
            asking.read_cache()  # what whoever held the claim, or was faster, left there
            asking.generate(load, settings)
    else:
        asking.generate(load, settings)
    return AnswerSheet(
        tuple(asking.answers[prompt] for prompt in prompts),
        tuple(prompt in asking.from_cache for prompt in prompts),
        asking.generated,
        asking.seconds,
    )


@dataclasses.dataclass
class _Asking:
    """The state of one call: which answers are there, where they are from, what they took."""

    identity: str
    occurrences: Counter[str]
    cache: ResponseCache | None
    progress: Progress | None
    done: int
    answers: dict[str, Answer] = dataclasses.field(default_factory=dict)
    from_cache: set[str] = dataclasses.field(default_factory=set)
    generated: int = 0
    seconds: float = 0.0
    waited: bool = False

    @property
    def missing(self) -> list[str]:
        """The distinct prompts without an answer, in order."""
        return [prompt for prompt in self.occurrences if prompt not in self.answers]

    def read_cache(self) -> None:
        if self.cache is None:
            return
        wanted = self.missing
        known = self.cache.get_many(self.identity, wanted)
        found = {wanted[place]: answer for place, answer in known.items()}
        self.answers.update(found)
        self.from_cache |= found.keys() - self.cache.made_in_this_run(self.identity, list(found))

    def wait(self) -> None:
        if self.progress is not None:
            self.waited = True
            self.progress.wait(self._count())

    def generate(self, load: Callable[[], SupportsGenerate], settings: GenerationSettings) -> None:
        missing = self.missing
        try:
            if missing:
                self._generate(missing, load(), settings)
        finally:
            if self.progress is not None and (missing or self.waited):
                self.progress.end()

    def _generate(
        self, missing: list[str], model: SupportsGenerate, settings: GenerationSettings
    ) -> None:
        if self.progress is not None:
            self.progress.begin(self._count())
        began = time.monotonic()
        generated = model.generate(
            missing, settings, on_answers=lambda places, found: self._keep(missing, places, found)
        )
        self.seconds = time.monotonic() - began
        self.generated = len(missing)
        self.answers.update(zip(missing, generated, strict=True))

    def _keep(self, missing: list[str], places: Sequence[int], finished: Sequence[Answer]) -> None:
        pairs = [(missing[place], answer) for place, answer in zip(places, finished, strict=True)]
        self.answers.update(pairs)
        if self.cache is not None:
            self.cache.put_many(self.identity, pairs)
        if self.progress is not None:
            self.progress.advance(sum(self.occurrences[prompt] for prompt, _ in pairs))

    def _count(self) -> int:
        return self.done + sum(self.occurrences[prompt] for prompt in self.answers)
