"""The built-in data: their index, and misconceptions that nobody can answer from form alone."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from pytest_compsec.config.data_files import BUILTIN_DATA
from pytest_compsec.data import builtin, builtin_data_names, read_builtin_data
from pytest_compsec.data.questions import Question, read_questions
from pytest_compsec.data.refresh import DESCRIPTIONS, refresh
from pytest_compsec.errors import IntegrityError
from pytest_compsec.prompts import near_duplicates

DATA = Path(builtin.__file__).parent


@pytest.fixture(scope="module")
def misconceptions() -> tuple[Question, ...]:
    return read_questions(read_builtin_data("misconceptions"))


def test_the_names_that_a_config_knows_are_those_of_the_index() -> None:
    assert builtin_data_names() == tuple(sorted(BUILTIN_DATA)) == tuple(sorted(DESCRIPTIONS))


@pytest.mark.parametrize("name", BUILTIN_DATA)
def test_every_file_is_that_of_the_index_with_as_many_rows(name: str) -> None:
    rows = read_builtin_data(name).rows()
    assert len(rows) == builtin.read_data_index()[name].count
    ids = [row["id"] for _, row in rows]
    assert len(set(ids)) == len(ids)
    assert all(str(one).startswith(f"{name}-") for one in ids)


def test_a_changed_file_is_noticed_and_refreshed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in [*DATA.glob("*.jsonl"), DATA / builtin.INDEX]:
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(builtin, "_directory", lambda: tmp_path)
    assert refresh(tmp_path) == {}
    assert (tmp_path / builtin.INDEX).read_bytes() == (DATA / builtin.INDEX).read_bytes()
    with (tmp_path / "facts.jsonl").open("a", encoding="utf-8") as facts:
        facts.write('{"id": "facts-own-001"}\n')
    with pytest.raises(IntegrityError, match=r"facts\.jsonl has the sha256"):
        read_builtin_data("facts")
    before = builtin.read_data_index()["facts"]
    assert list(refresh(tmp_path)) == ["facts"]
    assert builtin.read_data_index()["facts"].count == before.count + 1
    read_builtin_data("facts")
    (tmp_path / "prose.jsonl").unlink()
    (old, new) = refresh(tmp_path)["prose"]
    assert old
    assert not new
    assert "prose" not in json.loads((tmp_path / builtin.INDEX).read_text(encoding="utf-8"))


def test_misconceptions_are_many_and_spread_over_categories(
    misconceptions: tuple[Question, ...],
) -> None:
    assert len(misconceptions) >= 500
    counts = Counter(question.category for question in misconceptions)
    assert len(counts) == 12
    assert min(counts.values()) >= 40
    order = [(question.category, question.id) for question in misconceptions]
    assert order == sorted(order)


def test_no_misconception_is_asked_twice(misconceptions: tuple[Question, ...]) -> None:
    assert near_duplicates([one.question for one in misconceptions]) == []
    # The same fact under another question would have much the same right answers.
    assert near_duplicates([" ".join(one.correct) for one in misconceptions], threshold=0.4) == []
    answers = Counter(answer for one in misconceptions for answer in one.correct)
    assert answers.most_common(1)[0][1] == 1


def right_by(misconceptions: tuple[Question, ...], sign: int) -> float:
    """How often the longest (1) or shortest (-1) answer of mc1 is the best one; ties are shared."""
    right = 0.0
    for one in misconceptions:
        sizes = [sign * len(answer) for answer in one.mc1_choices]
        right += (sizes[0] == max(sizes)) / sizes.count(max(sizes))
    return right / len(misconceptions)


def test_length_does_not_give_the_answer_away(misconceptions: tuple[Question, ...]) -> None:
    chance = sum(1 / len(one.mc1_choices) for one in misconceptions) / len(misconceptions)
    assert chance == pytest.approx(0.25)
    for sign in (1, -1):
        assert right_by(misconceptions, sign) <= 0.4


def opening(answer: str) -> str:
    return answer.split()[0].strip(",.").lower()


def test_first_words_do_not_give_the_answer_away(misconceptions: tuple[Question, ...]) -> None:
    """A judge who knows of each first word how often it begins a correct answer, learned on one
    half of the questions, is right on the other half little more often than a guess."""
    halves = misconceptions[::2], misconceptions[1::2]
    right = 0.0
    for learned, asked in itertools.permutations(halves):
        good = Counter(opening(one.best) for one in learned)
        all_of_them = Counter(opening(answer) for one in learned for answer in one.mc1_choices)
        for one in asked:
            scores = [
                (good[opening(answer)] + 1) / (all_of_them[opening(answer)] + 4)
                for answer in one.mc1_choices
            ]
            right += (scores[0] == max(scores)) / scores.count(max(scores))
    assert right / len(misconceptions) <= 0.4


def test_yes_and_no_are_both_right_often_enough(misconceptions: tuple[Question, ...]) -> None:
    said = Counter(opening(one.best) for one in misconceptions)
    assert 0.3 <= said["yes"] / (said["yes"] + said["no"]) <= 0.7
