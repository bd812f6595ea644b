"""Is a text an answer at all? A cheap sign of a broken model: nothing, or the same again and again.

Random but varied garbage is not seen here; that needs a language model's opinion.
"""

from __future__ import annotations

import re
import zlib

#: Whisper (Radford et al. 2022, arXiv 2212.04356, section 4.5) calls a transcript degenerate when
#: its text compresses better than this.
MAX_COMPRESSION_RATIO = 2.4
#: Below this many characters zlib's header hides the ratio.
MIN_LENGTH = 80


def is_degenerate(text: str) -> bool:
    """True for a text without any letter or digit, and for one that repeats itself."""
    stripped = text.strip()
    if not re.search(r"\w", stripped):
        return True
    data = stripped.encode("utf-8", "backslashreplace")
    if len(data) < MIN_LENGTH:
        words = stripped.split()
        return len(words) >= 8 and len(set(words)) <= 2
    return len(data) / len(zlib.compress(data)) > MAX_COMPRESSION_RATIO
