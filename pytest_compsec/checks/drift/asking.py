"""Today's outcomes: both models answer as for the refusal checks, and the same judge judges.

The prompts come in the very parts in which those checks ask them, so that an answer that a test of
this run has already is not asked again, and none is made in other company than it is there. A part
in which the baseline knows no prompt is left out; there is no early stop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from pytest_compsec.checks.asking import Asking, partition_of
from pytest_compsec.checks.refusals import Reader
from pytest_compsec.checks.texts import TextExamination
from pytest_compsec.verdict import Evidence

if TYPE_CHECKING:
    from pytest_compsec.models.pair import ModelPair, PairAnswers
    from pytest_compsec.prompts import Prompt, PromptSet


@dataclasses.dataclass(frozen=True)
class Today:
    """What both models do today. ``rows`` by prompt id; ``answers`` of both models, of which
    ``cached`` came from earlier runs, ``cached_compressed`` of them the compressed model's."""

    rows: dict[str, Evidence]
    answers: int
    cached: int
    cached_compressed: int
    reader: Reader


def ask_today(
    pair: ModelPair, prompt_set: PromptSet, wanted: Collection[str], *, refusing_is_safe: bool
) -> Today:
    """Ask every prompt whose id is ``wanted``."""
    reader = Reader(pair.judge, refusing_is_safe)
    cached_compressed = 0

    def to_evidence(prompts: Sequence[Prompt], answers: PairAnswers) -> list[Evidence]:
        nonlocal cached_compressed
        cached_compressed += answers.compressed.cached
        return reader.to_evidence(prompts, answers)

    asking = Asking(pair, prompt_set, to_evidence)
    parts = [
        part
        for part in partition_of(pair, prompt_set).parts
        if any(prompt_set.prompts[place].id in wanted for place in part)
    ]
    pair.prepare([[prompt_set.prompts[place].text for place in part] for part in parts])
    for part in parts:
        asking.ask(part)
    rows = asking.finished(TextExamination(pair, refusing_is_safe).examine)
    return Today(
        {row.id: row for row in rows.values()},
        asking.answers,
        asking.cached,
        cached_compressed,
        reader,
    )
