"""The forest plot: how much worse each pair is, with its interval, against what is allowed."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from pytest_compsec.checks.estimates import POINTS
from pytest_compsec.checks.wording import points
from pytest_compsec.reports.html.shown_text import short
from pytest_compsec.reports.html.svg import COLOURS, MARKERS, Drawing, drawing
from pytest_compsec.reports.html.words import CLASSES, anchor, check_title
from pytest_compsec.verdict import CheckResult, Verdict

#: More rows than anybody looks at; the table below the drawing has them all.
MOST_ROWS = 150
#: Where one bar is this many times longer than the limits, the axis is compressed.
_COMPRESS = 8
#: Words stand before the lines of the grid.
_BEHIND = {"facecolor": COLOURS["surface"], "edgecolor": "none", "pad": 1}


@dataclasses.dataclass(frozen=True)
class ForestRow:
    """One bar; shares between -1 and 1. ``what`` is the check, or the quantity of a check."""

    pair: str
    what: str
    verdict: Verdict
    change: float
    lower: float
    upper: float
    limit: float
    samples: int
    anchor: str

    @property
    def style(self) -> str:
        return CLASSES[self.verdict]

    @property
    def numbers(self) -> str:
        return f"{points(self.change)} [{points(self.lower)}, {points(self.upper)}]"

    @property
    def finite(self) -> bool:
        """Whether it can be drawn: JSON has None for a number that was not finite."""
        numbers: tuple[float | None, ...] = (self.change, self.lower, self.upper, self.limit)
        return all(number is not None and math.isfinite(number) for number in numbers)

    @property
    def allowed(self) -> str:
        return f"{100 * self.limit:.1f}"


@dataclasses.dataclass(frozen=True)
class Forest:
    """``others`` are results that are no percentage points, in words."""

    rows: tuple[ForestRow, ...]
    others: tuple[str, ...]
    compressed: bool
    drawing: Drawing | None

    @property
    def undrawn(self) -> int:
        return max(0, len(self.rows) - MOST_ROWS)


def forest_of(results: Sequence[CheckResult]) -> Forest:
    """Rows by check, the worst first, and their drawing (None without rows)."""
    rows: list[ForestRow] = []
    others: dict[str, None] = {}
    for place, result in enumerate(results):
        found = [row for row in _rows(result, anchor(place)) if row.finite]
        rows += found
        if not found:
            others.setdefault(f"{check_title(result)} of {result.pair}")
    rows.sort(key=lambda row: (row.what, -row.change, row.pair))
    drawn = rows[:MOST_ROWS]
    compressed = _compressed(drawn)
    return Forest(
        tuple(rows),
        tuple(others),
        compressed,
        _drawing(drawn, compressed) if drawn else None,
    )


def _rows(result: CheckResult, place: str) -> Iterator[ForestRow]:
    measured, backdoor = result.measurement, result.backdoor
    title = check_title(result)
    if measured is not None:
        numbers = (measured.degradation, *measured.interval, result.limit, measured.n)
        yield ForestRow(result.pair, title, result.verdict, *numbers, place)
        return
    if backdoor is not None and backdoor.strengths:
        worst = max(backdoor.strengths, key=lambda one: one.increase)
        change = (worst.increase, worst.lower, worst.upper, result.limit, worst.samples)
        yield ForestRow(result.pair, f"{title}: increase", result.verdict, *change, place)
    elif backdoor is not None and backdoor.compressed is not None:
        arm = backdoor.compressed
        change = (arm.delta_asr, arm.lower, arm.upper, result.limit, arm.samples)
        yield ForestRow(result.pair, f"{title}: ΔASR", result.verdict, *change, place)
    for one in result.estimates:
        known = None not in (one.change, one.lower, one.upper, one.limit)
        if one.unit == POINTS and one.verdict and known:
            assert one.change is not None
            assert one.lower is not None
            assert one.upper is not None
            assert one.limit is not None
            change = (one.change, one.lower, one.upper, one.limit, one.samples)
            yield ForestRow(
                result.pair, f"{title}: {one.name}", Verdict(one.verdict), *change, place
            )


def _compressed(rows: Sequence[ForestRow]) -> bool:
    if not rows:
        return False
    widest = max(max(abs(row.lower), abs(row.upper)) for row in rows)
    return widest > _COMPRESS * max(0.01, min(row.limit for row in rows))


def _drawing(rows: Sequence[ForestRow], compressed: bool) -> Drawing:
    beyond = sum(row.lower > row.limit for row in rows)
    return drawing(
        "forest",
        "Degradation of each pair against its limit",
        f"{len(rows)} intervals in percentage points; {beyond} of them lie wholly beyond their "
        "limit. The table below has the numbers.",
        lambda figure, narrow: _draw(figure, rows, compressed, narrow),
    )


def _draw(figure: Any, rows: Sequence[ForestRow], compressed: bool, narrow: bool) -> None:
    step = 1.5 if narrow else 1.0
    groups = [(what, list(found)) for what, found in itertools.groupby(rows, lambda row: row.what)]
    height = (len(rows) + 1.15 * len(groups)) * step
    figure.set_size_inches(3.5 if narrow else 9.6, 0.75 + height * 0.27)
    axes = figure.add_subplot()
    _axis(axes, rows, compressed, narrow)
    right = axes.get_xlim()[1]
    y = 0.0
    ticks, labels = [], []
    for at, (what, found) in enumerate(groups):
        y += (1.15 if at else 0.9) * step
        axes.annotate(
            short(what, 36 if narrow else 60),
            xy=(0, y),
            xycoords=("axes fraction", "data"),
            xytext=(0 if narrow else -3.5, 0),
            textcoords="offset points",
            ha="left" if narrow else "right",
            va="center",
            weight="bold",
            fontsize=9.5,
            annotation_clip=False,
            bbox=_BEHIND,
        )
        for row in found:
            y += step
            _bar(axes, row, y, 0.4 if narrow else 0.5, right)
            if narrow:
                _above(axes, row, y - 0.62)
            else:
                ticks.append(y)
                labels.append(short(row.pair, 36))
                axes.annotate(
                    row.numbers,
                    xy=(1, y),
                    xycoords=("axes fraction", "data"),
                    xytext=(8, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=9.5,
                    annotation_clip=False,
                )
    axes.set_yticks(ticks, labels)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(y + 0.75 * step, 0.1)


def _axis(axes: Any, rows: Sequence[ForestRow], compressed: bool, narrow: bool) -> None:
    axes.axvline(0, color=COLOURS["muted"], linewidth=0.8)
    lowest = min(0.0, *(100 * row.lower for row in rows))
    highest = max(100 * max(row.upper, row.limit) for row in rows)
    if compressed:
        bend = 5.0
        axes.set_xscale("symlog", linthresh=bend, linscale=1.1)
        usual = [2, 5, 20, 100] if narrow else [1, 2, 5, 10, 20, 50, 100]
        ticks = [sign * tick for tick in usual for sign in (-1, 1)] + [0]
        low, high = min(-1.5, lowest * 1.25), max(highest * 1.15, bend)
        axes.set_xlim(low, high)
        shown = sorted(tick for tick in ticks if low <= tick <= high)
        axes.set_xticks(shown, [f"{tick:+d}" if tick else "0" for tick in shown])
        axes.minorticks_off()
    else:
        room = 0.08 * (highest - lowest or 1)
        axes.set_xlim(lowest - room, highest + room)
    axes.grid(axis="x", linewidth=0.6)
    axes.set_xlabel("degradation, percentage points (right is worse)")
    axes.spines["left"].set_visible(False)


def _bar(axes: Any, row: ForestRow, y: float, half: float, end: float) -> None:
    colour = COLOURS[row.style]
    limit = 100 * row.limit
    axes.fill_betweenx(
        [y - half, y + half], limit, end, color=COLOURS["beyond"], linewidth=0, zorder=0.5
    )
    axes.plot(
        [limit, limit], [y - half, y + half], color=COLOURS["limit"], linewidth=1.2, dashes=(3, 2)
    )
    axes.plot(
        [100 * row.lower, 100 * row.upper],
        [y, y],
        color=colour,
        linewidth=2.4,
        solid_capstyle="round",
    )
    axes.plot([100 * row.change], [y], marker=MARKERS[row.style], color=colour, markersize=7)


def _above(axes: Any, row: ForestRow, y: float) -> None:
    """The name and the numbers of a bar on their own line, where there is no room beside it."""
    for text, place, side in ((short(row.pair, 18), 0, "left"), (row.numbers, 1, "right")):
        axes.annotate(
            text,
            xy=(place, y),
            xycoords=("axes fraction", "data"),
            ha=side,
            va="center",
            fontsize=9,
            annotation_clip=False,
            bbox=_BEHIND,
        )
