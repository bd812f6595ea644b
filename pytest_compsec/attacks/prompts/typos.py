"""Typing errors that leave a request readable.

Only words of four letters or more are touched, each at most once, never at the first or last
letter: what people read words by (Rawlinson 1976; Pruthi et al. 2019, arXiv 1905.11268, restrict
adversarial misspellings in the same way). At most every second such word is touched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from pytest_compsec.attacks.prompts.draws import Draws
from pytest_compsec.attacks.prompts.model import Transform

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_WORD = re.compile(r"[^\W\d_]+")
_SHORTEST = 4


def _keyboard() -> dict[str, str]:
    """Each letter's neighbours on a QWERTY keyboard: beside it, and the nearest two below."""
    beside: dict[str, set[str]] = {letter: set() for row in _ROWS for letter in row}
    for row, below in zip(_ROWS, (*_ROWS[1:], ""), strict=True):
        for at, letter in enumerate(row):
            for other in (*row[at + 1 : at + 2], *below[max(0, at - 1) : at + 1]):
                beside[letter].add(other)
                beside[other].add(letter)
    return {letter: "".join(sorted(others)) for letter, others in beside.items()}


_NEIGHBOURS = _keyboard()


def _swap(word: str, at: int, draws: Draws) -> str:
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def _drop(word: str, at: int, draws: Draws) -> str:
    return word[:at] + word[at + 1 :]


def _double(word: str, at: int, draws: Draws) -> str:
    return word[:at] + word[at] + word[at:]


def _neighbour(word: str, at: int, draws: Draws) -> str:
    letter = word[at]
    others = _NEIGHBOURS.get(letter.lower())
    if others is None:
        return _double(word, at, draws)
    other = draws.choice(others)
    return word[:at] + (other.upper() if letter.isupper() else other) + word[at + 1 :]


_Edit = Callable[[str, int, Draws], str]


def _edited(word: str, edit: _Edit, draws: Draws) -> str:
    """``word`` with one error inside it; where two equal letters would be swapped, one goes."""
    places = len(word) - 2 - (edit is _swap)
    changed = edit(word, 1 + draws.below(places), draws)
    return changed if changed != word else _drop(word, 1 + draws.below(len(word) - 2), draws)


def _with_errors(prompt: str, edits: Sequence[_Edit], draws: Draws) -> str:
    words = list(_WORD.finditer(prompt))
    long = [word for word in words if len(word[0]) >= _SHORTEST]
    if not long:
        return _double(prompt, len(prompt) - 1, draws)
    touched = draws.shuffled(long)[: (len(long) + 1) // 2]
    # From the end, so that the places of those before stay true.
    for word in sorted(touched, key=lambda found: -found.start()):
        error = _edited(word[0], draws.choice(edits), draws)
        prompt = prompt[: word.start()] + error + prompt[word.end() :]
    return prompt


def _slips(prompt: str, draws: Draws) -> str:
    return _with_errors(prompt, (_swap, _drop, _double), draws)


def _keys(prompt: str, draws: Draws) -> str:
    return _with_errors(prompt, (_neighbour,), draws)


TYPOS = (
    Transform("typo-slips", "typo", "letters swapped, dropped or doubled", _slips),
    Transform("typo-keys", "typo", "letters of neighbouring keys", _keys),
)
