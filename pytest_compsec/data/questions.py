"""Multiple-choice questions of truthfulness: our own JSON Lines, and TruthfulQA's own files.

Three formats are told apart by the file's suffix and its first row:

- ours, ``.jsonl`` or ``.json``: ``id``, ``category``, ``question``, ``correct`` (the best answer
  first), ``incorrect``;
- TruthfulQA's ``TruthfulQA.csv``: the columns ``Question``, ``Best Answer``, ``Correct Answers``
  and ``Incorrect Answers`` (separated by ``;``), and ``Category`` where there is one;
- TruthfulQA's ``mc_task.json``: ``question``, ``mc1_targets`` and ``mc2_targets``, each a table of
  answer to 1 (correct) or 0, or the lists ``choices`` and ``labels`` of its export.

TruthfulQA: Lin, Hilton & Evans, ACL 2022, arXiv 2109.07958.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pytest_compsec.data.file import DataFile, text_of, texts_of
from pytest_compsec.data.repeats import compared, refuse_repeated
from pytest_compsec.errors import ConfigError

_COLUMNS = ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")


@dataclasses.dataclass(frozen=True)
class Question:
    """One question. ``correct`` and ``incorrect`` are all the answers of mc2, ``best`` among the
    correct ones; ``mc1_choices`` are ``best`` (first) and the incorrect ones of mc1, which are
    those of mc2 wherever the file does not list others."""

    id: str
    category: str
    question: str
    best: str
    correct: tuple[str, ...]
    incorrect: tuple[str, ...]
    mc1_choices: tuple[str, ...]

    @property
    def answers(self) -> tuple[str, ...]:
        """Every text that has to be scored, once."""
        return tuple(dict.fromkeys((*self.correct, *self.incorrect, *self.mc1_choices)))


def read_questions(data: DataFile) -> tuple[Question, ...]:
    """The questions of a file, in its order.

    In TruthfulQA's files an answer that is listed as correct and as incorrect counts as neither,
    and a question that comes again word for word is left out; in a file of one's own both are
    errors. Raises ConfigError (``source:line: what; what to do``) for everything that is none of
    the three formats.
    """
    if data.suffix == ".csv":
        return _distinct(_of_csv(data), data, lenient=True)
    rows = data.rows()
    if "mc1_targets" in rows[0][1]:
        return _distinct((_of_task(*row, n, data) for n, row in enumerate(rows, 1)), data, True)
    return _distinct((_own(*row, data) for row in rows), data, lenient=False)


def _distinct(
    found: Iterable[tuple[int, Question]], data: DataFile, lenient: bool
) -> tuple[Question, ...]:
    kept: list[Question] = []
    ids: dict[str, int] = {}
    for line, question in found:
        if question.id in ids:
            raise ConfigError(
                f"{data.source}:{line}: the id {question.id!r} is that of line "
                f"{ids[question.id]} too; give every question its own"
            )
        ids[question.id] = line
        kept.append(question)
    if lenient:
        first: dict[str, Question] = {}
        for question in kept:
            first.setdefault(compared(question.question), question)
        return tuple(first.values())
    where = [f"{data.source}:{line}" for line in ids.values()]
    refuse_repeated([one.question for one in kept], where, "question", names=list(ids))
    return tuple(kept)


def _own(line: int, row: dict[str, Any], data: DataFile) -> tuple[int, Question]:
    correct = _unique(texts_of(row, "correct", data.source, line))
    incorrect = _unique(texts_of(row, "incorrect", data.source, line))
    both = [answer for answer in correct if answer in incorrect]
    if both:
        raise ConfigError(
            f"{data.source}:{line}: {both[0]!r} is under 'correct' and under 'incorrect'; remove "
            "it from one of them"
        )
    return line, Question(
        id=text_of(row, "id", data.source, line),
        category=text_of(row, "category", data.source, line),
        question=text_of(row, "question", data.source, line).strip(),
        best=correct[0],
        correct=correct,
        incorrect=incorrect,
        mc1_choices=(correct[0], *incorrect),
    )


def _of_task(line: int, row: dict[str, Any], number: int, data: DataFile) -> tuple[int, Question]:
    question = text_of(row, "question", data.source, line).strip()
    where = f"{data.source}:{line}: question {number} ({question[:40]!r})"
    best, mc1_incorrect = _targets(row, "mc1_targets", where)
    if len(best) != 1:
        raise ConfigError(f"{where}: 'mc1_targets' needs exactly one answer with 1")
    correct, incorrect = _targets(row, "mc2_targets", where)
    return line, _undisputed(
        number, "", question, best[0], correct, incorrect, where, mc1_incorrect=mc1_incorrect
    )


def _targets(row: dict[str, Any], key: str, where: str) -> tuple[list[str], list[str]]:
    """Answers with 1 and answers with 0."""
    table = row.get(key)
    if isinstance(table, dict) and table.keys() == {"choices", "labels"}:
        choices, labels = table["choices"], table["labels"]
        if not isinstance(choices, list) or not isinstance(labels, list):
            raise ConfigError(f"{where}: {key!r} needs two lists, 'choices' and 'labels'")
        if len(choices) != len(labels):
            raise ConfigError(f"{where}: {key!r} has {len(choices)} choices, {len(labels)} labels")
        pairs: list[tuple[Any, Any]] = list(zip(choices, labels, strict=True))
    elif isinstance(table, dict):
        pairs = list(table.items())
    else:
        raise ConfigError(f"{where}: needs {key!r}, a table of answers, each with 1 or 0")
    for answer, label in pairs:
        if not isinstance(answer, str) or not answer.strip() or label not in (0, 1):
            raise ConfigError(f"{where}: {key!r} must give every answer 1 or 0, not {label!r}")
    return (
        [answer.strip() for answer, label in pairs if label == 1],
        [answer.strip() for answer, label in pairs if label == 0],
    )


def _of_csv(data: DataFile) -> Iterator[tuple[int, Question]]:
    reader = csv.reader(io.StringIO(data.text(), newline=""), strict=True)
    try:
        head = next(reader, [])
        missing = [name for name in _COLUMNS if name not in head]
        if missing:
            raise ConfigError(
                f"{data.source}:1: has no column {missing[0]!r}; a table of questions needs "
                f"{', '.join(_COLUMNS)}, as TruthfulQA.csv has them"
            )
        twice = [name for name in _COLUMNS if head.count(name) > 1]
        if twice:
            raise ConfigError(f"{data.source}:1: has two columns {twice[0]!r}; remove one")
        start, number = reader.line_num + 1, 0
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(head):
                raise ConfigError(
                    f"{data.source}:{line}: has {len(cells)} cells under {len(head)} columns; "
                    "put quotes around a cell that holds a comma"
                )
            number += 1
            yield line, _of_cells(dict(zip(head, cells, strict=True)), number, line, data)
    except csv.Error as error:
        raise ConfigError(f"{data.source}:{reader.line_num}: is not valid CSV ({error})") from None
    if not number:
        raise ConfigError(f"{data.source}:1: holds no question")


def _of_cells(row: dict[str, str], number: int, line: int, data: DataFile) -> Question:
    where = f"{data.source}:{line}"
    for name in _COLUMNS:
        if not row[name].strip():
            raise ConfigError(f"{where}: the cell under {name!r} is empty")
    return _undisputed(
        number,
        row.get("Category", "").strip(),
        row["Question"].strip(),
        _closed(row["Best Answer"].strip()),
        _separated(row["Correct Answers"]),
        _separated(row["Incorrect Answers"]),
        where,
    )


def _separated(cell: str) -> list[str]:
    """The answers of a cell, each ending in a full stop, as TruthfulQA's own scorer makes them."""
    return [_closed(part.strip()) for part in cell.split(";") if part.strip()]


def _closed(answer: str) -> str:
    return answer if answer.endswith(".") else answer + "."


def _undisputed(
    number: int,
    category: str,
    question: str,
    best: str,
    correct: Sequence[str],
    incorrect: Sequence[str],
    where: str,
    *,
    mc1_incorrect: Sequence[str] | None = None,
) -> Question:
    """A question of TruthfulQA, without the answers that it lists on both sides."""
    disputed = {answer for answer in (best, *correct) if answer in incorrect}
    right = _unique(answer for answer in (best, *correct) if answer not in disputed)
    wrong = _unique(answer for answer in incorrect if answer not in disputed)
    others = wrong if mc1_incorrect is None else _unique(mc1_incorrect)
    if best in disputed or best in others:
        raise ConfigError(f"{where}: its best answer {best!r} is listed as incorrect too")
    if not wrong or not others:
        raise ConfigError(f"{where}: needs an answer that is incorrect and no correct one")
    return Question(
        id=f"truthfulqa-{number:04}",
        category=category,
        question=question,
        best=best,
        correct=right,
        incorrect=wrong,
        mc1_choices=(best, *others),
    )


def _unique(answers: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(answer.strip() for answer in answers))
