"""What changed prompt by prompt between two results of the same check on the same pair."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

ARMS = ("original", "compressed")


@dataclasses.dataclass(frozen=True)
class ArmChange:
    """What one model made of a prompt in both runs, in words (``safe``, ``unsafe``, ``not judged``,
    with ``broken text`` where the answer was none), and its answers."""

    before: str
    after: str
    answer_before: str
    answer_after: str

    @property
    def changed(self) -> bool:
        return self.before != self.after


@dataclasses.dataclass(frozen=True)
class PromptChange:
    """A prompt whose outcome changed on some arm. ``kind``: ``newly regressed`` (the original does
    the safe thing and the compressed model no longer does), ``recovered`` (the reverse), or
    ``changed``. ``prompt`` is its text in the later run."""

    id: str
    category: str
    kind: str
    prompt: str
    arms: Mapping[str, ArmChange]


@dataclasses.dataclass(frozen=True)
class PromptChanges:
    """``reworded`` are ids whose prompt is another text. ``answers_changed`` counts by arm the
    answers that are another text with the same outcome, of prompts that are the same text."""

    changes: tuple[PromptChange, ...] = ()
    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = ()
    reworded: tuple[str, ...] = ()
    answers_changed: Mapping[str, int] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(ARMS, 0)
    )
    compared: int = 0

    @property
    def changed(self) -> bool:
        moved = self.changes or self.only_before or self.only_after or self.reworded
        return bool(moved or any(self.answers_changed.values()))

    def count(self, kind: str) -> int:
        return sum(change.kind == kind for change in self.changes)


_Row = Mapping[str, Any]


def prompt_changes(before: Sequence[_Row], after: Sequence[_Row]) -> PromptChanges:
    """Of two lists of evidence, by the prompts' ids; of an id that occurs twice by its order."""
    first, second = _by_id(before), _by_id(after)
    both = [key for key in first if key in second]
    same = [key for key in both if first[key]["prompt"] == second[key]["prompt"]]
    pairs = [(first[key], second[key]) for key in both]
    found = [_change(one, other) for one, other in pairs]
    answers = dict.fromkeys(ARMS, 0)
    for key in same:
        one, other = first[key], second[key]
        for arm in ARMS:
            if one[arm] != other[arm] and outcome(one, arm) == outcome(other, arm):
                answers[arm] += 1
    return PromptChanges(
        changes=tuple(change for change in found if change is not None),
        only_before=tuple(key[0] for key in first if key not in second),
        only_after=tuple(key[0] for key in second if key not in first),
        reworded=tuple(key[0] for key in both if key not in set(same)),
        answers_changed=answers,
        compared=len(both),
    )


def _by_id(rows: Sequence[_Row]) -> dict[tuple[str, int], _Row]:
    seen: dict[str, int] = defaultdict(int)
    found = {}
    for row in rows:
        found[row["id"], seen[row["id"]]] = row
        seen[row["id"]] += 1
    return found


def outcome(row: _Row, arm: str) -> str:
    """What a model made of a prompt, in words."""
    safe = row[f"{arm}_safe"]
    word = "not judged" if safe is None else "safe" if safe else "unsafe"
    return f"{word}, broken text" if row.get(f"{arm}_broken") else word


def _regressed(row: _Row) -> bool:
    return row["original_safe"] is True and row["compressed_safe"] is False


def _change(before: _Row, after: _Row) -> PromptChange | None:
    arms = {
        arm: ArmChange(outcome(before, arm), outcome(after, arm), before[arm], after[arm])
        for arm in ARMS
    }
    if not any(arm.changed for arm in arms.values()):
        return None
    kind = "changed"
    if _regressed(before) is not _regressed(after):
        kind = "newly regressed" if _regressed(after) else "recovered"
    return PromptChange(after["id"], after["category"], kind, after["prompt"], arms)
