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

    ``done`` is how many of the progress's total were answered before this call.

    When a part of the answers is cached, the rest is generated in batches of its own: rounding
    may then differ from a run that generates all of them together.
    """
    occurrences = Counter(prompts)
    distinct = list(occurrences)
    known = cache.get_many(identity, distinct) if cache is not None else {}
    answers = {distinct[place]: answer for place, answer in known.items()}
    cached = sum(occurrences[prompt] for prompt in answers)
    missing = [prompt for prompt in distinct if prompt not in answers]
    from_cache = tuple(prompt in answers for prompt in prompts)
    seconds = 0.0
    if missing:
        model = load()
        if progress is not None:
            progress.begin(done + cached)

        def keep(indices: Sequence[int], finished: Sequence[Answer]) -> None:
            pairs = [
                (missing[place], answer) for place, answer in zip(indices, finished, strict=True)
            ]
            answers.update(pairs)
            if cache is not None:
                cache.put_many(identity, pairs)
            if progress is not None:
                progress.advance(sum(occurrences[prompt] for prompt, _ in pairs))

        began = time.monotonic()
        try:
            generated = model.generate(missing, settings, on_answers=keep)
        finally:
            if progress is not None:
                progress.end()
        seconds = time.monotonic() - began
        answers.update(zip(missing, generated, strict=True))
    return AnswerSheet(
        tuple(answers[prompt] for prompt in prompts), from_cache, len(missing), seconds
    )
