"""A prompt that brings its own system prompt: read as one, kept apart from others, in one batch."""

from __future__ import annotations

from pathlib import Path

from pytest_compsec.generation.cache import ResponseCache
from pytest_compsec.generation.chat import render
from pytest_compsec.generation.settings import Answer
from pytest_compsec.generation.under_system import UnderSystem, spoken
from tests.unit.tiny_model import make_tokenizer


def test_it_is_read_under_its_own_system_prompt_and_not_the_models() -> None:
    tokenizer = make_tokenizer()
    own = render(tokenizer, UnderSystem("The code is 17.", "What is it?"), "Be kind.")
    assert own == render(tokenizer, "What is it?", "The code is 17.")
    assert "Be kind." not in own


def test_a_plain_prompt_is_asked_as_before() -> None:
    assert spoken("What is it?", "Be kind.") == ("What is it?", "Be kind.")
    assert spoken("What is it?", None) == ("What is it?", None)


def test_the_same_prompt_under_two_system_prompts_has_two_answers(tmp_path: Path) -> None:
    first, second = UnderSystem("a", "prompt"), UnderSystem("b", "prompt")
    assert len({first, second, "prompt"}) == 3
    cache = ResponseCache(tmp_path / "answers.sqlite")
    cache.put_many("identity", [(first, Answer("one", 1, "stop"))])
    assert cache.get_many("identity", [first, second, "prompt"]).keys() == {0}
    cache.close()
