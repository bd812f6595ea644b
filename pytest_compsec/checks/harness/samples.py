"""What the harness logged of each document, and the pairing of both models' documents.

A score means something beside another only if both models were asked the same: the same document,
the same prompt, the same target. The harness logs a digest of each, and all must agree.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from pytest_compsec.errors import MeasurementError

#: An int where the metric yields whole numbers or truth values, None where it yields no number.
Score: TypeAlias = "int | float | None"
_DIGESTS = (
    ("document_hash", "other documents"),
    ("prompt_hash", "other prompts"),
    ("target_hash", "other targets"),
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One document of ``task`` under one of its filters, for one model. ``number`` is its place in
    the task; ``choices`` how many answers a multiple-choice document offers (None: not one)."""

    task: str
    number: int
    filter: str
    document_hash: str
    prompt_hash: str
    target_hash: str
    scores: Mapping[str, Score]
    choices: int | None = None

    @property
    def name(self) -> str:
        return f"{self.task}:{self.number}"


RowPair: TypeAlias = "tuple[Row, Row]"


def rows_of(task: str, samples: Sequence[Mapping[str, Any]], output_type: str) -> tuple[Row, ...]:
    """The rows of what the harness logged (``log_samples=True``) of one task for one model.

    Raises MeasurementError for samples without the fields of the harness's format.
    """
    try:
        return tuple(_row(task, sample, output_type) for sample in samples)
    except (KeyError, TypeError, ValueError) as error:
        raise MeasurementError(
            f"the samples that lm-evaluation-harness logged of {task!r} are not in the format that "
            f"is known here ({type(error).__name__}: {error}). Use a version of lm_eval that "
            "pytest-compsec names in its extra lm-eval"
        ) from None


def _row(task: str, sample: Mapping[str, Any], output_type: str) -> Row:
    names = [str(name) for name in sample["metrics"]]
    choices = None
    if output_type == "multiple_choice":
        # For mutual information every choice is scored a second time, without its question.
        choices = len(sample["resps"]) // (2 if "acc_mutual_info" in names else 1)
    return Row(
        task=task,
        number=int(sample["doc_id"]),
        filter=str(sample["filter"]),
        document_hash=str(sample["doc_hash"]),
        prompt_hash=str(sample["prompt_hash"]),
        target_hash=str(sample["target_hash"]),
        scores={name: score_of(sample[name]) for name in names},
        choices=choices,
    )


def score_of(value: Any) -> Score:
    """A per-document value as a plain number; None for what is none (texts, tuples, NaN)."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # of numpy
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return None


def paired_rows(original: Sequence[Row], compressed: Sequence[Row]) -> tuple[RowPair, ...]:
    """Both models' rows of one task, one to one, in the order of filters and documents.

    Raises MeasurementError where they do not match: a document that only one model was asked,
    twice the same one, or another document, prompt or target under its number.
    """
    if not original and not compressed:
        raise MeasurementError("lm-evaluation-harness logged no document")
    first, second = _by_key(original), _by_key(compressed)
    only = sorted(first.keys() ^ second.keys())
    if only:
        task, found, number = only[0]
        arm = "original" if only[0] in first else "compressed model"
        raise MeasurementError(
            f"the two models' documents do not match: {len(only)} were asked of one model only, "
            f"such as {task}:{number} (filter {found!r}) of the {arm}"
        )
    for key in first:
        for field, what in _DIGESTS:
            if getattr(first[key], field) != getattr(second[key], field):
                raise MeasurementError(
                    f"the two models were asked {what} under the same numbers, such as "
                    f"{first[key].name}: a task whose documents or examples are drawn at random, "
                    "or whose prompts depend on the model, cannot be compared"
                )
    return tuple((first[key], second[key]) for key in sorted(first))


def _by_key(rows: Sequence[Row]) -> dict[tuple[str, str, int], Row]:
    found = {(row.task, row.filter, row.number): row for row in rows}
    if len(found) != len(rows):
        raise MeasurementError(
            f"lm-evaluation-harness logged {len(rows) - len(found)} documents twice, so that they "
            "cannot be paired"
        )
    return found


def digest_of_samples(rows: Sequence[Row]) -> str:
    """sha256 (hex) over which documents were asked with which prompts and targets: what the data
    set of a registered task really was."""
    asked = sorted(
        {(r.task, r.number, r.document_hash, r.prompt_hash, r.target_hash) for r in rows}
    )
    return hashlib.sha256(json.dumps(asked).encode("utf-8")).hexdigest()
