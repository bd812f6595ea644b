"""Answers of one arm: cached ones are not generated, generated ones are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pytest_compsec.generation.answers import AnswerSheet, answer_prompts
from pytest_compsec.generation.cache import ResponseCache
from pytest_compsec.generation.settings import Answer, GenerationSettings

SETTINGS = GenerationSettings(max_new_tokens=8)


class Model:
    """Answers in batches of two, in reversed order; stops with ``error`` after ``batches``."""

    def __init__(self, batches: int = 99, error: BaseException | None = None) -> None:
        self.asked: list[str] = []
        self.loads = 0
        self._batches = batches
        self._error = error

    def load(self) -> Model:
        self.loads += 1
        return self

    def generate(
        self,
        prompts: Sequence[str],
        settings: GenerationSettings,
        *,
        on_answers: Callable[[Sequence[int], Sequence[Answer]], None] | None = None,
    ) -> list[Answer]:
        assert settings is SETTINGS
        self.asked.extend(prompts)
        answers = [Answer(f"to {prompt}", 2, "stop") for prompt in prompts]
        for number, start in enumerate(range(0, len(prompts), 2)):
            if number == self._batches and self._error is not None:
                raise self._error
            batch = [len(prompts) - 1 - at for at in range(start, min(start + 2, len(prompts)))]
            if on_answers is not None:
                on_answers(batch, [answers[at] for at in batch])
        return answers


class Recorder:
    def __init__(self) -> None:
        self.events: list[str] = []

    def wait(self, done: int) -> None:
        self.events.append(f"wait {done}")

    def begin(self, done: int) -> None:
        self.events.append(f"begin {done}")

    def advance(self, count: int) -> None:
        self.events.append(f"+{count}")

    def end(self) -> None:
        self.events.append("end")


def ask(model: Model, prompts: Sequence[str], cache: ResponseCache | None = None) -> AnswerSheet:
    if cache is not None:
        cache = ResponseCache(cache.path)  # every call stands for a run of its own
    return answer_prompts(
        identity="a", prompts=prompts, settings=SETTINGS, load=model.load, cache=cache
    )


def texts(sheet: AnswerSheet) -> list[str]:
    return [answer.text for answer in sheet.answers]


@pytest.fixture
def cache(tmp_path: Path) -> ResponseCache:
    return ResponseCache(tmp_path / "answers.sqlite")


def test_answers_are_in_the_order_of_the_prompts() -> None:
    sheet = ask(Model(), ["q1", "q2", "q3"])
    assert (texts(sheet), sheet.cached) == (["to q1", "to q2", "to q3"], 0)


def test_all_cached_means_the_model_is_not_loaded(cache: ResponseCache) -> None:
    ask(Model(), ["q1", "q2"], cache)
    model = Model()
    sheet = ask(model, ["q2", "q1", "q2"], cache)
    assert (texts(sheet), sheet.cached, model.loads) == (["to q2", "to q1", "to q2"], 3, 0)


def test_only_what_is_missing_is_generated(cache: ResponseCache) -> None:
    ask(Model(), ["q1", "q3"], cache)
    model = Model()
    sheet = ask(model, ["q1", "q2", "q3", "q4"], cache)
    assert model.asked == ["q2", "q4"]
    assert (texts(sheet), sheet.cached) == (["to q1", "to q2", "to q3", "to q4"], 2)


def test_a_prompt_that_occurs_twice_is_generated_once() -> None:
    model = Model()
    sheet = ask(model, ["q1", "q2", "q1"])
    assert model.asked == ["q1", "q2"]
    assert (texts(sheet), sheet.cached) == (["to q1", "to q2", "to q1"], 0)


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_an_interrupted_run_keeps_what_it_has(cache: ResponseCache, error: BaseException) -> None:
    prompts = [f"q{number}" for number in range(6)]
    with pytest.raises(type(error)):
        ask(Model(batches=2, error=error), prompts, cache)
    model = Model()
    sheet = ask(model, prompts, cache)
    assert (model.asked, sheet.cached) == (["q0", "q1"], 4)


def test_without_a_cache_all_is_generated(cache: ResponseCache) -> None:
    ask(Model(), ["q1"], cache)
    assert ask(Model(), ["q1"]).cached == 0


def test_progress_counts_prompts_and_ends_on_errors(cache: ResponseCache) -> None:
    ask(Model(), ["q1"], cache)
    recorder = Recorder()
    with pytest.raises(RuntimeError):
        answer_prompts(
            identity="a",
            prompts=["q1", "q2", "q3", "q2", "q4", "q1"],
            settings=SETTINGS,
            load=Model(batches=1, error=RuntimeError()).load,
            cache=cache,
            progress=recorder,
        )
    # The first batch is q4 and q3; q1 was cached twice.
    assert recorder.events == ["begin 2", "+2", "end"]


def test_nothing_is_shown_when_nothing_is_generated(cache: ResponseCache) -> None:
    ask(Model(), ["q1"], cache)
    recorder = Recorder()
    answer_prompts(
        identity="a",
        prompts=["q1"],
        settings=SETTINGS,
        load=Model().load,
        cache=cache,
        progress=recorder,
    )
    assert recorder.events == []
