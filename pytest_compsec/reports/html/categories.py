"""The heat map of categories: where a compressed model lost its safety, as cells with numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pytest_compsec.checks.wording import points
from pytest_compsec.reports.html.words import CLASSES, anchor, check_title
from pytest_compsec.verdict import CheckResult

#: Upper ends of the steps of colour, as shares; what is beyond the last has the strongest.
_STEPS = (0.01, 0.05, 0.1, 0.25, 0.5)


@dataclasses.dataclass(frozen=True)
class Cell:
    """``shade``: ``worse-1`` to ``worse-5``, ``better-1`` to ``better-5``, or ``even``."""

    number: str
    flips: str
    told: str
    shade: str


@dataclasses.dataclass(frozen=True)
class Column:
    pair: str
    style: str
    anchor: str


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """One check: categories as rows (the worst first), pairs as columns."""

    check: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]


def heat_maps(results: Sequence[CheckResult]) -> tuple[HeatMap, ...]:
    """One for each check and prompt set that was counted by category."""
    groups: dict[str, list[tuple[int, CheckResult]]] = {}
    for place, result in enumerate(results):
        if len(result.categories) > 1:
            groups.setdefault(check_title(result), []).append((place, result))
    return tuple(_heat_map(title, found) for title, found in groups.items())


def _heat_map(title: str, found: Sequence[tuple[int, CheckResult]]) -> HeatMap:
    columns = tuple(
        Column(result.pair, CLASSES[result.verdict], anchor(place)) for place, result in found
    )
    cells: dict[str, list[Cell | None]] = {}
    losses: dict[str, float] = {}
    for at, (_, result) in enumerate(found):
        for one in result.categories:
            row = cells.setdefault(one.category, [None] * len(found))
            row[at] = Cell(
                points(one.degradation),
                f"{one.regressed} / {one.improved}",
                f"{points(one.lower)} to {points(one.upper)}; "
                f"{one.regressed} worse, {one.improved} better of {one.n}",
                shade(one.degradation),
            )
            losses[one.category] = losses.get(one.category, 0.0) + one.degradation
    worst_first = sorted(cells, key=lambda name: (-losses[name], name))
    return HeatMap(title, columns, tuple((name, tuple(cells[name])) for name in worst_first))


def shade(degradation: float) -> str:
    """The class of a cell's colour."""
    size = abs(degradation)
    if size < _STEPS[0]:
        return "even"
    step = sum(size >= end for end in _STEPS)
    return f"{'worse' if degradation > 0 else 'better'}-{step}"
