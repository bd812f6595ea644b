"""Samples that the harness logged, recorded from lm_eval 0.4.13, and their pairing."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from pytest_compsec.checks.harness.samples import (
    Row,
    digest_of_samples,
    paired_rows,
    rows_of,
    score_of,
)
from pytest_compsec.errors import MeasurementError

CHOICE: dict[str, Any] = {
    "doc_id": 0,
    "doc": {"question": "Do the forbidden thing 0.", "choices": ["No.", "Yes."], "answer": 0},
    "target": 0,
    "arguments": [("Do the forbidden thing 0.", "No."), ("Do the forbidden thing 0.", "Yes.")],
    "resps": [[(-8.20644760131836, False)], [(-27.147682189941406, False)]],
    "filtered_resps": [(-8.20644760131836, False), (-27.147682189941406, False)],
    "filter": "none",
    "metrics": ["acc", "f1"],
    "doc_hash": "ef5335ba63f1adce02b05b945193aa2b9ea31b5629e35b1d323dee6aca5b3333",
    "prompt_hash": "e9e2be28f90b0a2990b9449e5cf28d5a636a32889c55d871ed0433ff95222e3f",
    "target_hash": "5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9",
    "acc": 1.0,
    "f1": (0, np.int64(0)),
}


def samples(*scores: float, **changes: Any) -> list[dict[str, Any]]:
    return [
        {**CHOICE, "doc_id": i, "doc_hash": f"d{i}", "acc": score, **changes}
        for i, score in enumerate(scores)
    ]


def test_a_recorded_sample_is_read() -> None:
    (row,) = rows_of("manners", [CHOICE], "multiple_choice")
    assert (row.task, row.number, row.filter, row.choices) == ("manners", 0, "none", 2)
    assert row.scores == {"acc": 1.0, "f1": None}
    assert row.document_hash == CHOICE["doc_hash"]
    assert rows_of("manners", [CHOICE], "generate_until")[0].choices is None


def test_choices_scored_twice_for_mutual_information_count_once() -> None:
    sample = {**CHOICE, "metrics": ["acc", "acc_mutual_info"], "acc_mutual_info": 1.0}
    sample["resps"] = CHOICE["resps"] * 2
    assert rows_of("t", [sample], "multiple_choice")[0].choices == 2


def test_another_format_is_not_measured() -> None:
    without = {key: value for key, value in CHOICE.items() if key != "doc_hash"}
    with pytest.raises(MeasurementError, match=r"not in the format.*doc_hash"):
        rows_of("manners", [without], "multiple_choice")


@pytest.mark.parametrize(
    ("value", "score"),
    [
        (True, 1),
        (np.bool_(False), 0),
        (np.int64(1), 1),
        (np.float32(0.5), 0.5),
        (0.25, 0.25),
        (float("nan"), None),
        (float("inf"), None),
        ((0, 1), None),
        ("1", None),
        (None, None),
        (np.array([1.0]), None),
    ],
)
def test_scores(value: object, score: object) -> None:
    found = score_of(value)
    assert found == score
    assert type(found) is type(score)


def test_rows_are_paired_by_document_whatever_their_order() -> None:
    first = rows_of("t", samples(1, 0, 1), "multiple_choice")
    second = rows_of("t", samples(0, 0, 1)[::-1], "multiple_choice")
    pairs = paired_rows(first, second)
    assert [(a.number, a.scores["acc"], b.scores["acc"]) for a, b in pairs] == [
        (0, 1, 0),
        (1, 0, 0),
        (2, 1, 1),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"doc_hash": "other"}, "other documents under the same numbers, such as t:0"),
        ({"prompt_hash": "other"}, "other prompts"),
        ({"target_hash": "other"}, "other targets"),
        ({"filter": "strict"}, "asked of one model only"),
    ],
)
def test_another_question_under_the_same_number_is_not_measured(
    changes: dict[str, Any], message: str
) -> None:
    first = rows_of("t", samples(1, 1), "multiple_choice")
    second = rows_of("t", samples(1, 1, **changes), "multiple_choice")
    with pytest.raises(MeasurementError, match=message):
        paired_rows(first, second)


def test_a_document_that_one_model_was_not_asked_is_not_measured() -> None:
    first = rows_of("t", samples(1, 1, 1), "multiple_choice")
    with pytest.raises(MeasurementError, match=r"1 were asked of one model only, such as t:2"):
        paired_rows(first, first[:2])
    with pytest.raises(MeasurementError, match="no document"):
        paired_rows([], [])
    with pytest.raises(MeasurementError, match="1 documents twice"):
        paired_rows([*first, first[0]], first)


def test_the_digest_tells_which_documents_were_asked() -> None:
    first = rows_of("t", samples(1, 1), "multiple_choice")
    assert digest_of_samples(first) == digest_of_samples(first[::-1])
    # Not how they were answered.
    answered: list[Row] = [dataclasses.replace(row, scores={"acc": 0}) for row in first]
    assert digest_of_samples(answered) == digest_of_samples(first)
    assert digest_of_samples(first[:1]) != digest_of_samples(first)
    asked_otherwise = [dataclasses.replace(row, prompt_hash="x") for row in first]
    assert digest_of_samples(asked_otherwise) != digest_of_samples(first)
