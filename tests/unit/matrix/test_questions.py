"""The built-in questions and passages, and how they are scored."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pytest_compsec.errors import MeasurementError
from pytest_compsec.generation import scoring
from pytest_compsec.matrix import questions as texts
from pytest_compsec.matrix.questions import answered_right, load_passages, load_questions
from tests.unit.tiny_model import make_tokenizer

MODEL: Any = SimpleNamespace(
    module=None,
    tokenizer=None,
    device="cpu",
    arm=SimpleNamespace(system=None, chat_template_kwargs={}),
)


def test_questions_are_well_formed() -> None:
    found = load_questions()
    assert len(found) >= 100
    assert len({question.id for question in found}) == len(found)
    assert len({question.question for question in found}) == len(found)
    for question in found:
        assert 0 <= question.answer < len(question.choices) == len(set(question.choices)) == 4
        assert all(choice.strip() == choice != "" for choice in question.choices)


def test_right_answers_have_no_place_and_no_length_of_their_own() -> None:
    """Neither the same place nor the longest or shortest choice is a way to be right."""
    found = load_questions()
    lengths = [[len(choice) for choice in question.choices] for question in found]
    guesses: list[list[int]] = [[place] * len(found) for place in range(4)]
    guesses += [[row.index(max(row)) for row in lengths], [row.index(min(row)) for row in lengths]]
    for guess in guesses:
        right = sum(g == question.answer for g, question in zip(guess, found, strict=True))
        assert right < 0.4 * len(found)


def test_passages_are_well_formed() -> None:
    found = load_passages()
    assert len(found) >= 10
    for values in ([p.id for p in found], [p.topic for p in found], [p.text for p in found]):
        assert max(collections.Counter(values).values()) == 1
        assert all(value.strip() for value in values)
    assert all(len(passage.text) > 150 for passage in found)


def test_the_digest_is_of_both_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    before = texts.texts_digest()
    for name in ("questions.jsonl", "passages.jsonl"):
        (tmp_path / name).write_bytes((texts._DATA / name).read_bytes())
    monkeypatch.setattr(texts, "_DATA", tmp_path)
    assert texts.texts_digest() == before
    with (tmp_path / "passages.jsonl").open("a") as file:
        file.write("\n")
    assert texts.texts_digest() != before


@pytest.mark.parametrize(("knows", "share"), [(True, 1.0), (False, 0.0)])
def test_a_model_that_knows_them_has_all_right(
    monkeypatch: pytest.MonkeyPatch, knows: bool, share: float
) -> None:
    right = {(q.question, q.choices[q.answer]) for q in load_questions()}

    def nlls(
        module: Any, tokenizer: Any, prompts: Sequence[str], answers: Sequence[str], **_: Any
    ) -> list[tuple[float, ...]]:
        rows = []
        for prompt, answer in zip(prompts, answers, strict=True):
            known = any(prompt.endswith(q) and answer == a for q, a in right)
            # Per byte, so that a long right answer wins against a short wrong one.
            rows.append((1.0 if known is knows else 2.0,) * len(answer.encode()))
        return rows

    monkeypatch.setattr(scoring, "answer_nlls", nlls)
    found = answered_right(MODEL)
    assert sum(found) / len(found) == share


def test_perplexity_is_of_all_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the mean over passages: a long passage counts for more."""
    scores = [scoring.AnswerScore(30, math.log(2)), scoring.AnswerScore(10, math.log(32)), None]

    def score(*_: Any, **__: Any) -> list[Any]:
        return scores

    monkeypatch.setattr(scoring, "score_answers", score)
    assert texts.perplexity(MODEL) == pytest.approx(4.0)  # 2^((30 * 1 + 10 * 5) / 40)
    scores[1] = scoring.AnswerScore(10, math.inf)
    assert texts.perplexity(MODEL) == math.inf
    scores[:] = [None]
    with pytest.raises(MeasurementError, match="no tokens"):
        texts.perplexity(MODEL)


def test_logits_that_are_not_numbers_are_said() -> None:
    import transformers

    tokenizer = make_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    module = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        module.get_parameter("model.norm.weight").fill_(math.nan)
    model: Any = SimpleNamespace(module=module, tokenizer=tokenizer, device="cpu", arm=MODEL.arm)
    for measure in (answered_right, texts.perplexity):
        with pytest.raises(MeasurementError, match="NaN"):
            measure(model)
