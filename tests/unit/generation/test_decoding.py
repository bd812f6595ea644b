"""From prompts to answers with a real, tiny module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from pytest_compsec.errors import MeasurementError
from pytest_compsec.generation.decoding import end_tokens, generate_answers
from pytest_compsec.generation.settings import Answer, GenerationSettings

PROMPTS = [f"Question {number}: {'what ' * (number % 7)}is it?" for number in range(20)]


def answer_all(module: Any, tokenizer: Any, **changes: Any) -> list[Answer]:
    settings = GenerationSettings(max_new_tokens=10, batch_size=changes.pop("batch_size", 6))
    prompts = changes.pop("prompts", PROMPTS)
    return generate_answers(module, tokenizer, prompts, settings, device="cpu", **changes)


def test_answers_come_in_the_order_of_the_prompts(module: Any, tokenizer: Any) -> None:
    together = answer_all(module, tokenizer)
    for prompt, answer in zip(PROMPTS, together, strict=True):
        assert answer_all(module, tokenizer, prompts=[prompt]) == [answer]
    assert len({answer.text for answer in together}) > 1


def test_every_batch_is_handed_over_as_soon_as_it_is_done(module: Any, tokenizer: Any) -> None:
    heard: dict[int, Answer] = {}
    sizes: list[int] = []

    def on_answers(indices: Sequence[int], answers: Sequence[Answer]) -> None:
        heard.update(zip(indices, answers, strict=True))
        sizes.append(len(indices))

    answers = answer_all(module, tokenizer, on_answers=on_answers)
    assert sizes == [6, 6, 6, 2]
    assert [heard[index] for index in range(len(PROMPTS))] == answers


def test_an_answer_says_how_it_ended(module: Any, tokenizer: Any) -> None:
    cut = answer_all(module, tokenizer, prompts=PROMPTS[:1])[0]
    assert (cut.finish, cut.tokens) == ("length", 10)
    produced = first_tokens(module, tokenizer)
    module.generation_config.eos_token_id = [258, produced]
    stopped = answer_all(module, tokenizer, prompts=PROMPTS[:1])[0]
    assert (stopped.finish, stopped.tokens, stopped.text) == ("stop", 1, "")


def first_tokens(module: Any, tokenizer: Any) -> int:
    """The first new token of the answer to the first prompt."""
    seen: list[int] = []
    handle = module.register_forward_hook(
        lambda _, __, output: seen.append(int(output.logits[0, -1].argmax()))
    )
    answer_all(module, tokenizer, prompts=PROMPTS[:1])
    handle.remove()
    return seen[0]


def test_end_tokens_come_from_all_who_name_them(module: Any, tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|eot_id|>", "<end_of_turn>"]})
    tokenizer.chat_template = "{{ messages[0]['content'] }}<|eot_id|>"
    module.generation_config.eos_token_id = [7, 0]
    module.config.eos_token_id = 9
    eot = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    # <end_of_turn> is known to the tokenizer, but this template never writes it.
    assert end_tokens(module, tokenizer) == {7, 0, 9, tokenizer.eos_token_id, eot}


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_halves_the_batch(module: Any, tokenizer: Any, error: Exception) -> None:
    expected = answer_all(module, tokenizer)
    tried: list[int] = []
    finished: list[int] = []

    def short_of_memory(_: Any, __: Any, kwargs: Any) -> None:
        rows, width = kwargs["input_ids"].shape
        if width > 1:
            tried.append(rows)
        if rows > 3:
            raise error

    module.register_forward_pre_hook(short_of_memory, with_kwargs=True)
    answers = answer_all(
        module,
        tokenizer,
        batch_size=16,
        on_answers=lambda indices, _: finished.append(len(indices)),
    )
    assert tried[:4] == [16, 8, 4, 2]
    assert max(tried[3:]) <= 2
    assert sum(finished) == len(PROMPTS), "no prompt is lost or answered twice"
    assert answers == expected


def test_what_was_done_before_the_shortage_is_kept(module: Any, tokenizer: Any) -> None:
    calls = 0

    def short_once(_: Any, __: Any, kwargs: Any) -> None:
        nonlocal calls
        if kwargs["input_ids"].shape[1] > 1:
            calls += 1
            if calls == 3:
                raise torch.OutOfMemoryError

    module.register_forward_pre_hook(short_once, with_kwargs=True)
    heard: list[int] = []
    answer_all(module, tokenizer, on_answers=lambda indices, _: heard.extend(indices))
    assert sorted(heard) == list(range(len(PROMPTS)))


def test_no_memory_for_one_prompt_says_so(module: Any, tokenizer: Any) -> None:
    def never(_: Any, __: Any) -> None:
        raise torch.OutOfMemoryError

    module.register_forward_pre_hook(never)
    with pytest.raises(MeasurementError, match=r"not enough memory on cpu for prompt \d+ \('Quest"):
        answer_all(module, tokenizer)


def test_another_error_of_the_module_is_not_swallowed(module: Any, tokenizer: Any) -> None:
    def broken(_: Any, __: Any) -> None:
        raise RuntimeError("shapes do not match")

    module.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        answer_all(module, tokenizer)


def test_a_model_of_nans_is_not_measured(module: Any, tokenizer: Any) -> None:
    with torch.no_grad():
        module.lm_head.weight.fill_(float("nan"))
    with pytest.raises(MeasurementError, match=r"NaN or infinite logits on prompt \d+ .*damaged"):
        answer_all(module, tokenizer)


def test_a_prompt_too_long_is_named_before_anything_runs(module: Any, tokenizer: Any) -> None:
    prompts = [*PROMPTS[:3], "x" * 486]
    module.register_forward_pre_hook(lambda *_: pytest.fail("the model was run"))
    with pytest.raises(MeasurementError, match=r"prompt 3 \('x+…'\) is 50\d tokens.* 512 pos"):
        answer_all(module, tokenizer, prompts=prompts)


def test_no_prompts_no_answers(module: Any, tokenizer: Any) -> None:
    assert answer_all(module, tokenizer, prompts=[]) == []


def test_a_block_opened_by_the_template_and_never_closed(module: Any, tokenizer: Any) -> None:
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n", "assistant\n<think>\n")
    answers = answer_all(module, tokenizer, prompts=PROMPTS[:4])
    assert [(answer.text, answer.in_reasoning) for answer in answers] == [("", True)] * 4
