"""Precision against safety and capability: what fewer bits cost, where the bits are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_compsec.checks.estimates import POINTS
from pytest_compsec.reports.html.shown_text import short
from pytest_compsec.reports.html.svg import COLOURS, SERIES, Drawing, drawing
from pytest_compsec.reports.html.words import anchor, check_title
from pytest_compsec.verdict import CheckResult

#: The estimate of ``precision_policy`` that measures a compressed model's bits.
_MEASURED_BITS = "lowest bits per weight"
_CAPABILITY = frozenset({"capability_preserved", "truthfulness_preserved", "lm_eval_preserved"})
#: In the order of SERIES; the page's legend has the same ones (``icon-first`` and so on).
_SHAPES = ("o", "s", "^", "D", "v")
#: Variants that can be named below the drawing, and series that are drawn.
MOST_NAMED = 8
MOST_APART = 12


@dataclasses.dataclass(frozen=True)
class Point:
    """One result: ``value`` and ``original`` are shares between 0 and 1."""

    pair: str
    series: str
    bits: float
    how: str
    value: float
    original: float | None
    anchor: str


@dataclasses.dataclass(frozen=True)
class Precision:
    """``series`` are the names in the legend, each with the class of its sign and colour; empty
    where each is drawn by itself, and then ``undrawn`` are in the table alone. ``without_bits`` are
    pairs of which nobody said how many bits a weight has. ``reason`` is why there is no drawing
    (empty where there is one)."""

    points: tuple[Point, ...]
    series: tuple[tuple[str, str], ...]
    undrawn: int
    without_bits: tuple[str, ...]
    reason: str
    drawing: Drawing | None


def precision_of(results: Sequence[CheckResult]) -> Precision:
    """The points, and their drawing where at least two pairs have bits."""
    bits = known_bits(results)
    points: list[Point] = []
    unknown: dict[str, None] = {}
    for place, result in enumerate(results):
        for series, value, original in _shares(result):
            if result.pair in bits:
                count, how = bits[result.pair]
                points.append(
                    Point(result.pair, series, count, how, value, original, anchor(place))
                )
            else:
                unknown.setdefault(result.pair)
    names = list(dict.fromkeys(point.series for point in points))
    apart = len(names) > len(SERIES) or len({point.pair for point in points}) > MOST_NAMED
    signs = () if apart else tuple(zip(names, SERIES, strict=False))
    reason = _reason(points, bool(unknown))
    return Precision(
        tuple(sorted(points, key=lambda point: (point.series, -point.bits, point.pair))),
        signs,
        max(0, len(names) - MOST_APART) if apart else 0,
        tuple(unknown),
        reason,
        None if reason else _drawing(points, names, apart),
    )


def known_bits(results: Sequence[CheckResult]) -> dict[str, tuple[float, str]]:
    """Bits per weight by pair, and how they are known: measured by ``precision_policy`` (the
    matrix with the fewest), else as the variant's recipe asks for them."""
    found: dict[str, tuple[float, str]] = {}
    for result in results:
        asked = _asked_bits(result.provenance)
        if asked is not None:
            found.setdefault(result.pair, (asked, "asked for in compsec.yaml"))
    for result in results:
        for one in result.estimates:
            if one.name == _MEASURED_BITS and one.compressed is not None:
                found[result.pair] = (one.compressed, "measured, the matrix with the fewest")
    return found


def _asked_bits(provenance: Mapping[str, Any]) -> float | None:
    value: Any = provenance
    for key in ("compressed", "recipe", "options", "bits"):
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value)


def _shares(result: CheckResult) -> list[tuple[str, float, float | None]]:
    """What a result says about safety or capability as a share: name, compressed, original."""
    if result.measurement is not None and result.robustness is None:
        measured = result.measurement
        return [(check_title(result), measured.compressed_rate, measured.original_rate)]
    if result.check not in _CAPABILITY:
        return []
    return [
        (f"{check_title(result)}: {one.name}", one.compressed, one.original)
        for one in result.estimates
        if one.unit == POINTS and one.decides and one.compressed is not None
    ]


def _reason(points: Sequence[Point], unknown: bool) -> str:
    if not points and not unknown:
        return "Left out: no check of this run measured safety or capability as a share."
    if not points:
        return (
            "Left out: the run does not know how many bits a weight of these variants has. "
            "The marker precision_policy measures them."
        )
    if len({point.bits for point in points}) < 2:
        return (
            f"Left out: every variant whose bits are known has {points[0].bits:g} bits per "
            "weight; there is nothing to compare."
        )
    return ""


def _drawing(points: Sequence[Point], names: Sequence[str], apart: bool) -> Drawing:
    return drawing(
        "precision",
        "Bits per weight against the share handled safely or right",
        f"{len(points)} results in {len(names)} series. The table below has the numbers.",
        lambda figure, narrow: (_draw_apart if apart else _draw)(figure, points, names, narrow),
    )


def _places(points: Sequence[Point]) -> dict[tuple[float, str], int]:
    """From left to right: fewer bits, then by name."""
    return {slot: at for at, slot in enumerate(sorted({(-one.bits, one.pair) for one in points}))}


def _draw(figure: Any, points: Sequence[Point], names: Sequence[str], narrow: bool) -> None:
    slots = _places(points)
    figure.set_size_inches(3.5 if narrow else 9.6, 3.4 if narrow else 3.5)
    axes = figure.add_subplot()
    for point in points:
        at = names.index(point.series)
        place = slots[-point.bits, point.pair] + 0.14 * (at - (len(names) - 1) / 2)
        _mark(axes, point, place, SERIES[at], _SHAPES[at])
    labels = [f"{short(pair, 18 if narrow else 24)}\n{-bits:.3g} bits" for bits, pair in slots]
    crowded = len(slots) > (3 if narrow else MOST_NAMED)
    axes.set_xticks(
        range(len(slots)),
        labels,
        rotation=35 if crowded else 0,
        ha="right" if crowded else "center",
    )
    axes.set_xlim(-0.6, len(slots) - 0.4)
    axes.set_ylim(-4, 104)
    axes.set_ylabel("% of prompts or questions")
    _plain(axes)


def _draw_apart(figure: Any, points: Sequence[Point], names: Sequence[str], narrow: bool) -> None:
    """Each series by itself, where all in one would lie on each other; variants of as many bits
    stand side by side, without their names."""
    shown, slots = names[:MOST_APART], _places(points)
    figure.set_size_inches(3.5 if narrow else 9.6, 0.5 + 1.15 * len(shown))
    values = [100 * value for one in points for value in (one.value, one.original) if value]
    lowest = max(0.0, 10 * (min(values, default=0.0) // 10 - 1))
    by_bits: dict[float, list[int]] = {}
    for (bits, _), place in slots.items():
        by_bits.setdefault(-bits, []).append(place)
    panels = figure.subplots(len(shown), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, shown, strict=True):
        axes.set_title(short(name, 40 if narrow else 90), loc="left", fontsize=9.5, weight="bold")
        for point in points:
            if point.series == name:
                _mark(axes, point, slots[-point.bits, point.pair], "first", "o", 5.0)
        for places in list(by_bits.values())[1:]:
            axes.axvline(places[0] - 0.5, color=COLOURS["muted"], linewidth=0.8)
        axes.set_xticks(
            [(places[0] + places[-1]) / 2 for places in by_bits.values()],
            [f"{bits:.3g}" for bits in by_bits],
        )
        axes.set_xlim(-0.6, len(slots) - 0.4)
        axes.set_ylim(lowest, 104)
        _plain(axes)
    panels[-1].set_xlabel("bits per weight")
    figure.supylabel("% of prompts or questions", fontsize=10, color=COLOURS["muted"])


def _mark(
    axes: Any, point: Point, place: float, colour: str, shape: str, size: float = 8.0
) -> None:
    """The compressed model's share as a sign, the original's as a bar, a line between them."""
    paint, value = COLOURS[colour], 100 * point.value
    if point.original is not None:
        before = 100 * point.original
        axes.plot([place, place], [before, value], color=paint, linewidth=1.6)
        axes.plot(
            [place], [before], marker="_", markersize=1.6 * size, markeredgewidth=2, color=paint
        )
    axes.plot([place], [value], marker=shape, markersize=size, color=paint)


def _plain(axes: Any) -> None:
    axes.tick_params(length=0)
    axes.grid(axis="y", linewidth=0.6)
    axes.spines["left"].set_visible(False)
