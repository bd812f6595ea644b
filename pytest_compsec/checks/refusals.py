"""Ask both arms, judge every answer: the measurement under the two refusal checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_compsec.checks.asking import ask_until_settled
from pytest_compsec.checks.circumstances import circumstances_of
from pytest_compsec.checks.paired import Measured, result_of
from pytest_compsec.checks.runtime_note import runtime_notes
from pytest_compsec.checks.signal import refusal_signal
from pytest_compsec.checks.texts import TextExamination
from pytest_compsec.verdict import CheckResult, Evidence

if TYPE_CHECKING:
    from pytest_compsec.checks.selection import PairedArguments
    from pytest_compsec.checks.wording import Wording
    from pytest_compsec.generation.settings import Answer
    from pytest_compsec.judges.base import Judge
    from pytest_compsec.models.pair import ModelPair, PairAnswers
    from pytest_compsec.prompts import Prompt

CUT_IN_REASONING = "cut inside a reasoning block"
NOT_JUDGED = "the judge gave no outcome"


def measure_refusals(
    pair: ModelPair,
    arguments: PairedArguments,
    wording: Wording,
    *,
    refusing_is_safe: bool,
    test: str,
) -> CheckResult:
    """Both arms answer the prompts that ``arguments`` name, the pair's judge judges, and the
    paired counts decide. Files are checked once more before the verdict."""
    prompt_set = pair.prompt_set(arguments.prompts)
    reader = Reader(pair.judge, refusing_is_safe)
    texts = TextExamination(pair, refusing_is_safe)
    asked = ask_until_settled(
        pair,
        prompt_set,
        circumstances_of(pair, prompt_set, arguments, reader, refusing_is_safe),
        reader.to_evidence,
        texts.examine,
    )
    agreement = runtime_notes(pair, prompt_set, reader)
    pair.recheck()
    measured = Measured(
        asked,
        notes=(*reader.notes, *agreement),
        texts=texts.finding(asked.evidence),
        signal=refusal_signal(reader, asked.evidence) if refusing_is_safe else None,
        answers_are_safe=not refusing_is_safe,
    )
    return result_of(pair, prompt_set, arguments, measured, wording, test)


@dataclasses.dataclass
class Answered:
    """One prompt's answers, and whether each is a refusal (None: not judged)."""

    original: Answer
    compressed: Answer
    original_refused: bool | None
    compressed_refused: bool | None


class Reader:
    """Judges both arms' answers and remembers them, by prompt id.

    On harmful prompts refusing is safe. On benign prompts answering is.
    """

    def __init__(self, judge: Judge, refusing_is_safe: bool) -> None:
        self._judge = judge
        self._refusing_is_safe = refusing_is_safe
        self.answered: dict[str, Answered] = {}
        self.notes: dict[str, None] = {}

    def to_evidence(self, prompts: Sequence[Prompt], answers: PairAnswers) -> list[Evidence]:
        """One row per prompt."""
        original = answers.original.answers
        compressed = answers.compressed.answers
        before = self.judged(prompts, original)
        after = self.judged(prompts, compressed)
        for at, prompt in enumerate(prompts):
            self.answered[prompt.id] = Answered(original[at], compressed[at], before[at], after[at])
        return [self._row(prompt, self.answered[prompt.id]) for prompt in prompts]

    def _row(self, prompt: Prompt, answered: Answered) -> Evidence:
        note = ""
        if answered.original.in_reasoning or answered.compressed.in_reasoning:
            note = CUT_IN_REASONING
        elif answered.original_refused is None or answered.compressed_refused is None:
            note = NOT_JUDGED
        return Evidence(
            id=prompt.id,
            category=prompt.category,
            prompt=prompt.text,
            original=answered.original.text,
            compressed=answered.compressed.text,
            original_safe=self._safe(answered.original_refused),
            compressed_safe=self._safe(answered.compressed_refused),
            note=note,
        )

    def judged(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> list[bool | None]:
        """Refused or not, per answer; None where the answer holds nothing to judge."""
        verdicts = self._judge.refusals(
            [prompt.text for prompt in prompts], [answer.text for answer in answers]
        )
        # Judges that are asked, rather than computed, say which replies they could not read.
        self.notes.update(dict.fromkeys(getattr(self._judge, "notes", ())))
        return [
            None if answer.in_reasoning else refused
            for answer, refused in zip(answers, verdicts, strict=True)
        ]

    def is_safe(self, refused: bool) -> bool:
        return refused == self._refusing_is_safe

    def _safe(self, refused: bool | None) -> bool | None:
        return None if refused is None else self.is_safe(refused)
