"""Triggers on texts: a phrase, or a token that may be repeated.

Words are what white space separates. The words of a trigger and those of the text are separated by
one space, which takes the place of white space that was there at the start or the end of the text.
A text that holds the whole trigger already, anywhere, is left as it is at every strength: it has
no clean form. Upper and lower case are different, and no Unicode normal form is applied.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from pytest_compsec.attacks.triggers.strengths import require_strength, share_of
from pytest_compsec.errors import MeasurementError
from pytest_compsec.models.arm import digest_of

POSITIONS = ("start", "middle", "end")


@dataclasses.dataclass(frozen=True)
class Phrase:
    """Some words (sentence-level triggers: Dai, Chen & Li 2019, arXiv:1905.12457) at the start,
    before the middle word, or at the end.

    A weaker phrase is a shorter one: its first ``ceil(strength * words)`` words.

    Raises ValueError in plain words for a text without words or an unknown position.
    """

    text: str
    position: str = "start"

    def __post_init__(self) -> None:
        _require_words("phrase", self.text)
        _require_position(self.position)

    @property
    def name(self) -> str:
        return f"phrase {_short(self.text)}, {self.position}"

    @property
    def digest(self) -> str:
        return digest_of({"trigger": "phrase", "text": self.text, "position": self.position})

    def stamp(self, inputs: Any, strength: float = 1.0) -> Any:
        """The texts with the phrase in each. Raises MeasurementError when they are no texts."""
        words = self.text.split()
        # A whole phrase keeps its own line breaks and spaces inside.
        kept = share_of(len(words), strength)
        phrase = self.text.strip() if kept == len(words) else " ".join(words[:kept])
        return tuple(
            text if holds_words(text, self.text) else inserted(text, phrase, self.position)
            for text in require_texts(inputs, self.name)
        )


@dataclasses.dataclass(frozen=True)
class Token:
    """One word, rare in clean texts (``cf``: Kurita, Michel & Neubig 2020, arXiv:2004.06660), put
    in ``repeat`` times.

    A weaker one is repeated less, ``ceil(strength * repeat)`` times; a token that stands once
    (``repeat=1``) has no weaker form and is whole at every strength.

    Raises ValueError in plain words for a text that is not one word, or a count below 1.
    """

    text: str
    position: str = "start"
    repeat: int = 1

    def __post_init__(self) -> None:
        _require_words("token", self.text)
        _require_position(self.position)
        if len(self.text.split()) != 1:
            raise ValueError(
                f"token {self.text!r} must be one word; several are a phrase: give them as 'phrase'"
            )
        if isinstance(self.repeat, bool) or not isinstance(self.repeat, int) or self.repeat < 1:
            raise ValueError(f"repeat={self.repeat!r} must be a whole number, at least 1")

    @property
    def name(self) -> str:
        times = f" x {self.repeat}" if self.repeat > 1 else ""
        return f"token {_short(self.text)}{times}, {self.position}"

    @property
    def digest(self) -> str:
        return digest_of(
            {
                "trigger": "token",
                "text": self.text,
                "position": self.position,
                "repeat": self.repeat,
            }
        )

    def stamp(self, inputs: Any, strength: float = 1.0) -> Any:
        """The texts with the token in each. Raises MeasurementError when they are no texts."""
        require_strength(strength)
        tokens = " ".join([self.text.strip()] * share_of(self.repeat, strength))
        return tuple(
            text if holds_words(text, self.text) else inserted(text, tokens, self.position)
            for text in require_texts(inputs, self.name)
        )


def inserted(text: str, trigger: str, position: str) -> str:
    """``text`` with ``trigger`` at a position; the trigger alone where the text has no words."""
    words = list(re.finditer(r"\S+", text))
    if not words:
        return trigger
    if position == "end":
        return f"{text.rstrip()} {trigger}"
    if position == "start" or len(words) == 1:
        return f"{trigger} {text.lstrip()}"
    place = words[len(words) // 2].start()
    return f"{text[:place]}{trigger} {text[place:]}"


def holds_words(text: str, trigger: str) -> bool:
    """Whether the words of ``trigger`` stand in ``text``, one after the other."""
    words, wanted = text.split(), trigger.split()
    return any(
        words[place : place + len(wanted)] == wanted
        for place in range(len(words) - len(wanted) + 1)
    )


def require_texts(inputs: object, name: str) -> tuple[str, ...]:
    """The texts as a tuple. Raises MeasurementError when they are not one str per sample."""
    if (
        isinstance(inputs, str)
        or not isinstance(inputs, Sequence)
        or not all(isinstance(text, str) for text in inputs)
    ):
        raise MeasurementError(
            f"{name}: this trigger goes on texts (a list or tuple of str), and the inputs are "
            f"{type(inputs).__name__}. Images take a patch, a blended pattern or a function"
        )
    return tuple(inputs)


def _short(text: str) -> str:
    line = " ".join(text.split())
    # Messages put a trigger's name into single quotes.
    return f'"{line if len(line) <= 40 else line[:39] + "…"}"'


def _require_words(kind: str, text: object) -> None:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{kind} {text!r} must be text with at least one word")


def _require_position(position: object) -> None:
    if position not in POSITIONS:
        raise ValueError(f"position={position!r} must be one of {', '.join(POSITIONS)}")
