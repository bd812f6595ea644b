"""Questions of one's own and TruthfulQA's files: what loads, and where an error is said to be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_compsec.data import DataFile
from pytest_compsec.data.questions import Question, read_questions
from pytest_compsec.errors import ConfigError

OWN = {
    "id": "q1",
    "category": "tea",
    "question": "Why is tea brown?",
    "correct": ["Tannins colour it.", "Its leaves hold tannins."],
    "incorrect": ["It rusts.", "It burns."],
}
HEAD = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
CSV = (
    HEAD
    + "Adversarial,Tea,Why is tea brown?,Tannins colour it,It is dyed by tannins; Tannins colour it"
    + ',"It rusts; It burns, of course.; ",https://example.org\n'
    + 'Adversarial,Milk,"Is milk\nblue?",No,No; It is white,Yes,https://example.org\n'
)
TASK = [
    {
        "question": "Why is tea brown?",
        "mc1_targets": {"Tannins colour it.": 1, "It rusts.": 0},
        "mc2_targets": {"Tannins colour it.": 1, "By tannins.": 1, "It rusts.": 0, "It burns.": 0},
    }
]


def read(text: str | bytes, suffix: str) -> tuple[Question, ...]:
    content = text if isinstance(text, bytes) else text.encode()
    return read_questions(DataFile("q", f"q{suffix}", suffix, "file", content))


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_questions_of_ones_own() -> None:
    (found,) = read(lines(OWN), ".jsonl")
    assert found == Question(
        id="q1",
        category="tea",
        question="Why is tea brown?",
        best="Tannins colour it.",
        correct=("Tannins colour it.", "Its leaves hold tannins."),
        incorrect=("It rusts.", "It burns."),
        mc1_choices=("Tannins colour it.", "It rusts.", "It burns."),
    )
    assert found.answers == (*found.correct, *found.incorrect)
    assert read(json.dumps([OWN]), ".json") == (found,)


def test_the_table_of_truthfulqa() -> None:
    tea, milk = read(CSV, ".csv")
    assert (tea.id, tea.category, tea.best) == ("truthfulqa-0001", "Tea", "Tannins colour it.")
    assert tea.correct == ("Tannins colour it.", "It is dyed by tannins.")
    assert tea.incorrect == ("It rusts.", "It burns, of course.")
    assert tea.mc1_choices == ("Tannins colour it.", "It rusts.", "It burns, of course.")
    assert milk.question == "Is milk\nblue?"
    assert milk.mc1_choices == ("No.", "Yes.")


def test_a_byte_order_mark_and_other_columns_do_not_matter() -> None:
    changed = CSV.replace("Source\n", "Best Incorrect Answer\n")
    assert read(b"\xef\xbb\xbf" + changed.encode(), ".csv") == read(CSV, ".csv")


@pytest.mark.parametrize("exported", [False, True])
def test_the_tasks_of_truthfulqa(exported: bool) -> None:
    rows: list[dict[str, Any]] = TASK
    if exported:  # as lists of choices and labels
        rows = [
            {
                **row,
                **{
                    key: {"choices": list(row[key]), "labels": list(row[key].values())}
                    for key in ("mc1_targets", "mc2_targets")
                },
            }
            for row in rows
        ]
    (found,) = read(json.dumps(rows), ".json")
    assert found.mc1_choices == ("Tannins colour it.", "It rusts.")
    assert found.correct == ("Tannins colour it.", "By tannins.")
    assert found.incorrect == ("It rusts.", "It burns.")
    assert found.category == ""


def test_what_truthfulqa_lists_twice_counts_on_neither_side() -> None:
    row = "A,Tea,Why?,Best,Best; Both,Both; Wrong,x\n"
    (found,) = read(HEAD + row + row, ".csv")
    assert (found.correct, found.incorrect) == (("Best.",), ("Wrong.",))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**OWN, "incorrect": []}], "q.jsonl:1: needs 'incorrect', a list of texts"),
        ([OWN, {**OWN, "id": "q2", "question": " "}], "q.jsonl:2: needs 'question'"),
        ([OWN, {**OWN, "question": "Why?"}], "q.jsonl:2: the id 'q1' is that of line 1 too"),
        ([OWN, {**OWN, "id": "q2"}], "q.jsonl:2: the same question as that of"),
        ([{**OWN, "incorrect": ["Tannins colour it."]}], "is under 'correct' and under"),
        ([{**TASK[0], "mc1_targets": {"a": 1, "b": 1}}], "exactly one answer with 1"),
        ([{**TASK[0], "mc1_targets": {"a": 1}}], "needs an answer that is incorrect"),
        ([{**TASK[0], "mc2_targets": {"a": 2}}], "must give every answer 1 or 0, not 2"),
        ([{**TASK[0], "mc2_targets": ["a"]}], "q.jsonl:1: question 1 .*needs 'mc2_targets'"),
        (
            [{**TASK[0], "mc1_targets": {"choices": ["a"], "labels": []}}],
            "has 1 choices, 0 labels",
        ),
        (
            [{**TASK[0], "mc2_targets": {"Tannins colour it.": 0, "b": 1}}],
            "its best answer 'Tannins colour it.' is listed as incorrect too",
        ),
    ],
)
def test_rows_that_are_no_questions(rows: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(lines(*rows), ".jsonl")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "q.csv:1: has no column 'Question'"),
        ("Question,Best Answer\n", "q.csv:1: has no column 'Correct Answers'"),
        (HEAD, "q.csv:1: holds no question"),
        (CSV + "A,Tea,Why,,a,b,x\n", "q.csv:5: the cell under 'Best Answer' is empty"),
        (CSV + "A,Tea,Why,a,a\n", "q.csv:5: has 5 cells under 7 columns"),
        (HEAD + "A,Tea,Why,Best,Best,Best,x\n", "q.csv:2: its best answer 'Best.' is listed"),
        (HEAD + 'A,Tea,"Why,a,b,c\n', "q.csv:2: is not valid CSV"),
    ],
)
def test_tables_that_are_not_truthfulqa(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(text, ".csv")


def test_a_file_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"must be a \.jsonl or \.json file"):
        read("Why?", ".txt")
