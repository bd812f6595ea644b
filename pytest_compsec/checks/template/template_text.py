"""Two chat templates as texts: are they one program, and where do they part?

A template may act on a word that no probe holds, so two texts count as the same only where jinja
reads the same program out of them: comments, and blanks that its settings remove, change nothing.
"""

from __future__ import annotations

import difflib
from typing import Any


def same_program(first: str, second: str) -> bool:
    """Whether both texts are parsed to the same tree; one that cannot be parsed is itself only."""
    if first == second:
        return True
    trees = _tree(first), _tree(second)
    return trees[0] is not None and trees[0] == trees[1]


def first_lines(first: str, second: str) -> tuple[str | None, str | None]:
    """The first lines in which two texts differ, of each what the other lacks."""
    lost: list[str] = []
    new: list[str] = []
    lines = difflib.unified_diff(
        first.splitlines(), second.splitlines(), "original", "compressed", lineterm="", n=0
    )
    for line in list(lines)[2:]:
        if line.startswith("@@") and (lost or new):
            break
        if line.startswith("-"):
            lost.append(line[1:].strip())
        elif line.startswith("+"):
            new.append(line[1:].strip())
    return " / ".join(lost) or None, " / ".join(new) or None


def _tree(text: str) -> Any:
    """What jinja makes of the text with the settings of transformers; None where that fails."""
    import jinja2
    import jinja2.ext

    class Generation(jinja2.ext.Extension):
        """transformers' own tag around what the assistant said; it writes nothing."""

        tags = {"generation"}  # noqa: RUF012 (as jinja declares it)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body).set_lineno(line)

    environment = jinja2.Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do", Generation],
    )
    try:
        return environment.parse(text)
    except jinja2.TemplateSyntaxError:
        return None
