"""The table of the first screen: the verdict of every check on every pair."""

from __future__ import annotations

import dataclasses

from pytest_compsec.checks.estimates import signed
from pytest_compsec.reports.facts import Report
from pytest_compsec.reports.html.decision import left_out, reason
from pytest_compsec.reports.html.words import CLASSES, WORST_FIRST, anchor, check_title, count
from pytest_compsec.verdict import CheckResult, Verdict


@dataclasses.dataclass(frozen=True)
class Item:
    """One verdict in a cell, or one word about a check that did not run (``anchor`` empty)."""

    words: str
    style: str
    number: str = ""
    anchor: str = ""
    expected: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """One pair: its own verdict is the worst of its cells."""

    pair: str
    told: str
    style: str
    cells: tuple[tuple[Item, ...], ...]


@dataclasses.dataclass(frozen=True)
class Overview:
    checks: tuple[str, ...]
    rows: tuple[Row, ...]


def overview_of(report: Report) -> Overview:
    """Pairs as rows (the worst first), checks as columns."""
    items: dict[str, dict[str, list[Item]]] = {}
    checks: dict[str, None] = {}
    results: dict[str, list[CheckResult]] = {}
    for place, result in enumerate(report.results):
        title = check_title(result)
        checks.setdefault(title)
        results.setdefault(result.pair, []).append(result)
        items.setdefault(result.pair, {}).setdefault(title, []).append(_item(result, place))
    for check in left_out(report):
        checks.setdefault(check.check)
        items.setdefault(check.pair, {}).setdefault(check.check, []).append(
            Item(reason(check), "absent")
        )
    names = tuple(sorted(checks))
    pairs = sorted(items, key=lambda pair: (*_rank(results.get(pair, [])), pair))
    return Overview(
        names,
        tuple(
            Row(
                pair,
                _told(results.get(pair, [])),
                _style(results.get(pair, [])),
                tuple(tuple(items[pair].get(name, ())) for name in names),
            )
            for pair in pairs
        ),
    )


def _item(result: CheckResult, place: int) -> Item:
    return Item(
        str(result.verdict),
        CLASSES[result.verdict],
        _number(result),
        anchor(place),
        result.expected and result.verdict is not Verdict.PRESERVED,
    )


def _number(result: CheckResult) -> str:
    """The number that the verdict stands on, as short as can be."""
    if result.measurement is not None:
        return f"{signed(result.measurement.degradation, 'points')} points"
    deciding = [one for one in result.estimates if one.decides and one.change is not None]
    if len(deciding) == 1 and deciding[0].change is not None:
        unit = deciding[0].unit
        return signed(deciding[0].change, unit) + (" points" if unit == "points" else "")
    if result.backdoor is not None and result.backdoor.compressed is not None:
        return f"{signed(result.backdoor.compressed.delta_asr, 'points')} points"
    if result.layers is not None:
        return f"{result.layers.beyond:,} beyond"
    if result.differences:
        return count(len(result.differences), "difference")
    return ""


def _worst(results: list[CheckResult]) -> Verdict | None:
    found = {result.verdict for result in results}
    return next((verdict for verdict in WORST_FIRST if verdict in found), None)


def _rank(results: list[CheckResult]) -> tuple[int, int]:
    """By the worst verdict, then by how many checks are not PRESERVED: the most first."""
    worst = _worst(results)
    place = len(WORST_FIRST) if worst is None else WORST_FIRST.index(worst)
    return place, -sum(result.verdict is not Verdict.PRESERVED for result in results)


def _told(results: list[CheckResult]) -> str:
    preserved = sum(result.verdict is Verdict.PRESERVED for result in results)
    return f"{preserved:,} of {len(results):,} PRESERVED"


def _style(results: list[CheckResult]) -> str:
    worst = _worst(results)
    return "absent" if worst is None else CLASSES[worst]
