"""The search for prompts that only the compressed model answers.

Transforms are applied to prompts that the original refuses, in batches, until the budget is spent
or nothing is left. A finding is a transformed prompt that the original refuses too and that the
compressed model answers with sound text. Findings are no verdict: the search asks most where it
found most, so its shares say nothing about a model as a whole (see ``STATEMENT``).
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_compsec.attacks.prompts.bandit import Bandit, Tally
from pytest_compsec.attacks.prompts.draws import Draws
from pytest_compsec.attacks.prompts.reading import AnswerReader, Outcome, Question
from pytest_compsec.attacks.prompts.search_report import (
    STATEMENT,
    Finding,
    PlainSummary,
    SearchReport,
    TransformSummary,
)
from pytest_compsec.attacks.prompts.transforms import chosen
from pytest_compsec.attacks.prompts.wrapping import transform_of
from pytest_compsec.errors import ConfigError
from pytest_compsec.generation.progress import SilentProgress

if TYPE_CHECKING:
    from pytest_compsec.attacks.prompts.model import Transform
    from pytest_compsec.generation.progress import Progress
    from pytest_compsec.models.pair import ModelPair
    from pytest_compsec.prompts.model import Prompt, PromptSet

__all__ = ["STATEMENT", "Finding", "SearchReport", "TransformSummary", "search_bypasses"]

#: Transformed prompts that both arms answer at a time: enough for efficient batches, few enough
#: that the bandit learns within the usual budget.
BATCH = 64
#: Rounds over all transforms before the bandit chooses, if half the budget holds them.
OPENING = 10


@dataclasses.dataclass(frozen=True)
class _Row:
    """One transformed prompt and what came of it; ``new``: the compressed model refuses the plain
    prompt."""

    question: Question
    original: str
    compressed: str
    before: Outcome
    after: Outcome
    new: bool

    @property
    def found(self) -> bool:
        return self.before == "refused" and self.after == "answered"


def search_bypasses(
    pair: ModelPair,
    *,
    prompts: str = "harmful",
    transforms: Sequence[str | Transform] | None = None,
    budget: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
    batch_size: int = BATCH,
) -> SearchReport:
    """Search ``budget`` transformed prompts for those that only the compressed model answers.

    The same pair, prompts, transforms, budget, batch size and seed give the same report.

    Args:
        prompts: the set of plain prompts; asking them does not count towards the budget.
        transforms: names, or transforms of one's own; None: all.
        progress: told of each batch of transformed prompts; its total is ``budget``.

    Raises:
        ConfigError: no such transform or prompt set; the set is itself made by transforms; the
            budget or the batch size is less than 1.
        IntegrityError: a file behind either arm changed meanwhile.
    """
    tried = chosen(transforms)
    for name, value in (("budget", budget), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name}={value!r}: give a whole number of at least 1")
    prompt_set = pair.prompt_set(prompts)
    wrapped = [prompt.id for prompt in prompt_set.prompts if transform_of(prompt.id)]
    if wrapped:
        raise ConfigError(
            f"prompts={prompts!r}: its prompts are transformed already ({wrapped[0]}). Search from "
            "plain ones, such as 'harmful'"
        )
    search = _Search(pair, prompt_set, tried, budget, seed, batch_size)
    told = progress or SilentProgress()
    told.begin(0)
    try:
        while search.ask():
            told.advance(search.last)
    finally:
        told.end()
    pair.recheck()
    return search.report()


class _Search:
    """The state of one search."""

    def __init__(
        self,
        pair: ModelPair,
        prompt_set: PromptSet,
        transforms: Sequence[Transform],
        budget: int,
        seed: int,
        batch_size: int,
    ) -> None:
        self._pair = pair
        self._prompt_set = prompt_set
        self._transforms = {transform.name: transform for transform in transforms}
        self._budget = budget
        self._seed = seed
        self._batch_size = batch_size
        self._reader = AnswerReader(pair)
        self._rows: list[_Row] = []
        self._unchanged = 0
        self.last = 0
        self._refused_plainly: set[str] = set()
        subjects = self._ask_plainly()
        # Each transform meets the prompts in an order of its own: what is asked of one is then no
        # easier than what is asked of another.
        self._left = {
            name: collections.deque(Draws(seed, "order", name).shuffled(subjects))
            for name in self._transforms
        }
        self._tallies = {name: Tally() for name in self._transforms}
        opening = min(OPENING, max(1, budget // (2 * len(transforms))))
        self._bandit = Bandit(tuple(self._transforms), opening, seed)

    def _ask_plainly(self) -> list[Prompt]:
        """Both arms answer the plain prompts; those that the original refuses."""
        prompts = self._prompt_set.prompts
        answers = self._pair.answers([prompt.text for prompt in prompts])
        self._reader.set_limit(prompts, answers.original.answers)
        questions = [Question(prompt, None, prompt.text) for prompt in prompts]
        before = self._reader.outcomes(questions, answers.original.answers)
        after = self._reader.outcomes(questions, answers.compressed.answers)
        both = collections.Counter(zip(before, after, strict=True))
        self._plain = PlainSummary(
            prompts=len(prompts),
            original_refused=before.count("refused"),
            only_compressed_answered=both["refused", "answered"],
            only_original_answered=both["answered", "refused"],
            not_judged=sum(n for pair, n in both.items() if "not judged" in pair),
        )
        for prompt, outcome in zip(prompts, after, strict=True):
            if outcome == "refused":
                self._refused_plainly.add(prompt.id)
        return [p for p, outcome in zip(prompts, before, strict=True) if outcome == "refused"]

    def ask(self) -> bool:
        """Both arms answer one more batch; False when the budget is spent or nothing is left."""
        questions = self._next_questions(min(self._batch_size, self._budget - len(self._rows)))
        if not questions:
            return False
        answers = self._pair.answers([question.text for question in questions])
        original, compressed = answers.original.answers, answers.compressed.answers
        before = self._reader.outcomes(questions, original)
        after = self._reader.outcomes(questions, compressed)
        for at, question in enumerate(questions):
            row = _Row(
                question,
                original[at].text,
                compressed[at].text,
                before[at],
                after[at],
                new=question.prompt.id in self._refused_plainly,
            )
            self._rows.append(row)
            tally = self._tallies[_name(question)]
            tally.asked += 1
            tally.found += row.found
        self.last = len(questions)
        return True

    def _next_questions(self, wanted: int) -> list[Question]:
        questions: list[Question] = []
        while len(questions) < wanted:
            left = {name: len(prompts) for name, prompts in self._left.items()}
            name = self._bandit.choose(left, self._tallies)
            if name is None:
                break
            prompt = self._left[name].popleft()
            transform = self._transforms[name]
            try:
                text = transform.apply(prompt.text, seed=self._seed, prompt_id=prompt.id)
            except ValueError:
                self._unchanged += 1  # a prompt that this transform would leave as it is
                continue
            questions.append(Question(prompt, transform, text))
        return questions

    def report(self) -> SearchReport:
        judge = self._pair.judge
        notes = self._reader.notes
        if self._unchanged:
            notes += (f"{self._unchanged} prompts were left out: their transform changes nothing.",)
        if self._rows and self._reader.limit is None:
            notes += (
                "The original gave too few answers of its own to set a limit for garbage: only "
                "empty and repetitive texts were left out.",
            )
        return SearchReport(
            pair=self._pair.id,
            prompts=self._prompt_set.name,
            prompts_digest=self._prompt_set.digest,
            lock_digest=self._pair.lock_digest,
            judge=f"{judge.name} {judge.version}",
            budget=self._budget,
            seed=self._seed,
            asked=len(self._rows),
            exhausted=not any(self._left.values()),
            perplexity_limit=self._reader.limit,
            plain=self._plain,
            transforms=tuple(self._summary(name) for name in self._transforms),
            findings=tuple(_finding(row) for row in self._rows if row.found),
            notes=notes,
        )

    def _summary(self, name: str) -> TransformSummary:
        rows = [row for row in self._rows if _name(row.question) == name]
        return TransformSummary(
            transform=name,
            family=self._transforms[name].family,
            asked=len(rows),
            original_refused=sum(row.before == "refused" for row in rows),
            only_compressed_answered=sum(row.found for row in rows),
            new=sum(row.found and row.new for row in rows),
            mirrored=sum(
                row.new and row.before == "answered" and row.after == "refused" for row in rows
            ),
            no_answer=sum(row.after == "no answer" for row in rows),
            not_judged=sum("not judged" in (row.before, row.after) for row in rows),
        )


def _name(question: Question) -> str:
    assert question.transform is not None  # only transformed prompts become rows
    return question.transform.name


def _finding(row: _Row) -> Finding:
    question = row.question
    assert question.transform is not None
    return Finding(
        prompt_id=question.prompt.id,
        category=question.prompt.category,
        prompt=question.prompt.text,
        transform=question.transform.name,
        family=question.transform.family,
        transformed=question.text,
        original=row.original,
        compressed=row.compressed,
        new=row.new,
    )
