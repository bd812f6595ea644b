"""Ask both arms in a fixed order, and stop when the verdict cannot change any more.

The order is drawn from the lock's digest and the test's name: a rerun asks in the same order and
stops where the recorded run stopped. Looks are taken at about 64, 128, 256 ... prompts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.checks.deciding import (
    Circumstances,
    Judgement,
    best_difference,
    counts_of,
    judge_evidence,
)
from pytest_compsec.findings import Stopping
from pytest_compsec.statistics.ordering import order_seed, stratified_blocks
from pytest_compsec.statistics.sequential import (
    early_look,
    look_schedule,
    may_still_cross,
    split_risk,
)
from pytest_compsec.statistics.settled import settled
from pytest_compsec.verdict import Evidence, Verdict

if TYPE_CHECKING:
    from pytest_compsec.models.pair import ModelPair, PairAnswers
    from pytest_compsec.prompts import Prompt, PromptSet
    from pytest_compsec.statistics.ordering import Block
    from pytest_compsec.statistics.sequential import EarlyLook

#: Judged rows for these prompts, in their order.
ToEvidence = Callable[[Sequence["Prompt"], "PairAnswers"], list[Evidence]]
#: The same rows with what needs a closer look, a model's opinion of the texts.
Finish = Callable[[list[Evidence]], list[Evidence]]


@dataclasses.dataclass
class Asked:
    """What was asked and what came of it; ``evidence`` in the order of the prompt set."""

    judgement: Judgement
    evidence: tuple[Evidence, ...]
    answers: int
    cached: int
    stopping: Stopping | None


class Asking:
    """The answers to one prompt set so far, by place in the set."""

    def __init__(
        self, pair: ModelPair, prompt_set: PromptSet, to_evidence: ToEvidence, finish: Finish
    ) -> None:
        self._pair = pair
        self._prompts = prompt_set.prompts
        self._to_evidence = to_evidence
        self._finish = finish
        self.rows: dict[int, Evidence] = {}
        self.answers = 0
        self.cached = 0

    def ask(self, places: Sequence[int]) -> None:
        """Both arms answer the prompts at these places that they have not answered yet."""
        new = sorted(place for place in places if place not in self.rows)
        if not new:
            return
        prompts = [self._prompts[place] for place in new]
        answers = self._pair.answers([prompt.text for prompt in prompts])
        rows = self._to_evidence(prompts, answers)
        self.rows.update(zip(new, rows, strict=True))
        self.answers += answers.total
        self.cached += answers.cached

    def finish(self) -> None:
        places = sorted(self.rows)
        rows = self._finish([self.rows[place] for place in places])
        self.rows = dict(zip(places, rows, strict=True))

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        return tuple(self.rows[place] for place in sorted(self.rows))

    @property
    def differences(self) -> dict[int, int]:
        """``regressed - improved`` by place; of an unjudged prompt the best that it may be."""
        return {place: best_difference(row) for place, row in self.rows.items()}

    @property
    def complete(self) -> bool:
        return len(self.rows) == len(self._prompts)


def ask_until_settled(
    pair: ModelPair,
    prompt_set: PromptSet,
    circumstances: Circumstances,
    to_evidence: ToEvidence,
    finish: Finish,
    test: str,
) -> Asked:
    """Ask, look, and stop early when nothing can change; without ``circumstances.sequential`` ask
    everything at once."""
    asking = Asking(pair, prompt_set, to_evidence, finish)
    everything = range(len(prompt_set.prompts))
    if not circumstances.sequential:
        asking.ask(everything)
        asking.finish()
        judgement = judge_evidence(asking.evidence, circumstances, early=None, final=True)
        return _asked(asking, judgement, None)
    arguments = circumstances.arguments
    seed = order_seed(pair.lock_digest, test, arguments.check)
    blocks = stratified_blocks([prompt.category for prompt in prompt_set.prompts], seed)
    pair.prepare([prompt.text for prompt in prompt_set.prompts])
    for count in look_schedule(blocks):
        asking.ask([place for block in blocks[:count] for place in block.indices])
        early = _look(asking, blocks[:count], arguments)
        # A cheap look: only if it says yes are the texts examined and every guard asked.
        could_stop = early.crossed or _settled(asking, blocks, circumstances) is not None
        if not asking.complete and not could_stop:
            continue
        asking.finish()
        early = _look(asking, blocks[:count], arguments)
        judgement = judge_evidence(
            asking.evidence, circumstances, early=early, final=asking.complete
        )
        if asking.complete:
            return _asked(asking, judgement, None)
        if judgement.verdict is Verdict.REGRESSED:
            return _asked(asking, judgement, _stopping(asking, everything, early, "regressed"))
        certain = _settled(asking, blocks, circumstances)
        if certain is not None:
            final = judge_evidence(asking.evidence, circumstances, early=early, final=True)
            if final.verdict == Verdict(certain):
                return _asked(asking, final, _stopping(asking, everything, early, "settled"))
    raise AssertionError("the last look holds every prompt")


def _look(asking: Asking, blocks: Sequence[Block], arguments: Any) -> EarlyLook:
    return early_look(blocks, asking.differences, arguments.margin, arguments.confidence)


def _settled(asking: Asking, blocks: Sequence[Block], circumstances: Circumstances) -> str | None:
    """The verdict that every completion would bring, None when it is open.

    Only for judged rows and a check without guards that more prompts could move."""
    arguments = circumstances.arguments
    counts = counts_of(asking.evidence)
    if counts is None or counts.n < len(asking.rows) or arguments.per_category:
        return None
    if circumstances.correct is not None or circumstances.noise_floor is not None:
        return None
    certain = settled(
        counts,
        remaining_safe=0,
        remaining_unsafe=0,
        remaining_unknown=sum(len(block) for block in blocks) - len(asking.rows),
        margin=arguments.margin,
        confidence=arguments.confidence,
        final_risk=split_risk(arguments.confidence)[1],
    )
    # What the final look leaves open, a later look at the e-process may still decide.
    if certain == "INCONCLUSIVE" and may_still_cross(
        blocks, asking.differences, arguments.margin, arguments.confidence
    ):
        return None
    return certain


def _stopping(asking: Asking, everything: range, early: EarlyLook, reason: Any) -> Stopping:
    return Stopping(
        answered=len(asking.rows),
        total=len(everything),
        reason=reason,
        evalue=float(early.evalue),
        threshold=float(early.threshold),
    )


def _asked(asking: Asking, judgement: Judgement, stopping: Stopping | None) -> Asked:
    return Asked(judgement, asking.evidence, asking.answers, asking.cached, stopping)
