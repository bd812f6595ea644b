"""What a model thinks of given answers, against a plain pass of one row at a time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pytest_compsec.errors import MeasurementError
from pytest_compsec.generation import forward_passes
from pytest_compsec.generation.chat import render
from pytest_compsec.generation.scoring import (
    answer_nlls,
    first_token_logprobs,
    score_answers,
)

PROMPTS = [f"Question {number}: {'what ' * (number % 5)}is it?" for number in range(9)]
ANSWERS = ["It is this.", "No", "", "a" * 40, "Well, it depends.", "é", "x y z", "I can't.", "ok"]


def reference(module: Any, tokenizer: Any, prompt: str, answer: str) -> list[float]:
    """One row, no padding, all logits at once."""
    before = tokenizer(render(tokenizer, prompt), add_special_tokens=False)["input_ids"]
    after = tokenizer(answer, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = module(input_ids=torch.tensor([[*before, *after]])).logits[0].double()
    logs = torch.log_softmax(logits, dim=-1)
    return [-float(logs[len(before) - 1 + place, token]) for place, token in enumerate(after)]


def score(module: Any, tokenizer: Any, **changes: Any) -> list[tuple[float, ...]]:
    prompts, answers = changes.pop("prompts", PROMPTS), changes.pop("answers", ANSWERS)
    return answer_nlls(module, tokenizer, prompts, answers, device="cpu", **changes)


@pytest.mark.parametrize("batch_size", [None, 1, 2, 9])
def test_every_token_scores_as_in_a_pass_of_its_own(
    module: Any, tokenizer: Any, batch_size: int | None
) -> None:
    found = score(module, tokenizer, batch_size=batch_size)
    for prompt, answer, nlls in zip(PROMPTS, ANSWERS, found, strict=True):
        assert nlls == pytest.approx(reference(module, tokenizer, prompt, answer), abs=1e-4)


def test_a_vocabulary_taken_in_pieces_scores_the_same(
    module: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = score(module, tokenizer)
    monkeypatch.setattr(forward_passes, "_FLOAT32_ITEMS", 1)
    assert score(module, tokenizer) == whole


def test_only_the_logits_of_answers_are_asked_for(module: Any, tokenizer: Any) -> None:
    asked: list[int] = []

    def note(_: Any, __: Any, kwargs: Any) -> None:
        asked.append(kwargs["logits_to_keep"])

    module.register_forward_pre_hook(note, with_kwargs=True)
    score(module, tokenizer, answers=["four"] * len(PROMPTS), batch_size=9)
    first_token_logprobs(
        module, tokenizer, PROMPTS, device="cpu", token_groups={"a": [5]}, batch_size=9
    )
    assert asked == [5, 1]


def test_a_module_that_always_gives_all_logits(module: Any, tokenizer: Any) -> None:
    expected = score(module, tokenizer)

    class Plain(torch.nn.Module):
        config = module.config
        dtype = torch.float32

        def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any) -> Any:
            return module(
                input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids
            )

    for found, wanted in zip(score(Plain(), tokenizer), expected, strict=True):
        assert found == pytest.approx(wanted, abs=1e-5)


def test_a_score_is_the_mean_over_the_counted_tokens(module: Any, tokenizer: Any) -> None:
    nlls = score(module, tokenizer)
    scores = score_answers(module, tokenizer, PROMPTS, ANSWERS, device="cpu", skip_first=3)
    for own, found in zip(nlls, scores, strict=True):
        if len(own) <= 3:
            assert found is None
        else:
            assert found is not None
            assert found.tokens == len(own) - 3
            assert found.mean_nll == pytest.approx(sum(own[3:]) / len(own[3:]))
            assert found.perplexity == pytest.approx(math.exp(found.mean_nll))
    assert [found is None for found in scores] == [len(own) <= 3 for own in nlls]


def test_an_empty_answer_has_no_score(module: Any, tokenizer: Any) -> None:
    scores = score_answers(module, tokenizer, PROMPTS[:2], ["", "yes"], device="cpu")
    assert scores[0] is None
    assert scores[1] is not None
    assert scores[1].tokens == 3


def test_an_answer_is_more_likely_when_it_is_what_the_module_says(
    module: Any, tokenizer: Any
) -> None:
    from pytest_compsec.generation.decoding import generate_answers
    from pytest_compsec.generation.settings import GenerationSettings

    # Bytes that are no text of their own would come back as other tokens.
    with torch.no_grad():
        module.lm_head.weight.data = module.lm_head.weight.data.clone()
        module.lm_head.weight.data[[*range(36), *range(97, 259)]] = 0.0
    settings = GenerationSettings(max_new_tokens=8, batch_size=4)
    own = [a.text for a in generate_answers(module, tokenizer, PROMPTS, settings, device="cpu")]
    mine = score_answers(module, tokenizer, PROMPTS, own, device="cpu")
    turned = score_answers(module, tokenizer, PROMPTS, [t[::-1] for t in own], device="cpu")
    pairs = [(a.mean_nll, b.mean_nll) for a, b in zip(mine, turned, strict=True) if a and b]
    assert pairs
    assert sum(a for a, _ in pairs) < sum(b for _, b in pairs)


def test_a_system_prompt_and_template_settings_are_read(module: Any, tokenizer: Any) -> None:
    plain = score(module, tokenizer)
    assert score(module, tokenizer, system="Be brief.") != plain
    tokenizer.chat_template += "{% if short %}Short: {% endif %}"
    assert score(module, tokenizer, chat_template_kwargs={"short": True}) != plain


def test_group_probabilities_are_those_of_the_next_token(module: Any, tokenizer: Any) -> None:
    groups = {"refuse": [40, 41, 41, 77], "one": [9], "all": range(259), "none": []}
    found = first_token_logprobs(
        module, tokenizer, PROMPTS, device="cpu", token_groups=groups, batch_size=4
    )
    for prompt, values in zip(PROMPTS, found, strict=True):
        ids = tokenizer(render(tokenizer, prompt), add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            share = torch.softmax(module(torch.tensor([ids])).logits[0, -1].double(), dim=-1)
        assert math.exp(values["refuse"]) == pytest.approx(
            float(share[[40, 41, 77]].sum()), rel=1e-4
        )
        assert math.exp(values["one"]) == pytest.approx(float(share[9]), rel=1e-4)
        assert values["all"] == pytest.approx(0.0, abs=1e-5)
        assert values["none"] == -math.inf


def test_a_token_that_the_model_does_not_have(module: Any, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"'refuse' holds ids from 3 to 259; .* 259 tokens"):
        first_token_logprobs(
            module, tokenizer, PROMPTS, device="cpu", token_groups={"refuse": [3, 259]}
        )


def test_out_of_memory_halves_the_batch(module: Any, tokenizer: Any) -> None:
    expected = score(module, tokenizer)
    tried: list[int] = []

    def short_of_memory(_: Any, __: Any, kwargs: Any) -> None:
        tried.append(kwargs["input_ids"].shape[0])
        if tried[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    module.register_forward_pre_hook(short_of_memory, with_kwargs=True)
    found = score(module, tokenizer, batch_size=8)
    assert tried == [8, 4, 2, 2, 2, 2]
    for nlls, wanted in zip(found, expected, strict=True):
        assert nlls == pytest.approx(wanted, abs=1e-4)


def test_no_memory_for_one_row_says_so(module: Any, tokenizer: Any) -> None:
    def never(_: Any, __: Any) -> None:
        raise torch.OutOfMemoryError

    module.register_forward_pre_hook(never)
    with pytest.raises(MeasurementError, match=r"not enough memory on cpu to score prompt \d"):
        score(module, tokenizer)


def test_another_error_of_the_module_is_not_swallowed(module: Any, tokenizer: Any) -> None:
    def broken(_: Any, __: Any) -> None:
        raise RuntimeError("shapes do not match")

    module.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        score(module, tokenizer)


def test_a_model_of_nans_is_not_measured(module: Any, tokenizer: Any) -> None:
    with torch.no_grad():
        module.lm_head.weight.fill_(float("nan"))
    with pytest.raises(MeasurementError, match=r"NaN .* prompt 0 .*damaged"):
        score(module, tokenizer)
    with pytest.raises(MeasurementError, match=r"NaN .* prompt 0 .*damaged"):
        first_token_logprobs(module, tokenizer, PROMPTS, device="cpu", token_groups={"a": [1]})


def test_an_answer_beyond_the_positions_is_scored_up_to_there(module: Any, tokenizer: Any) -> None:
    (nlls,) = score(module, tokenizer, prompts=["Hi"], answers=["b" * 600])
    (shorter,) = score(module, tokenizer, prompts=["Hi"], answers=["b" * 100])
    prompt = len(tokenizer(render(tokenizer, "Hi"), add_special_tokens=False)["input_ids"])
    assert len(nlls) == 512 - prompt
    assert nlls[:100] == pytest.approx(shorter, abs=1e-3)


def test_a_prompt_beyond_the_positions_is_named(module: Any, tokenizer: Any) -> None:
    with pytest.raises(MeasurementError, match=r"prompt 1 \('x+…'\) is 6\d\d tokens"):
        score(module, tokenizer, prompts=["Hi", "x" * 600], answers=["yes", "no"])


def test_one_answer_for_each_prompt(module: Any, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="2 prompts but 1 answers"):
        score(module, tokenizer, prompts=["a", "b"], answers=["c"])
    assert score(module, tokenizer, prompts=[], answers=[]) == []
