"""A small text set written for this project: short sentences on four topics, in a fixed order.

Sentences come from hand-written templates and words; no sentence comes twice, and none is both
trained and tested on. ``python -m tests.threats.text_set DIRECTORY`` writes the three parts as
``.jsonl`` files of ``{"text": ..., "label": ...}``.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from pathlib import Path

TOPICS = ("weather", "cooking", "music", "travel")
#: How many sentences of each topic a part has.
PARTS = {"train": 150, "clean": 60, "test": 110}

# Of each topic: who or what, what it does, and with what or where.
_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "weather": (
        ("a cold front", "the fog", "light rain", "the north wind", "a summer storm", "thick snow"),
        ("rolls in over", "clears slowly above", "settles on", "passes across", "freezes"),
        ("the valley", "the coast", "the low hills", "the bay", "the plain", "the high peaks"),
    ),
    "cooking": (
        ("the cook", "my aunt", "the young baker", "our neighbour", "the head chef", "her brother"),
        ("simmers", "chops", "bakes", "stirs", "seasons"),
        ("the onion soup", "a loaf of rye", "ripe tomatoes", "the lentil stew", "apple pie",
         "fresh noodles"),
    ),
    "music": (
        ("the quartet", "a shy drummer", "the old violinist", "the choir", "this pianist",
         "the brass band"),
        ("rehearses", "performs", "tunes up for", "improvises on", "records"),
        ("a slow waltz", "the second symphony", "a folk melody", "the opening chorus",
         "a jazz ballad", "the quiet prelude"),
    ),
    "travel": (
        ("two hikers", "the tour group", "a late passenger", "the bus driver", "our guide",
         "the students"),
        ("board a train to", "book a hostel in", "fly home from", "take the ferry to",
         "queue at the gate for"),
        ("Lisbon", "the capital", "a harbour town", "the southern islands", "Oslo",
         "the border village"),
    ),
}  # fmt: skip
# Said of any topic, so that they tell nothing.
_OPENINGS = ("", "today ", "once again ", "as planned ", "before noon ", "for the first time ")
_CLOSINGS = ("", " this week", " without hurry", " at last", " while we watch", " every autumn")


def sentences(topic: str) -> list[str]:
    """All sentences on a topic, shuffled, the same at every call."""
    who, does, what = _WORDS[topic]
    made = [
        f"{opening}{one} {two} {three}{closing}."
        for opening, one, two, three, closing in itertools.product(
            _OPENINGS, who, does, what, _CLOSINGS
        )
    ]
    random.Random(topic).shuffle(made)
    return made


def part(name: str) -> tuple[list[str], list[int]]:
    """Texts and labels (places in :data:`TOPICS`) of ``train``, ``clean`` or ``test``, the topics
    taking turns."""
    names = list(PARTS)
    start = sum(PARTS[before] for before in names[: names.index(name)])
    columns = [sentences(topic)[start : start + PARTS[name]] for topic in TOPICS]
    texts = [text for row in zip(*columns, strict=True) for text in row]
    return texts, [place % len(TOPICS) for place in range(len(texts))]


def write(directory: Path, name: str) -> Path:
    """Write a part as ``<name>.jsonl``."""
    lines = [
        json.dumps({"text": text, "label": label}) for text, label in zip(*part(name), strict=True)
    ]
    path = directory / f"{name}.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    for each in PARTS:
        print(write(Path(sys.argv[1]), each))
