"""A session asks a model each question once and never forgets where an answer came from."""

from __future__ import annotations

from pytest_compsec.generation.answers import AnswerSheet
from pytest_compsec.generation.memory import AnswerMemory
from pytest_compsec.generation.settings import Answer


class Model:
    def __init__(self, cached: set[str] | None = None) -> None:
        self.cached = cached or set()
        self.asked: list[list[str]] = []

    def __call__(self, prompts: list[str]) -> AnswerSheet:
        self.asked.append(prompts)
        return AnswerSheet(
            tuple(Answer(f"to {prompt}", 2, "stop") for prompt in prompts),
            tuple(prompt in self.cached for prompt in prompts),
            generated=len(prompts),
            seconds=1.0,
        )


def test_each_question_is_asked_once() -> None:
    memory, model = AnswerMemory(), Model()
    first = memory.answers("a", ["q1", "q2", "q1"], model)
    assert [answer.text for answer in first.answers] == ["to q1", "to q2", "to q1"]
    again = memory.answers("a", ["q2", "q3"], model)
    assert [answer.text for answer in again.answers] == ["to q2", "to q3"]
    assert model.asked == [["q1", "q2"], ["q3"]]
    assert (again.generated, memory.answers("a", ["q1"], model).generated) == (1, 0)


def test_two_identities_share_nothing() -> None:
    memory, model = AnswerMemory(), Model()
    memory.answers("a", ["q"], model)
    memory.answers("b", ["q"], model)
    assert model.asked == [["q"], ["q"]]


def test_what_came_from_the_cache_still_counts_as_cached_the_second_time() -> None:
    memory, model = AnswerMemory(), Model(cached={"q1"})
    assert memory.answers("a", ["q1", "q2"], model).cached == 1
    assert memory.answers("a", ["q1", "q2"], model).from_cache == (True, False)


def test_a_failed_question_is_not_remembered() -> None:
    memory = AnswerMemory()

    def broken(prompts: list[str]) -> AnswerSheet:
        raise RuntimeError("no memory")

    for _ in range(2):
        try:
            memory.answers("a", ["q"], broken)
        except RuntimeError:
            continue
        raise AssertionError("an answer out of nothing")
    assert memory.missing("a", ["q"]) == ["q"]
