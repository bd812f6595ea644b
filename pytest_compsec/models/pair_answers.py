"""Putting prompts to the arms of a pair: memory answers, then the cache, and a model the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import IntegrityError
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.pair_facts import ENOUGH_TO_TIME, RATE_FACT, Load

if TYPE_CHECKING:
    from pytest_compsec.generation.answers import AnswerSheet
    from pytest_compsec.generation.cache import ResponseCache
    from pytest_compsec.generation.settings import GenerationSettings
    from pytest_compsec.suite import Suite


@dataclasses.dataclass(frozen=True)
class PairAnswers:
    """What both arms answered to the same prompts, in the order of the prompts."""

    original: AnswerSheet
    compressed: AnswerSheet

    @property
    def total(self) -> int:
        return len(self.original.answers) + len(self.compressed.answers)

    @property
    def cached(self) -> int:
        return self.original.cached + self.compressed.cached


class Asking:
    """Asks the arms of one pair, each loaded by ``load`` only for what no memory holds."""

    def __init__(self, suite: Suite, load: Load) -> None:
        self._suite = suite
        self._load = load
        self._planned: tuple[str, ...] = ()  # what the check at work may ask in all

    def prepare(self, original: Arm, compressed: Arm, parts: Sequence[Sequence[str]]) -> None:
        """Called before prompts are asked part by part. Where memory does not hold both arms the
        original answers all parts now, so that the arms need not take turns."""
        self._planned = tuple(prompt for part in parts for prompt in part)
        if not self._suite.pool.fits_together(original, compressed):
            for prompts in parts:
                self.answers(original, prompts)

    def answers(self, arm: Arm, prompts: Sequence[str]) -> AnswerSheet:
        """One arm answers ``prompts`` greedily, and is timed."""
        identity = self._suite.identity(arm)
        settings = self._suite.generation
        sheet = self._suite.memory.answers(
            identity,
            prompts,
            lambda missing: self._ask(arm, missing, settings, identity, self._suite.cache),
        )
        if sheet.generated >= ENOUGH_TO_TIME:
            self._suite.remember(arm, RATE_FACT, round(sheet.seconds / sheet.generated, 6))
        return sheet

    def other_batches(self, arm: Arm, prompts: Sequence[str]) -> AnswerSheet:
        """``arm`` answers once more, in batches composed at random and of another size. Never from
        the cache of earlier runs, nor into it."""
        settings = dataclasses.replace(self._suite.generation, shuffle=1)
        identity = f"{self._suite.identity(arm)} in other batches"
        return self._suite.memory.answers(
            identity, prompts, lambda missing: self._ask(arm, missing, settings, identity, None)
        )

    def unpacked_answers(self, arm: Arm, prompts: Sequence[str]) -> AnswerSheet:
        """What the file of an arm in llama.cpp answers when transformers unpacks and runs it."""
        arm = dataclasses.replace(arm, runtime=None)
        identity = self._suite.identity(arm)
        settings, cache = self._suite.generation, self._suite.cache
        return self._suite.memory.answers(
            identity,
            prompts,
            lambda missing: self._ask(arm, missing, settings, identity, cache, label=" unpacked"),
        )

    def _ask(
        self,
        arm: Arm,
        prompts: Sequence[str],
        settings: GenerationSettings,
        identity: str,
        cache: ResponseCache | None,
        *,
        label: str = "",
    ) -> AnswerSheet:
        from pytest_compsec.generation.answers import answer_prompts

        # Of a check that asks in parts, the line counts over all that it may ask.
        planned = not label and set(prompts) <= set(self._planned)
        whole = self._planned if planned else tuple(prompts)
        done = len(whole) - len(self._suite.memory.missing(identity, whole))
        original = self._suite.inputs.arm(arm.model, None)
        try:
            return answer_prompts(
                identity=identity,
                prompts=prompts,
                settings=settings,
                load=lambda: _drafting(self._suite, self._load(arm), original, arm),
                cache=cache,
                progress=self._suite.progress(f"answering {arm.name}{label}", len(whole)),
                done=done,
            )
        except IntegrityError:
            # Another model answered: what it said before it was noticed may be its, too.
            self._suite.forget(identity)
            raise


def _drafting(suite: Suite, model: Any, original: Arm, arm: Arm) -> Any:
    """``model``, or, where the original's answers are to be its drafts, one that has them at hand.
    Which answers are known makes none of its own wrong: a draft is a guess."""
    from pytest_compsec.generation.drafts import WithDrafts, drafts_wanted

    alike = (
        arm.variant is not None
        and all(one.runtime is None and one.served is None for one in (arm, original))
        and arm.system == original.system
        and arm.chat_template_kwargs == original.chat_template_kwargs
    )
    recipe = arm.recipe
    if not drafts_wanted(
        suite.generation,
        device=suite.placement(arm)[0],
        section=recipe.section if recipe else None,
        method=recipe.method if recipe else None,
        alike=alike,
    ):
        return model
    known = suite.memory.known.get(suite.identity(original), {})
    return WithDrafts(model, {prompt: answer for prompt, (answer, _) in known.items()})
