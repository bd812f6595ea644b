"""Make text that a model wrote safe and short enough to print.

A model's answer may hold terminal control codes, bidirectional overrides, or lines that a CI system
obeys (``::set-output``, ``##vso[...]``). What is printed here holds none of them.
"""

from __future__ import annotations

import unicodedata

ELLIPSIS = "…"


def one_line(text: str, limit: int = 160) -> str:
    """``text`` on one line, without control and format characters, at most ``limit`` long."""
    shown = []
    for character in text.strip():
        if character in "\r\n\v\f\x85\u2028\u2029":
            shown.append(" ⏎ ")
        elif character == "\t":
            shown.append(" ")
        elif unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn"}:
            continue
        else:
            shown.append(character)
        if len(shown) > 2 * limit:
            break
    line = " ".join("".join(shown).split())
    # Azure, GitHub and TeamCity look for "##[" and "##vso[" anywhere in a line.
    while "##" in line:
        line = line.replace("##", "# #")
    return line if len(line) <= limit else line[: limit - 1] + ELLIPSIS
