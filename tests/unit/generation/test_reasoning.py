"""Reasoning blocks are not the answer."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_compsec.generation.reasoning import (
    Reading,
    opened_by_prompt,
    read_answer,
    split_reasoning,
)

FINISHED = [
    "<think>\nThey want X.\n</think>\n\nNo.",
    "\n<think></think>No.",
    "<thinking>hm</thinking>No.",
    "<reasoning>hm</reasoning> No.",
    "<seed:think>hm</seed:think>No.",
    "[THINK]hm[/THINK]No.",
    "◁think▷hm◁/think▷No.",
    "<|START_THINKING|>hm<|END_THINKING|>No.",
    "<|channel>thought\nhm<channel|>No.",
    "<think>one</think>\n<think>two</think>No.",
    "<|channel|>analysis<|message|>They want X.<|end|><|start|>assistant"
    "<|channel|>final<|message|>No.",
    "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary"
    "<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>No.<|return|>",
]
CUT = [
    "<think>\nThey want X, so",
    "[THINK]hm",
    "<think>one</think><think>two",
    "<|channel|>analysis<|message|>They want",
    "<|channel|>analysis<|message|>hm<|end|>",
    "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary<|message|>so",
    "<|channel|>anal",
    "<|channel>thought\nhm",
]


@pytest.mark.parametrize("raw", FINISHED)
def test_a_finished_block_is_left_out(raw: str) -> None:
    reading = split_reasoning(raw)
    assert reading is not None
    assert reading.text.strip() == "No."
    assert not reading.in_reasoning


@pytest.mark.parametrize("raw", CUT)
def test_an_answer_that_ends_inside_a_block_holds_no_answer(raw: str) -> None:
    assert split_reasoning(raw) == Reading("", in_reasoning=True)


def test_prose_about_the_marker_is_no_reasoning() -> None:
    assert split_reasoning("Use the tag <think> in your HTML.") is None
    assert split_reasoning("Close it with </think>.") is None


def test_the_marker_as_a_token_counts_anywhere() -> None:
    tokens = {"<think>", "</think>"}
    assert split_reasoning("Hm. <think>so", tokens=tokens) == Reading("", in_reasoning=True)
    opened_unseen = split_reasoning("They want X.</think>No.", tokens=tokens)
    assert opened_unseen == Reading("No.", in_reasoning=False)


def test_a_block_that_the_template_opened() -> None:
    awaited = opened_by_prompt("<|im_start|>assistant\n<think>\n")
    assert awaited == "</think>"
    assert split_reasoning("hm</think>\nNo.", awaited=awaited) == Reading("\nNo.", False)
    assert split_reasoning("hm, so", awaited=awaited) == Reading("", in_reasoning=True)


def test_a_block_that_the_template_closed_again_is_not_open() -> None:
    assert opened_by_prompt("<|im_start|>assistant\n<think>\n\n</think>\n\n") is None


def test_markers_that_are_special_tokens_are_seen_and_not_shown(tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    finished = tokenizer("[THINK]hm[/THINK]No.<|endoftext|>", add_special_tokens=False)["input_ids"]
    assert "[THINK]" not in tokenizer.decode(finished, skip_special_tokens=True)
    assert read_answer(tokenizer, finished, None) == Reading("No.", in_reasoning=False)
    cut = tokenizer("[THINK]hm", add_special_tokens=False)["input_ids"]
    assert read_answer(tokenizer, cut, None) == Reading("", in_reasoning=True)


def test_an_answer_without_reasoning_is_decoded_as_it_is(tokenizer: Any) -> None:
    tokens = tokenizer(" Grüße, [x] <b>!\n", add_special_tokens=False)["input_ids"]
    assert read_answer(tokenizer, tokens, None) == Reading("Grüße, [x] <b>!", in_reasoning=False)
