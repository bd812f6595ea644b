"""The data of the flips browser: every prompt with both answers, as JSON inside the page."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from pytest_compsec.reports.html.shown_text import cut, first_difference, visible
from pytest_compsec.reports.html.words import CLASSES, anchor, check_title, deeds
from pytest_compsec.verdict import CheckResult, Evidence

#: Characters of one text that the page keeps, the most that fits :data:`BUDGET` all together.
LIMITS = (8_000, 4_000, 2_000, 1_000, 500, 250, 120)
#: Characters of all texts together: what a browser on a telephone still opens.
BUDGET = 16_000_000
#: The order is that of the page's script.
KINDS = ("regressed", "improved", "unjudged", "kept", "neither")
_OUTCOMES = {False: 0, True: 1, None: 2}
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


@dataclasses.dataclass(frozen=True)
class EvidenceData:
    """``text`` is the JSON, safe inside a script element. ``limit`` is how many characters of a
    text were kept, ``shortened`` how many texts were longer."""

    text: str
    rows: int
    kinds: dict[str, int]
    categories: tuple[str, ...]
    limit: int
    shortened: int


def kind_of_row(row: Evidence) -> str:
    """What became of a prompt: one of :data:`KINDS`."""
    if row.original_safe is None or row.compressed_safe is None:
        return "unjudged"
    if row.regressed:
        return "regressed"
    if row.improved:
        return "improved"
    return "kept" if row.original_safe else "neither"


def evidence_data(results: Sequence[CheckResult], budget: int = BUDGET) -> EvidenceData:
    """All rows of all results; long texts cut so that the whole stays within ``budget``."""
    lengths = _lengths(results)
    limit = next(
        (limit for limit in LIMITS if sum(min(one, limit) for one in lengths) <= budget),
        LIMITS[-1],
    )
    packed = _Packed(limit)
    for place, result in enumerate(results):
        for row in result.evidence:
            packed.add(place, row)
    shown = [_head(result, place) for place, result in enumerate(results)]
    data = {"kinds": KINDS, "results": shown, "texts": packed.texts, "rows": packed.rows}
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return EvidenceData(
        text.translate(_ESCAPES),
        len(packed.rows),
        {kind: packed.kinds[kind] for kind in KINDS},
        tuple(sorted(packed.categories)),
        limit,
        sum(one > limit for one in lengths),
    )


def _lengths(results: Sequence[CheckResult]) -> list[int]:
    """Of every text once: the same prompts are asked of many pairs."""
    texts = {
        text
        for result in results
        for row in result.evidence
        for text in (row.prompt, row.original, row.compressed)
    }
    return [len(text) for text in texts]


def _head(result: CheckResult, place: int) -> dict[str, Any]:
    safe, unsafe = deeds(result.check)
    return {
        "pair": visible(result.pair),
        "check": visible(check_title(result)),
        "verdict": str(result.verdict),
        "style": CLASSES[result.verdict],
        "anchor": anchor(place),
        "outcomes": [unsafe, safe, "could not be judged"],
    }


class _Packed:
    """Rows that name their texts by number, so that a text of many rows is there once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._numbers: dict[str, int] = {}
        self._seen: dict[str, str] = {}
        self.texts: list[str] = []
        self.rows: list[list[Any]] = []
        self.kinds: collections.Counter[str] = collections.Counter()
        self.categories: set[str] = set()

    def add(self, result: int, row: Evidence) -> None:
        kind, category = kind_of_row(row), self._shown(row.category)
        self.kinds[kind] += 1
        self.categories.add(category)
        original, compressed = self._shown(row.original), self._shown(row.compressed)
        around = first_difference(original, compressed)
        self.rows.append(
            [
                result,
                KINDS.index(kind),
                self._number(self._shown(row.id)),
                self._number(category),
                self._number(self._shown(row.prompt)),
                self._number(original, around),
                self._number(compressed, around),
                self._number(self._shown(row.note)),
                _OUTCOMES[row.original_safe],
                _OUTCOMES[row.compressed_safe],
                int(row.original_broken),
                int(row.compressed_broken),
            ]
        )

    def _shown(self, text: str) -> str:
        found = self._seen.get(text)
        if found is None:
            found = self._seen[text] = visible(text)
        return found

    def _number(self, text: str, around: int = 0) -> int:
        text = cut(text, self._limit, around)
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return number
