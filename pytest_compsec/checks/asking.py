"""Ask both arms in a fixed order, and stop when the verdict cannot change any more.

The order is drawn from the digests of the lock and of the prompts: a rerun asks in the same order
and stops where the recorded run stopped. All tests of a run share it, on purpose. Rounding differs
with the batch that an answer is made in; with an order of its own each test would compare a
compressed model's answers with answers that the original gave in other company, and alone another
verdict than in a full run. Looks are taken at about 64, 128, 256 ... prompts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
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
    stopping: Stopping | None = None


class Asking:
    """The answers to one prompt set so far, by place in the set."""

    def __init__(self, pair: ModelPair, prompt_set: PromptSet, to_evidence: ToEvidence) -> None:
        self._pair = pair
        self._prompts = prompt_set.prompts
        self._to_evidence = to_evidence
        self.rows: dict[int, Evidence] = {}
        self.answers = 0
        self.cached = 0

    def ask(self, places: Sequence[int]) -> None:
        """Both arms answer the prompts at these places."""
        prompts = [self._prompts[place] for place in places]
        answers = self._pair.answers([prompt.text for prompt in prompts])
        rows = self._to_evidence(prompts, answers)
        self.rows.update(zip(places, rows, strict=True))
        self.answers += answers.total
        self.cached += answers.cached

    def finished(self, finish: Finish) -> dict[int, Evidence]:
        """The rows after a closer look, in the order of the set."""
        places = sorted(self.rows)
        return dict(zip(places, finish([self.rows[place] for place in places]), strict=True))

    @property
    def complete(self) -> bool:
        return len(self.rows) == len(self._prompts)


@dataclasses.dataclass(frozen=True)
class Partition:
    """In which parts a prompt set is asked: ``blocks`` in the drawn order, ``looks`` how many of
    them each look sees, ``parts`` what is asked before each, as places in the set."""

    blocks: Sequence[Block]
    looks: Sequence[int]
    parts: tuple[list[int], ...]


def partition_of(pair: ModelPair, prompt_set: PromptSet) -> Partition:
    """The parts in which every check of a run asks these prompts."""
    seed = order_seed(pair.order_digest, prompt_set.digest)
    blocks = stratified_blocks([prompt.category for prompt in prompt_set.prompts], seed)
    looks = look_schedule(blocks)
    parts = tuple(
        sorted(place for block in blocks[begin:end] for place in block.indices)
        for begin, end in zip((0, *looks), looks, strict=False)
    )
    return Partition(blocks, looks, parts)


def ask_until_settled(
    pair: ModelPair,
    prompt_set: PromptSet,
    circumstances: Circumstances,
    to_evidence: ToEvidence,
    finish: Finish,
) -> Asked:
    """Ask part by part and stop early when nothing can change.

    Without ``circumstances.sequential`` everything is asked, in the same parts: the answers are
    then those that an early stop would have seen.
    """
    asking = Asking(pair, prompt_set, to_evidence)
    partition = partition_of(pair, prompt_set)
    blocks = partition.blocks
    pair.prepare([[prompt_set.prompts[place].text for place in part] for part in partition.parts])
    for count, part in zip(partition.looks, partition.parts, strict=True):
        asking.ask(part)
        if not asking.complete and not circumstances.sequential:
            continue
        stopped = _look(asking, blocks, blocks[:count], circumstances, finish)
        if stopped is not None:
            return stopped
    raise AssertionError("the last look holds every prompt")


def _look(
    asking: Asking,
    blocks: Sequence[Block],
    answered: Sequence[Block],
    circumstances: Circumstances,
    finish: Finish,
) -> Asked | None:
    """What a look at the answers so far settles; None when the asking goes on."""
    if not asking.complete and not _could_stop(asking.rows, blocks, answered, circumstances):
        return None
    rows = asking.finished(finish)
    evidence = tuple(rows.values())
    early = _early(rows, answered, circumstances) if circumstances.sequential else None

    def asked(judgement: Judgement, reason: Any = None) -> Asked:
        stopping = None
        if reason is not None and early is not None:
            total = sum(len(block) for block in blocks)
            stopping = Stopping(len(rows), total, reason, early.evalue, early.threshold)
        return Asked(judgement, evidence, asking.answers, asking.cached, stopping)

    judgement = judge_evidence(evidence, circumstances, early=early, final=asking.complete)
    if asking.complete:
        return asked(judgement)
    if judgement.verdict is Verdict.REGRESSED:
        return asked(judgement, "regressed")
    certain = _settled(rows, blocks, circumstances)
    if certain is not None:
        judgement = judge_evidence(evidence, circumstances, early=early, final=True, complete=False)
        if judgement.verdict == Verdict(certain):
            return asked(judgement, "settled")
    return None


def _could_stop(
    rows: Mapping[int, Evidence],
    blocks: Sequence[Block],
    answered: Sequence[Block],
    circumstances: Circumstances,
) -> bool:
    """A cheap look: only if it says yes are the texts examined and every guard asked."""
    if _early(rows, answered, circumstances).crossed:
        return True
    return _settled(rows, blocks, circumstances) is not None


def _early(
    rows: Mapping[int, Evidence], answered: Sequence[Block], circumstances: Circumstances
) -> EarlyLook:
    arguments = circumstances.arguments
    return early_look(answered, _differences(rows), arguments.margin, arguments.confidence)


def _differences(rows: Mapping[int, Evidence]) -> dict[int, int]:
    """``regressed - improved`` by place; of an unjudged prompt the best that it may be."""
    return {place: best_difference(row) for place, row in rows.items()}


def _settled(
    rows: Mapping[int, Evidence], blocks: Sequence[Block], circumstances: Circumstances
) -> str | None:
    """The verdict that every completion would bring, None when it is open.

    Only for judged rows and a check without guards that more prompts could move."""
    arguments = circumstances.arguments
    counts = counts_of(list(rows.values()))
    if counts is None or counts.n < len(rows) or arguments.per_category:
        return None
    if circumstances.correct is not None or circumstances.noise_floor is not None:
        return None
    certain = settled(
        counts,
        remaining_safe=0,
        remaining_unsafe=0,
        remaining_unknown=sum(len(block) for block in blocks) - len(rows),
        margin=arguments.margin,
        confidence=arguments.confidence,
        final_risk=split_risk(arguments.confidence)[1],
    )
    # What the final look leaves open, a later look at the e-process may still decide.
    if certain == "INCONCLUSIVE" and may_still_cross(
        blocks, _differences(rows), arguments.margin, arguments.confidence
    ):
        return None
    return certain
