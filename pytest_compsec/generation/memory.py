"""Answers of this session, in memory: a question is put to a model once, cache or no cache.

Several tests ask one original the same prompts, and early stopping asks them in parts. Each answer
remembers whether it came from the cache of earlier runs, so that no count is lost on the way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from pytest_compsec.generation.answers import AnswerSheet
from pytest_compsec.generation.settings import Answer


@dataclasses.dataclass
class AnswerMemory:
    """Answers by identity (see :mod:`pytest_compsec.models.identity`) and prompt."""

    known: dict[str, dict[str, tuple[Answer, bool]]] = dataclasses.field(default_factory=dict)

    def missing(self, identity: str, prompts: Sequence[str]) -> list[str]:
        """The distinct prompts that are not known yet, in order."""
        there = self.known.get(identity, {})
        return [prompt for prompt in dict.fromkeys(prompts) if prompt not in there]

    def answers(
        self, identity: str, prompts: Sequence[str], ask: Callable[[list[str]], AnswerSheet]
    ) -> AnswerSheet:
        """One answer per prompt; ``ask`` is called once, for what is missing, if anything is."""
        missing = self.missing(identity, prompts)
        sheet = ask(missing) if missing else AnswerSheet((), ())
        there = self.known.setdefault(identity, {})
        for prompt, answer, cached in zip(missing, sheet.answers, sheet.from_cache, strict=True):
            there[prompt] = (answer, cached)
        pairs = [there[prompt] for prompt in prompts]
        return AnswerSheet(
            tuple(answer for answer, _ in pairs),
            tuple(cached for _, cached in pairs),
            sheet.generated,
            sheet.seconds,
        )
