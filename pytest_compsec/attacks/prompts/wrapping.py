"""A prompt set in which each prompt is wrapped by one transform: how ``jailbreak`` is made.

Each category deals its prompts to the transforms in rounds, every round in an order of its own, so
that within a category no transform is used more than once more often than another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_compsec.attacks.prompts.draws import Draws
from pytest_compsec.attacks.prompts.transforms import TRANSFORMS

if TYPE_CHECKING:
    from pytest_compsec.attacks.prompts.model import Transform
    from pytest_compsec.prompts.model import Prompt

SEPARATOR = "~"


def wrapped_id(prompt_id: str, transform: str) -> str:
    """``harmful-cyber-017`` and ``rot13`` give ``harmful-cyber-017~rot13``."""
    return f"{prompt_id}{SEPARATOR}{transform}"


def transform_of(prompt_id: str) -> str | None:
    """The name of the transform in the id of a wrapped prompt; None for a plain prompt's id."""
    _, separator, name = prompt_id.rpartition(SEPARATOR)
    known = separator and any(transform.name == name for transform in TRANSFORMS)
    return name if known else None


def plain_id(prompt_id: str) -> str:
    """The id of the prompt that was wrapped; a plain prompt's id is returned as it is."""
    return prompt_id.rpartition(SEPARATOR)[0] if transform_of(prompt_id) else prompt_id


def wrapped(
    prompts: Sequence[Prompt], *, seed: int = 0, transforms: Sequence[Transform] = TRANSFORMS
) -> tuple[Prompt, ...]:
    """Every prompt once, in the same order and category, each by one transform."""
    from pytest_compsec.prompts.model import Prompt

    dealt: dict[str, list[Transform]] = {}
    rounds: dict[str, int] = {}
    result = []
    for prompt in prompts:
        hand = dealt.setdefault(prompt.category, [])
        if not hand:
            number = rounds[prompt.category] = rounds.get(prompt.category, 0) + 1
            draws = Draws(seed, "deal", prompt.category, str(number))
            hand.extend(draws.shuffled(transforms))
        transform = hand.pop()
        result.append(
            Prompt(
                id=wrapped_id(prompt.id, transform.name),
                text=transform.apply(prompt.text, seed=seed, prompt_id=prompt.id),
                category=prompt.category,
                refusal_keywords=prompt.refusal_keywords,
            )
        )
    return tuple(result)
