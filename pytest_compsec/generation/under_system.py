"""A prompt with a system prompt of its own, so that many such prompts share a batch and a cache."""

from __future__ import annotations

import json


class UnderSystem(str):
    """A prompt that is asked under ``system`` in place of the model's system prompt.

    As text it is a key that holds both, by which answers are kept; :func:`spoken` gives what the
    model reads.
    """

    __slots__ = ("prompt", "system")

    prompt: str
    system: str

    def __new__(cls, system: str, prompt: str) -> UnderSystem:
        made = super().__new__(cls, "\x1eunder " + json.dumps([system, prompt]))
        made.system = system
        made.prompt = prompt
        return made


def spoken(prompt: str, system: str | None) -> tuple[str, str | None]:
    """``(prompt, system prompt)`` as they are put to a model whose own system prompt is given."""
    if isinstance(prompt, UnderSystem):
        return prompt.prompt, prompt.system
    return prompt, system
