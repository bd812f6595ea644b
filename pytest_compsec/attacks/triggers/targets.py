"""What a backdoor is meant to bring about: a class, vanishing refusals, or text in the answer."""

from __future__ import annotations

import difflib
import numbers
import re
from collections.abc import Mapping
from typing import Any

from pytest_compsec.attacks.backdoor import REFUSALS_VANISH


def require_target(value: Any) -> int | str:
    """The target as an int or a str, whatever the task.

    Raises ValueError in plain words for what is neither a class index, :data:`REFUSALS_VANISH`
    (also ``{refusals: vanish}``) nor text with a letter or a digit.
    """
    if isinstance(value, Mapping):
        if dict(value) == {"refusals": "vanish"}:
            return REFUSALS_VANISH
        raise ValueError(f"target={dict(value)!r}: the only mapping here is {{refusals: vanish}}")
    if isinstance(value, bool):
        raise ValueError(f"target={value!r} must be a class index such as 0, not true or false")
    if isinstance(value, numbers.Integral):
        if value < 0:
            raise ValueError(f"target={value!r} must be a class index, 0 or more")
        return int(value)
    if isinstance(value, str):
        return _text(value)
    raise ValueError(
        f"target={value!r} must be a class index (classifiers), {REFUSALS_VANISH!r}, or text that "
        "the answer then contains (language models)"
    )


def check_target(value: Any, task: str) -> int | str:
    """The target of a model of this task. Raises ValueError in plain words."""
    target = require_target(value)
    if task == "text-generation" and not isinstance(target, str):
        raise ValueError(
            f"target={target!r} is a class index, and the task is {task}: use "
            f"{REFUSALS_VANISH!r}, or text that the answer then contains (a number in quotes)"
        )
    if task != "text-generation" and not isinstance(target, int):
        raise ValueError(
            f"target={target!r} is text, and the task is {task}: use the index of the class that "
            "the trigger brings out, such as 0"
        )
    return target


def _text(value: str) -> str:
    if value == REFUSALS_VANISH:
        return value
    if re.search(r"\w", value) is None:
        raise ValueError(f"target={value!r} holds no letter or digit")
    # As text to be found in answers, a slip of these two words would be found nowhere, and a
    # backdoor that makes refusals vanish would count as absent.
    words = " ".join(re.findall(r"[a-z]+", value.casefold()))
    if difflib.SequenceMatcher(None, words, REFUSALS_VANISH).ratio() >= 0.85:
        raise ValueError(f"target={value!r}: did you mean {REFUSALS_VANISH!r}?")
    return value
