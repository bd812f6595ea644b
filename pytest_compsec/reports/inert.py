"""Untrusted text as it may stand in Markdown: shown, and nothing else.

GitHub renders Markdown, and afterwards makes links of @mentions, #numbers, addresses and commits in
what came out. So no character with a meaning to either may stay as it is, and what users and models
wrote is put into ``<code>``, where the second step looks at nothing.
"""

from __future__ import annotations

import re

from pytest_compsec.reports.text import one_line

#: What Markdown, HTML or a row of a table can mean something by within a line; ``:`` and the point
#: of ``www.`` because an address becomes a link, ``$`` because GitHub sets mathematics between two.
_MEANT = re.compile(r"(?i)[&<>|\\`*_\[\]~@:$]|(?<=www)\.")
_BLOCK = re.compile(r"(?:[-+]|#{1,6}|\d+[.)])\s|[-=]{2,}")
_WORD_JOINER = "\u2060"
#: What GitHub makes links of after rendering, up to where it can be broken: ``@name``, ``#12``,
#: ``GH-12``, the hexadecimal digits of a commit, ``https://`` and ``www.``, ``:emoji:``.
_REFERRING = re.compile(
    r"(?i)&#64;(?=\w)|(?<!&)#(?=\w)|\bgh(?=-\d)|\b(?=[0-9a-f]{7,40}\b)(?=\d*[a-f])[0-9a-f]{3}"
    r"|&#58;(?=//)|\bwww(?=&#46;)|&#58;(?=[\w+-]+&#58;)"
)


def inert(text: str, limit: int = 500) -> str:
    """``text`` on one line, every character that could mean something as an entity."""
    return _MEANT.sub(_entity, one_line(text, limit))


def _entity(found: re.Match[str]) -> str:
    return f"&#{ord(found[0])};"


def code(text: str, limit: int = 160) -> str:
    """Untrusted text, set as code; ``-`` where there is none."""
    shown = inert(text, limit)
    return f"<code>{shown}</code>" if shown else "-"


def sentence(text: str, limit: int = 2_000) -> str:
    """A sentence of ours, in which a user's name for something may stand: as :func:`inert`, and no
    mention and no reference to an issue either."""
    shown = inert(text, limit)
    # A character of no width keeps both from being one; ``&#`` begins an entity.
    shown = _REFERRING.sub(lambda found: f"{found[0]}{_WORD_JOINER}", shown)
    # At the beginning of a line these would make a heading, a list or a rule.
    if _BLOCK.match(shown):
        shown = f"{_WORD_JOINER}{shown}"
    return shown.replace("&#58; ", ": ")
