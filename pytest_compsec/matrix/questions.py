"""Accuracy and perplexity on built-in texts: what teams look at before they ship.

The questions are small and easy on purpose: a precision at which a model no longer knows them is
broken. They are no benchmark, and figures are to be compared within one matrix only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import MeasurementError

if TYPE_CHECKING:
    from pytest_compsec.models.loaded import LoadedModel

_DATA = Path(__file__).parent / "data"
_INSTRUCTION = "Answer the question in a few words.\n\n"
_CONTINUE = "Write a short paragraph about this: "


@dataclasses.dataclass(frozen=True)
class Question:
    """``choices`` has one right answer, at ``answer``."""

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int


@dataclasses.dataclass(frozen=True)
class Passage:
    """A ``text`` of a few sentences and what it is about."""

    id: str
    topic: str
    text: str


def load_questions() -> tuple[Question, ...]:
    """The built-in questions."""
    return tuple(
        Question(row["id"], row["question"], tuple(row["choices"]), row["answer"])
        for row in _rows("questions.jsonl")
    )


def load_passages() -> tuple[Passage, ...]:
    """The built-in passages."""
    return tuple(Passage(row["id"], row["topic"], row["text"]) for row in _rows("passages.jsonl"))


def texts_digest() -> str:
    """sha256 (hex) of both files, for the record of a matrix."""
    files = (_DATA / "questions.jsonl", _DATA / "passages.jsonl")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def answered_right(model: LoadedModel) -> tuple[bool, ...]:
    """For each built-in question, whether the right choice is the likeliest of its choices.

    Each choice is scored as the model's whole answer to the question, log-likelihood per byte of
    its text, so that long choices are not at a disadvantage (the acc_norm of lm-evaluation-harness,
    Gao et al.). Raises MeasurementError when logits are not numbers.
    """
    from pytest_compsec.generation.scoring import answer_nlls
    from pytest_compsec.models.quiet import quiet

    questions = load_questions()
    asked = [(question, choice) for question in questions for choice in question.choices]
    with quiet():
        nlls = answer_nlls(
            model.module,
            model.tokenizer,
            [_INSTRUCTION + question.question for question, _ in asked],
            [choice for _, choice in asked],
            device=model.device,
            system=model.arm.system,
            chat_template_kwargs=model.arm.chat_template_kwargs,
        )
    per_byte = [
        math.fsum(values) / len(choice.encode("utf-8"))
        for values, (_, choice) in zip(nlls, asked, strict=True)
    ]
    right: list[bool] = []
    start = 0
    for question in questions:
        scores = per_byte[start : start + len(question.choices)]
        start += len(question.choices)
        right.append(scores.index(min(scores)) == question.answer)
    return tuple(right)


def perplexity(model: LoadedModel) -> float:
    """Of the built-in passages, each as the answer to a request for it: ``exp`` of the mean
    negative log-likelihood per token over all passages."""
    from pytest_compsec.generation.scoring import score_answers
    from pytest_compsec.models.quiet import quiet

    passages = load_passages()
    with quiet():
        scores = score_answers(
            model.module,
            model.tokenizer,
            [_CONTINUE + passage.topic for passage in passages],
            [passage.text for passage in passages],
            device=model.device,
            system=model.arm.system,
            chat_template_kwargs=model.arm.chat_template_kwargs,
        )
    counted = [score for score in scores if score is not None]
    tokens = sum(score.tokens for score in counted)
    if not tokens:
        raise MeasurementError("the tokenizer makes no tokens of the built-in passages")
    mean = math.fsum(score.mean_nll * score.tokens for score in counted) / tokens
    return math.exp(mean) if mean < 700 else math.inf


def _rows(name: str) -> list[dict[str, Any]]:
    lines = (_DATA / name).read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]
