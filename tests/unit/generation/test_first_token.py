"""What a model was about to say is kept with each answer, whatever decodes it and in any batch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pytest_compsec.generation import greedy
from pytest_compsec.generation.cache import ResponseCache
from pytest_compsec.generation.decoding import generate_answers
from pytest_compsec.generation.first_token import KEPT, FirstTokens
from pytest_compsec.generation.settings import GenerationSettings

PROMPTS = ["one", "a much longer prompt than the first", "two", "another prompt", "five"]


def answers(module: Any, tokenizer: Any, batch: int = 5) -> Any:
    settings = GenerationSettings(max_new_tokens=4, batch_size=batch)
    return generate_answers(module, tokenizer, PROMPTS, settings, device="cpu")


def test_the_likeliest_tokens_and_their_log_probabilities() -> None:
    logits = torch.randn(3, 100, generator=torch.Generator().manual_seed(1))
    kept = FirstTokens()
    kept(logits)
    expected = torch.log_softmax(logits.double(), dim=-1)
    for row, likeliest in zip(expected, kept.likeliest, strict=True):
        assert len(likeliest) == KEPT
        values = [value for _, value in likeliest]
        assert values == sorted(values, reverse=True)
        assert likeliest[0][0] == int(row.argmax())
        for token, value in likeliest:
            assert value == pytest.approx(float(row[token]), abs=1e-3)


def test_a_masked_token_leaves_numbers_that_json_can_hold() -> None:
    logits = torch.full((1, KEPT), -math.inf)
    logits[0, 3] = 0.0
    kept = FirstTokens()
    kept(logits)
    assert all(math.isfinite(value) for _, value in kept.likeliest[0])


def test_every_answer_begins_with_its_likeliest_token(module: Any, tokenizer: Any) -> None:
    for answer in answers(module, tokenizer):
        assert answer.first[0][1] <= 0.0
        assert len({token for token, _ in answer.first}) == KEPT


def test_the_batch_makes_no_difference(module: Any, tokenizer: Any) -> None:
    for one, other in zip(
        answers(module, tokenizer, 1), answers(module, tokenizer, 5), strict=True
    ):
        assert one.first[0][0] == other.first[0][0]
        assert dict(one.first)[one.first[0][0]] == pytest.approx(other.first[0][1], abs=1e-3)


def test_the_librarys_own_loop_keeps_them_too(
    module: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answers(module, tokenizer)
    monkeypatch.setattr(greedy, "can_step", lambda module: False)
    for one, other in zip(answers(module, tokenizer), expected, strict=True):
        assert one.text == other.text
        assert [token for token, _ in one.first][:5] == [token for token, _ in other.first][:5]


def test_the_cache_gives_them_back(module: Any, tokenizer: Any, tmp_path: Any) -> None:
    cache = ResponseCache(tmp_path / "answers.sqlite")
    made = answers(module, tokenizer)
    cache.put_many("a", list(zip(PROMPTS, made, strict=True)))
    found = cache.get_many("a", PROMPTS)
    assert [found[place].first for place in range(len(PROMPTS))] == [one.first for one in made]
