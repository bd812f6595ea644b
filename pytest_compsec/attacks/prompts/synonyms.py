"""Words that may stand for one another whatever stands around them, near enough for a request."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pytest_compsec.attacks.prompts.draws import Draws

# Only words that rarely have a second meaning or another part of speech in a request.
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "abroad": ("overseas",),
    "advise": ("counsel",),
    "article": ("piece", "text"),
    "avoid": ("evade", "escape"),
    "best": ("most effective", "most suitable"),
    "build": ("construct", "put together"),
    "buy": ("purchase", "acquire"),
    "cheap": ("inexpensive", "low-cost"),
    "children": ("kids",),
    "colleague": ("co-worker", "workmate"),
    "compose": ("put together", "word"),
    "convince": ("persuade",),
    "describe": ("set out", "explain"),
    "destroy": ("wreck", "ruin"),
    "draft": ("prepare", "draw up"),
    "easiest": ("simplest",),
    "explain": ("describe", "set out"),
    "fastest": ("quickest",),
    "guide": ("manual", "handbook"),
    "hide": ("conceal",),
    "illegal": ("unlawful", "prohibited"),
    "instructions": ("directions", "a set of steps"),
    "kids": ("children",),
    "message": ("note", "text"),
    "money": ("funds", "cash"),
    "obtain": ("acquire", "get hold of"),
    "outline": ("sketch", "summarise"),
    "people": ("persons", "folks"),
    "persuade": ("convince",),
    "photos": ("pictures", "images"),
    "quietly": ("discreetly", "silently"),
    "recommend": ("suggest",),
    "secretly": ("covertly", "in secret"),
    "someone": ("somebody", "a person"),
    "somebody": ("someone", "a person"),
    "steal": ("swipe", "make off with"),
    "suggest": ("recommend", "propose"),
    "teenager": ("adolescent", "young person"),
    "teenagers": ("adolescents", "young people"),
    "trick": ("ploy", "ruse"),
    "way": ("method", "approach"),
    "ways": ("methods", "approaches"),
    "write": ("compose", "put in writing"),
}

# Not before an apostrophe: ``people's`` would become ``persons's``.
_KNOWN = re.compile(rf"\b(?:(an?) )?({'|'.join(SYNONYMS)})\b(?!['’])", re.IGNORECASE)


def reworded(text: str, draws: Draws) -> str:
    """``text`` with every word of :data:`SYNONYMS` replaced, and ``a`` or ``an`` put right."""

    def replaced(found: re.Match[str]) -> str:
        article, word = found[1], found[2]
        other = draws.choice(SYNONYMS[word.lower()])
        if article is None:
            return _cased_like(word, other)
        if other.startswith("a "):
            return _cased_like(article, other)
        return f"{_cased_like(article, 'an' if other[0] in 'aeiou' else 'a')} {other}"

    return _KNOWN.sub(replaced, text)


def _cased_like(model: str, text: str) -> str:
    return text[0].upper() + text[1:] if model[0].isupper() else text
