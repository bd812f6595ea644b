"""Reasoning blocks: what a model writes for itself before its answer is not the answer.

A finished block is left out of the answer; an answer that ends inside a block holds no answer at
all. Markers of published model families, each with where it is documented:

- ``<think>`` (DeepSeek-R1, Qwen3, GLM, SmolLM3 model cards); templates may open it themselves
- ``<|channel|>analysis`` (OpenAI harmony response format, gpt-oss)
- ``[THINK]`` (Mistral Magistral), ``<|channel>thought`` (Gemma 4 prompt formatting)
- ``<seed:think>`` (Seed-OSS), ``<|START_THINKING|>`` (Cohere Command A Reasoning),
  ``◁think▷`` (Kimi-VL), ``<reasoning>``, ``<thinking>``, ``<thought>``,
  ``<|begin_of_thought|>`` (fine-tunes)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

#: (opening, closing) markers.
BLOCKS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>thought", "<channel|>"),
)

# The harmony format names a channel in every message; only ``final`` is meant for the reader.
_CHANNEL = "<|channel|>"
_MESSAGE = "<|message|>"
_HIDDEN_CHANNELS = ("analysis", "commentary")
_MESSAGE_ENDS = ("<|end|>", "<|return|>", "<|call|>")

# What stands around the answer proper in formats that mark it too.
_ANSWER_MARKS = (
    "<|START_RESPONSE|>",
    "<|END_RESPONSE|>",
    "<|begin_of_solution|>",
    "<|end_of_solution|>",
)


@dataclasses.dataclass(frozen=True)
class Reading:
    """``text`` is the answer without reasoning; ``in_reasoning``: it ended inside a block;
    ``reasoned``: there was one."""

    text: str
    in_reasoning: bool
    reasoned: bool = dataclasses.field(default=False, compare=False)


def opened_by_prompt(rendered: str) -> str | None:
    """The closing marker to wait for when the rendered prompt ends by opening a block itself."""
    tail = rendered.rstrip()
    for opening, closing in BLOCKS:
        if tail.endswith(opening):
            return closing
    return None


def read_answer(tokenizer: Any, tokens: Sequence[int], awaited: str | None) -> Reading:
    """Decode the new ``tokens`` of an answer and leave its reasoning out.

    ``awaited`` is :func:`opened_by_prompt` of the prompt.
    """
    options = {"clean_up_tokenization_spaces": False}
    plain = str(tokenizer.decode(tokens, skip_special_tokens=True, **options))
    # Markers may be special tokens, which the plain text does not show.
    raw = str(tokenizer.decode(tokens, skip_special_tokens=False, **options))
    special = special_texts(tokenizer)
    added = special | {str(text) for text in tokenizer.get_added_vocab()}
    reading = split_reasoning(raw, awaited=awaited, tokens=added)
    if reading is None:
        return Reading(plain.strip(), in_reasoning=False)
    text = reading.text
    for mark in sorted(special.union(_ANSWER_MARKS), key=len, reverse=True):
        text = text.replace(mark, "")
    return Reading(text.strip(), reading.in_reasoning, reasoned=True)


def split_reasoning(
    raw: str, *, awaited: str | None = None, tokens: frozenset[str] | set[str] = frozenset()
) -> Reading | None:
    """Leave reasoning out of a raw answer; None when there is none in it.

    A marker counts at the start of the answer (or of what is left of it). Further on it counts
    only when the tokenizer has it as one token (``tokens``): prose about HTML may hold the word.
    """
    if awaited is not None:
        _, closed, rest = raw.partition(awaited)
        return _rest_of(rest, tokens) if closed else Reading("", in_reasoning=True)
    if _CHANNEL in raw:
        return _harmony(raw)
    for opening, closing in BLOCKS:
        at = raw.find(opening)
        starts = at >= 0 and not raw[:at].strip()
        if starts or (at >= 0 and _is_token(opening, tokens)):
            _, closed, rest = raw[at + len(opening) :].partition(closing)
            if not closed:
                return Reading("", in_reasoning=True)
            tail = _rest_of(rest, tokens)
            return Reading(raw[:at] + tail.text, tail.in_reasoning)
        if at < 0 and closing in raw and _is_token(closing, tokens):
            # The opening was left out; all before the closing marker is reasoning.
            return _rest_of(raw.partition(closing)[2], tokens)
    return None


def special_texts(tokenizer: Any) -> frozenset[str]:
    """The texts of the tokenizer's special tokens."""
    texts = {str(text) for text in tokenizer.all_special_tokens}
    decoder: dict[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    texts |= {str(token) for token in decoder.values() if getattr(token, "special", False)}
    return frozenset(texts)


def _rest_of(rest: str, tokens: frozenset[str] | set[str]) -> Reading:
    return split_reasoning(rest, tokens=tokens) or Reading(rest, in_reasoning=False)


def _is_token(marker: str, tokens: frozenset[str] | set[str]) -> bool:
    # Gemma 4 has a token for the channel, and the channel's name in plain text after it.
    return marker.removesuffix("thought") in tokens or marker in tokens


def _harmony(raw: str) -> Reading:
    """``<|channel|>NAME<|message|>TEXT<|end|>…``: keep what is not in a hidden channel."""
    before, *parts = raw.split(_CHANNEL)
    kept = [before]
    for part in parts:
        name, _, text = part.partition(_MESSAGE)
        ends = [at for at in (text.find(end) for end in _MESSAGE_ENDS) if at >= 0]
        hidden = name.strip().startswith(_HIDDEN_CHANNELS) or not name.strip()
        if not hidden:
            kept.append(text[: min(ends)] if ends else text)
    visible = "".join(kept).replace("<|start|>assistant", "")
    if not any(part.strip().startswith("final") for part in parts):
        return Reading("", in_reasoning=True)
    return Reading(visible, in_reasoning=False)
