"""Lines that fit the screen, broken between words and never within a number and its unit."""

from __future__ import annotations

import re
import textwrap

#: ``95 %``, ``12 of 400``, ``2.0 points``, ``1.42 GiB``, ``[-1.2, +1.7]``: no line ends within.
_TOGETHER = re.compile(r"(?<=\d) (?=%|\w{1,9}\b)|(?<=\d of) (?=\d)|(?<=\d,) (?=[-+.\d]+\])")
_NO_BREAK = "\u00a0"


def wrapped(text: str, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` characters, the later ones indented by two more. A
    word that is longer than that (a path, a digest) is not broken. At least one line."""
    if len(text) <= width:
        return [text]
    indent = " " * (len(text) - len(text.lstrip(" ")))
    lines = textwrap.wrap(
        _TOGETHER.sub(_NO_BREAK, text.strip(" ")),
        max(width, len(indent) + 12),
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_NO_BREAK, " ") for line in lines] or [text]
