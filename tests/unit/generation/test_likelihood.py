"""Likelihoods of plain texts and continuations against torch's own, one by one."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from pytest_compsec.errors import MeasurementError
from pytest_compsec.generation.likelihood import continuation_nlls, text_nlls
from tests.unit.tiny_model import make_tokenizer


@dataclasses.dataclass
class Loaded:
    module: Any
    tokenizer: Any
    device: str = "cpu"


@pytest.fixture(scope="module")
def loaded() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module: Any = LlamaForCausalLM(config)
    return Loaded(module.eval(), tokenizer)


def alone(loaded: Any, ids: list[int]) -> list[float]:
    """Negative log-likelihood of each token but the first."""
    with torch.inference_mode():
        logits = loaded.module(torch.tensor([ids])).logits[0].double()
    scores = torch.log_softmax(logits, -1)
    return [-float(scores[place, token]) for place, token in enumerate(ids[1:])]


def test_texts_of_different_lengths_in_one_batch(loaded: Any) -> None:
    texts = ["a", "hello there", "another text that is longer", "hello there"]
    found = text_nlls(loaded, texts)
    assert [len(row) for row in found] == [0, 10, 26, 10]
    for text, nlls in zip(texts, found, strict=True):
        assert nlls == pytest.approx(alone(loaded, loaded.tokenizer(text)["input_ids"]), abs=1e-4)
    assert found[1] == pytest.approx(found[3], abs=1e-5)


def test_a_long_text_is_read_as_far_as_was_asked(loaded: Any) -> None:
    assert len(text_nlls(loaded, ["x" * 40], most_tokens=11)[0]) == 10
    assert len(text_nlls(loaded, ["x" * 400])[0]) == 63  # the model's positions


def test_a_continuation_is_scored_after_its_context(loaded: Any) -> None:
    contexts, continuations = ["Q: one?\nA:", "Q: a longer one?\nA:"], [" yes", " certainly not"]
    found = continuation_nlls(loaded, contexts, continuations)
    for context, continuation, nlls in zip(contexts, continuations, found, strict=True):
        whole = alone(loaded, loaded.tokenizer(context + continuation)["input_ids"])
        assert nlls == pytest.approx(whole[-len(continuation) :], abs=1e-4)


def test_space_at_the_end_of_a_context_belongs_to_the_continuation(loaded: Any) -> None:
    first = continuation_nlls(loaded, ["A: "], ["yes"])[0]
    assert first == pytest.approx(continuation_nlls(loaded, ["A:"], [" yes"])[0], abs=1e-6)


def test_an_empty_context_begins_with_the_first_token(loaded: Any) -> None:
    start = loaded.tokenizer.bos_token_id
    ids = [start, *loaded.tokenizer("yes")["input_ids"]]
    assert continuation_nlls(loaded, [""], ["yes"])[0] == pytest.approx(
        alone(loaded, ids), abs=1e-4
    )


def test_of_a_context_that_is_too_long_the_end_is_kept(loaded: Any) -> None:
    context, continuation = "x" * 100 + "abc", " yes"
    ids = loaded.tokenizer(context[-60:] + continuation)["input_ids"]
    found = continuation_nlls(loaded, [context], [continuation])[0]
    assert found == pytest.approx(alone(loaded, ids)[-4:], abs=1e-4)


def test_wrong_input_is_told(loaded: Any) -> None:
    with pytest.raises(ValueError, match="1 contexts but 0"):
        continuation_nlls(loaded, ["a"], [])
    with pytest.raises(ValueError, match="no token of its own"):
        continuation_nlls(loaded, ["a"], [""])


def test_numbers_that_are_none_are_no_measurement(loaded: Any) -> None:
    weight = loaded.module.lm_head.weight
    kept = weight.data.clone()
    weight.data[:] = math.nan
    try:
        with pytest.raises(MeasurementError, match="NaN"):
            text_nlls(loaded, ["hello"])
    finally:
        weight.data[:] = kept


def test_an_infinite_logit_of_any_token_is_no_measurement(loaded: Any) -> None:
    """The text's own tokens have none: without this their scores would be infinite, not NaN."""
    (text,) = loaded.tokenizer(["hello"])["input_ids"]
    other = next(token for token in range(len(loaded.tokenizer)) if token not in text)
    for added, message in ((math.inf, "NaN or infinite logits"), (-math.inf, None)):
        head = torch.nn.functional.one_hot(torch.tensor(other), len(loaded.tokenizer))
        shift = torch.where(head == 1, added, 0.0)
        hook = loaded.module.lm_head.register_forward_hook(
            lambda module, inputs, logits, shift=shift: logits + shift
        )
        try:
            if message is not None:
                with pytest.raises(MeasurementError, match=message):
                    text_nlls(loaded, ["hello"])
            else:  # a token that the model excludes
                (scores,) = text_nlls(loaded, ["hello"])
                assert all(math.isfinite(score) for score in scores)
        finally:
            hook.remove()
