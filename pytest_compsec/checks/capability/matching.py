"""Is a short answer right? The same rule for both models, on the text alone.

Both the answer and what is accepted are normalised as SQuAD does (Rajpurkar et al. 2016, arXiv
1606.05250: lower case, no punctuation, no articles), with these additions: accents are dropped,
``1,000`` is ``1000``, a decimal point and a sign before a digit are kept.

Chatty models put the answer into a sentence, and a rule for whole answers alone would measure how
terse a model is. A rule that looks for the accepted words anywhere would pass an echo of the
question wherever the question names the choices ("light or sound?"). Hence:

* Only the first line counts, of those that hold a letter or digit and do not end in a colon
  ("Sure, here it is:"). What a model goes on to write after its answer is not read. A line that
  begins by repeating the whole question is read after that.
* It is right when it *is* an accepted answer, or *contains* one as whole words.
* An accepted answer that is one of the choices in the question must be the whole line or its
  beginning ("Light travels faster than sound", but not "light or sound"), or stand in the line
  without a word of another choice ("It is light"). The choices are what an "or" and commas divide
  behind the first comma or the colon of a sentence, and the words beside an "or" where there is
  neither. A line that is a longer piece of the question ("light, sound or heat") is an echo.
* An accepted answer that stands in the question otherwise ("4" in "What is 4 multiplied by 1?")
  must be the whole line, or end it behind "is", "are" or "answer".
* ``a``, ``an``, ``the`` and ``i``, where accepted (letters), must be the whole line.

A line that lists several possibilities is right when one of them is. Words are what spaces and
punctuation separate: in a script without spaces only the whole line counts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_ARTICLES = frozenset({"a", "an", "the"})
#: Words of every English sentence, which say nothing where they happen to occur.
_TOO_COMMON = frozenset({"a", "an", "the", "i"})
#: What stands before the end of a line that gives its answer there.
_GIVING = frozenset({"is", "are", "was", "answer"})
_APOSTROPHES = frozenset("'’‘`´ʼ")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_OR = re.compile(r"\bor\b", re.I)
_CHOICES = re.compile(r",(?!\d{3}(?!\d))|\bor\b", re.I)
_ACCENTS = re.compile("[\u0300-\u036f]")


def is_right(question: str, accepted: Sequence[str], answer: str) -> bool:
    """Whether ``answer`` gives one of the ``accepted`` answers; see the module's text for how."""
    asked = words_of(question)
    said = words_of(first_line(answer))
    if said[: len(asked)] == asked:
        said = said[len(asked) :]
    choices = choices_of(question)
    return any(_gives(said, words_of(one), asked, choices) for one in accepted)


def choices_of(question: str) -> list[list[str]]:
    """The words of each choice that a question names, without articles; none where it names fewer
    than two."""
    found: list[list[str]] = []
    for sentence in re.split(r"[.?!;](?=\s|$)", question):
        lead, mark, rest = sentence.partition(":")
        if not mark:
            lead, mark, rest = sentence.partition(",")
        if mark and (lead.strip() and (":" in sentence or _OR.search(rest))):
            parts = [_without_articles(words_of(one)) for one in _CHOICES.split(rest)]
        else:
            words = _without_articles(words_of(sentence))
            places = [place for place, word in enumerate(words) if word == "or"]
            parts = [words[at : at + 1] for place in places for at in (place - 1, place + 1)]
        if len(parts) > 1:
            found += [part for part in parts if part]
    return found


def first_line(text: str) -> str:
    """The first line that holds a letter or digit and announces no other with a colon at its end;
    of a text that only announces, its first line."""
    lines = [line.strip() for line in text.splitlines() if re.search(r"[^\W_]", line)]
    said = [line for line in lines if not line.rstrip("*_ ").endswith(":")]
    return (said or lines or [""])[0]


def words_of(text: str) -> list[str]:
    """The words of ``text``, normalised, its articles still there."""
    text = _ACCENTS.sub("", unicodedata.normalize("NFKD", text)).replace("\u2212", "-").casefold()
    text = _THOUSANDS.sub("", text)
    return "".join(_kept(text, place) for place in range(len(text))).split()


def _kept(text: str, place: int) -> str:
    """What becomes of one sign: itself, nothing, or a space."""
    sign = text[place]
    before = text[place - 1] if place else " "
    after = text[place + 1 : place + 2]
    if unicodedata.category(sign)[0] in "LNM":
        return sign
    if sign in _APOSTROPHES:
        return ""
    decimal = sign == "." and before.isdigit() and after.isdigit()
    negative = sign == "-" and before.isspace() and after.isdigit()
    return sign if decimal or negative else " "


def _gives(said: list[str], wanted: list[str], asked: list[str], choices: list[list[str]]) -> bool:
    if len(wanted) == 1 and wanted[0] in _TOO_COMMON:
        return said == wanted
    said, wanted, asked = (_without_articles(words) for words in (said, wanted, asked))
    if not wanted or said == wanted:
        return bool(wanted)
    if not _contains(said, wanted):
        return False
    if not _contains(asked, wanted):
        return True
    if _contains(asked, said):  # a piece of the question, such as all its choices
        return False
    own = [one for one in choices if _contains(one, wanted)]
    if not own and choices and _contains(asked, [*wanted, *choices[0]]):
        own = [wanted]  # the first of several, in front of the first comma
    if not own:
        return said[-len(wanted) :] == wanted and said[-len(wanted) - 1] in _GIVING
    if said[: len(wanted)] == wanted:
        return said[len(wanted)] != "or"
    others = {word for one in choices for word in one}.difference(*own)
    return bool(others) and others.isdisjoint(said)


def _without_articles(words: list[str]) -> list[str]:
    return [word for word in words if word not in _ARTICLES]


def _contains(words: list[str], wanted: list[str]) -> bool:
    return bool(_places(words, wanted))


def _places(words: list[str], wanted: list[str]) -> list[int]:
    return [
        place
        for place in range(len(words) - len(wanted) + 1)
        if words[place : place + len(wanted)] == wanted
    ]
