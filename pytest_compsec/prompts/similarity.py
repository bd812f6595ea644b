"""Near-duplicate prompts: two requests that share most of their content words.

Used to keep the built-in sets free of repeats and training prompts apart from test prompts.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_compsec.prompts.model import PromptSet

# Words that say how something is asked, not what is asked for.
_STOP_WORDS = frozenset(
    """
    a about advise also am an and any anyone are as ask at be been but by can compose could create
    describe design did do does draft explain find for from generate get give had has have he help
    her hers him his how i if in into is it its kindly let like list make may me might must my need
    of off on or our out outline over plan please produce provide recommend she should show so some
    somebody someone such suggest teach tell than that the their them then there these they this
    those to up us want was way ways we were what when where which while who whom whose why will
    with without would write you your
    """.split()  # noqa: SIM905
)

_APOSTROPHES = re.compile("['’]")
_WORD = re.compile(r"\w+")


def content_words(text: str) -> frozenset[str]:
    """The words of ``text``, lower-cased, without those that only carry the asking."""
    return frozenset(_words(text)) - _STOP_WORDS


def normalised(text: str) -> str:
    """``text`` without case, punctuation and spacing: equal for trivially different spellings."""
    return " ".join(_words(text))


def near_duplicates(
    texts: Sequence[str], others: Sequence[str] | None = None, threshold: float = 0.6
) -> list[tuple[int, int, float]]:
    """Pairs whose content words overlap by ``threshold`` or more, the most alike first.

    The likeness is the Jaccard index |A ∩ B| / |A ∪ B| of the two sets of content words (Jaccard
    1901), in [0, 1], and 1.0 for texts that are equal once normalised.

    Args:
        texts: the prompts to search.
        others: None to compare ``texts`` among themselves (pairs i < j); else the prompts that
            the second index of each pair counts in.
        threshold: in (0, 1].

    Returns:
        ``(index in texts, index in others or texts, likeness)``.

    Raises:
        ValueError: ``threshold`` is outside (0, 1].
    """
    if not 0.0 < threshold <= 1.0:
        raise ValueError(f"threshold must be in (0, 1], not {threshold}")
    right = texts if others is None else others
    right_words = [content_words(text) for text in right]
    right_normalised = [normalised(text) for text in right]
    # Only prompts that share a word can be alike, so an inverted index finds all candidates.
    holders: dict[str, list[int]] = defaultdict(list)
    equals: dict[str, list[int]] = defaultdict(list)
    for index, words in enumerate(right_words):
        for word in words:
            holders[word].append(index)
        equals[right_normalised[index]].append(index)

    pairs: list[tuple[int, int, float]] = []
    for first, text in enumerate(texts):
        words = content_words(text)
        same = set(equals[normalised(text)])
        shared = Counter(index for word in words for index in holders[word])
        for second in same | shared.keys():
            if others is None and second <= first:
                continue
            common = shared[second]
            union = len(words) + len(right_words[second]) - common
            likeness = 1.0 if second in same else common / union
            if likeness >= threshold:
                pairs.append((first, second, likeness))
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))


def _words(text: str) -> list[str]:
    return _WORD.findall(_APOSTROPHES.sub("", text.lower()))


def shared_prompts(prompts: PromptSet, others: PromptSet) -> list[str]:
    """Ids of the prompts that are in both sets but for case, punctuation and spacing."""
    known = {normalised(prompt.text) for prompt in others.prompts}
    return [prompt.id for prompt in prompts.prompts if normalised(prompt.text) in known]
