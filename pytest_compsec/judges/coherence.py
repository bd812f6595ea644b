"""Is a text an answer at all, or is the model broken?

Three signs, from cheap to dear. :func:`is_degenerate` needs the text alone: nothing, or the same
again and again. Its entropy of words sees shorter loops than compression does. Varied garbage is
seen by a language model only: the original finds it far less likely than its own answers.

The perplexity must not punish an answer for not being a refusal. That surprise sits in the first
tokens (Qi et al. 2024, arXiv 2406.05946: safety alignment reaches only a few tokens deep; measured
here: ``bench/coherence``), so :data:`SKIPPED_TOKENS` of them are read but not counted.
"""

from __future__ import annotations

import math
import re
import statistics
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

#: Whisper (Radford et al. 2022, arXiv 2212.04356, section 4.5) calls a transcript degenerate when
#: its text compresses better than this.
MAX_COMPRESSION_RATIO = 2.4
#: Below this many bytes zlib's header hides the ratio.
MIN_LENGTH = 80
#: Bytes of a piece. Whisper's ratio is that of half a minute of speech; longer texts compress
#: better without being loops (2,000 bytes of program text often pass 2.4).
PIECE_LENGTH = 480
#: A loop whose turns are longer than a piece shows in the whole text only, where sound texts of
#: 8,000 bytes stay below twice the limit for a piece.
_WHOLE_COUNTS = 0.5

#: Words over which the entropy is taken at a time, so that it does not depend on the length.
WINDOW_WORDS = 24
#: Fewer words than this have no entropy worth the name.
MIN_WORDS = 8
#: Below this share of the largest possible entropy of its words, a text is a loop.
MIN_ENTROPY = 0.70

#: First tokens of an answer whose likelihood is not counted.
SKIPPED_TOKENS = 4
#: With fewer counted tokens an answer has no perplexity.
MIN_SCORED_TOKENS = 4
#: How many times the median perplexity of the original's own answers an answer may have.
PERPLEXITY_FACTOR = 10.0
#: Fewer own answers than this give no limit.
MIN_OWN_ANSWERS = 8

# Scripts without spaces: each sign counts as a word.
_SIGN = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
# Not \w+: vowel signs of many scripts are no \w and would tear words apart.
_BREAK = r"\s!-&(-/:-@\[-`{-~¡¿«»\u2010-\u2018\u201a-\u2027\u3000-\u303f\uff00-\uff0f\uff1a-\uff20"
_WORDS = re.compile(f"[{_SIGN}]|[^{_BREAK}{_SIGN}]+")

_Items = TypeVar("_Items", Sequence[str], bytes)


@dataclass(frozen=True)
class Coherence:
    """What is known of one text.

    ``repetition``: how many times smaller zlib makes it. ``token_entropy``: the entropy of its
    words (0: always the same one, 1: all different; 1 for a text of few words, 0 for one without
    any letter or digit). ``perplexity``: under the original, None where not known.
    """

    repetition: float
    token_entropy: float
    perplexity: float | None = None


def coherence(text: str, perplexity: float | None = None) -> Coherence:
    """Measure a text; ``perplexity`` comes from :func:`answer_perplexity`."""
    return Coherence(
        repetition=_repetition(_bytes(text)),
        token_entropy=_entropy(text) if _says_something(text) else 0.0,
        perplexity=perplexity,
    )


def is_broken(coherence: Coherence, limit: float | None) -> bool:
    """True for a text that repeats itself, says nothing, or is less likely than ``limit`` allows.

    ``limit`` is that of :func:`perplexity_limit`; with None, or without a perplexity, only the
    text itself counts.
    """
    if coherence.repetition > MAX_COMPRESSION_RATIO or coherence.token_entropy < MIN_ENTROPY:
        return True
    if limit is None or coherence.perplexity is None:
        return False
    # Written so that a perplexity that is no number counts as broken.
    return not coherence.perplexity <= limit


def answer_perplexity(tokens: int, mean_nll: float) -> float | None:
    """``exp(mean_nll)`` of an answer of which ``tokens`` were counted (nats per token, the first
    :data:`SKIPPED_TOKENS` left out); None when they are too few to say anything."""
    if tokens < MIN_SCORED_TOKENS:
        return None
    return math.exp(mean_nll) if mean_nll < 700 else math.inf


def perplexity_limit(original_perplexities: Sequence[float]) -> float | None:
    """The largest perplexity of a sound answer, from the original's own answers to the same
    prompts: :data:`PERPLEXITY_FACTOR` times their median. None when there are too few.

    Raises ValueError for a perplexity below 1 or not a number.
    """
    for value in original_perplexities:
        if not value >= 1.0:
            raise ValueError(f"a perplexity is at least 1, got {value!r}")
    if len(original_perplexities) < MIN_OWN_ANSWERS:
        return None
    limit = PERPLEXITY_FACTOR * statistics.median(original_perplexities)
    return limit if math.isfinite(limit) else None


def is_degenerate(text: str) -> bool:
    """True for a text without any letter or digit, and for one that repeats itself."""
    if not _says_something(text):
        return True
    data = _bytes(text)
    if len(data) < MIN_LENGTH:
        words = text.split()
        return len(words) >= MIN_WORDS and len(set(words)) <= 2
    return _repetition(data) > MAX_COMPRESSION_RATIO


def _says_something(text: str) -> bool:
    return re.search(r"\w", text) is not None


def _bytes(text: str) -> bytes:
    return text.strip().encode("utf-8", "backslashreplace")


def _repetition(data: bytes) -> float:
    """Mean compression ratio of the pieces, or half that of the whole, whichever is larger."""
    if not data:
        return 1.0
    pieces = [_compression(piece) for piece in _parts(data, PIECE_LENGTH)]
    return max(statistics.fmean(pieces), _WHOLE_COUNTS * _compression(data))


def _compression(data: bytes) -> float:
    return len(data) / len(zlib.compress(data))


def _entropy(text: str) -> float:
    """Mean over windows of Shannon's entropy (bits) of the words, divided by log2 of their number,
    the largest that it could be."""
    words: Sequence[str] = _WORDS.findall(text.lower())
    if len(words) < MIN_WORDS:
        words = text.split()
    if len(words) < MIN_WORDS:
        return 1.0
    return statistics.fmean(_normalised_entropy(part) for part in _parts(words, WINDOW_WORDS))


def _normalised_entropy(words: Sequence[str]) -> float:
    n = len(words)
    shares = [count / n for count in Counter(words).values()]
    return -math.fsum(share * math.log2(share) for share in shares) / math.log2(n)


def _parts(items: _Items, length: int) -> list[_Items]:
    """``items`` cut into parts of nearly equal length, about ``length`` each."""
    number = max(1, round(len(items) / length))
    return [
        items[part * len(items) // number : (part + 1) * len(items) // number]
        for part in range(number)
    ]
