"""Text that somebody else wrote, made harmless to look at: nothing invisible, nothing endless.

Markup is not dealt with here: the template engine escapes it, and the page's script only ever sets
``textContent``. What is left are characters that act without being seen: terminal escapes, NUL,
overrides of the writing direction (CVE-2021-42574), lone surrogates that no UTF-8 file can hold.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata

from pytest_compsec.reports.text import ELLIPSIS, one_line

#: Joiners of emoji and of several scripts; they act on their neighbours alone.
_HARMLESS = frozenset("\u200c\u200d")
_KEPT = frozenset("\n\t")
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
#: Of a text that is cut around a place deep inside, what stands before that place.
_BEFORE = 120


def visible(text: str) -> str:
    """``text`` with its code in the place of each character that cannot be seen: ``⟨U+0000⟩``
    for NUL, ``⟨U+202E⟩`` for an override of the writing direction."""
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    return _hidden_characters().sub(_sign, plain)


def _sign(match: re.Match[str]) -> str:
    return f"⟨U+{ord(match[0]):04X}⟩"


@functools.cache
def _hidden_characters() -> re.Pattern[str]:
    """One character class, as ranges: a loop over the characters of every answer is too slow."""
    ranges: list[tuple[int, int]] = []
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) not in _HIDDEN or character in _HARMLESS | _KEPT:
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1] = (ranges[-1][0], code)
        else:
            ranges.append((code, code))
    parts = "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)
    return re.compile(f"[{parts}]")


def short(name: str, limit: int) -> str:
    """A name on one line of at most ``limit`` characters. What is left out is in its middle: the
    variants of one model differ at their ends."""
    line = one_line(visible(name), 10_000)
    if len(line) <= limit:
        return line
    end = (limit - 1) * 2 // 3
    return f"{line[: limit - 1 - end]}{ELLIPSIS}{line[-end:]}"


def cut(text: str, limit: int, around: int = 0) -> str:
    """At most about ``limit`` characters of ``text``: its beginning and, where the place ``around``
    (an index) would be left out, what stands there. What is left out is said in place."""
    if len(text) <= limit:
        return text
    if around < limit - _BEFORE:
        return f"{text[:limit]}\n{_left_out(len(text) - limit)}"
    half = limit // 2
    start = max(half, around - _BEFORE)
    end = min(len(text), start + half)
    parts = [text[:half]]
    if start > half:
        parts.append(f"\n{_left_out(start - half)}\n")
    parts.append(text[start:end])
    if end < len(text):
        parts.append(f"\n{_left_out(len(text) - end)}")
    return "".join(parts)


def _left_out(count: int) -> str:
    return f"[… {count:,} characters left out …]"


def first_difference(one: str, other: str) -> int:
    """The index of the first character in which the texts differ; the length of the shorter one
    where it is the beginning of the other."""
    low, high = 0, min(len(one), len(other))
    # By halves: comparing slices is a hundred times faster than a loop over characters.
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
