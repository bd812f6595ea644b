"""Precision against safety and capability: what fewer bits cost, where the bits are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_compsec.checks.estimates import POINTS
from pytest_compsec.reports.html.shown_text import visible
from pytest_compsec.reports.html.svg import COLOURS, SERIES, Drawing, drawing
from pytest_compsec.reports.html.words import anchor, check_title
from pytest_compsec.reports.text import one_line
from pytest_compsec.verdict import CheckResult

#: The estimate of ``precision_policy`` that measures a compressed model's bits.
_MEASURED_BITS = "lowest bits per weight"
_CAPABILITY = frozenset({"capability_preserved", "truthfulness_preserved", "lm_eval_preserved"})
_SHAPES = ("o", "s", "^", "D", "v")


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
    """``without_bits`` are pairs of which nobody said how many bits a weight has. ``reason`` is
    why there is no drawing (empty where there is one)."""

    points: tuple[Point, ...]
    series: tuple[tuple[str, str], ...]
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
    colours = tuple((name, SERIES[at % len(SERIES)]) for at, name in enumerate(names))
    reason = _reason(points, bool(unknown))
    return Precision(
        tuple(sorted(points, key=lambda point: (point.series, -point.bits, point.pair))),
        colours,
        tuple(unknown),
        reason,
        None if reason else _drawing(points, dict(colours)),
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


def _drawing(points: Sequence[Point], series: Mapping[str, str]) -> Drawing:
    return drawing(
        "precision",
        "Bits per weight against the share handled safely or right",
        f"{len(points)} results in {len(series)} series. The table below has the numbers.",
        lambda figure, narrow: _draw(figure, points, series, narrow),
    )


def _draw(figure: Any, points: Sequence[Point], series: Mapping[str, str], narrow: bool) -> None:
    slots = sorted({(-point.bits, point.pair) for point in points})
    places = {pair: at for at, (_, pair) in enumerate(slots)}
    figure.set_size_inches(3.5 if narrow else 9.6, 3.4 if narrow else 3.5)
    axes = figure.add_subplot()
    names = list(series)
    for point in points:
        at = names.index(point.series)
        place = places[point.pair] + 0.14 * (at - (len(names) - 1) / 2)
        colour, value = COLOURS[series[point.series]], 100 * point.value
        if point.original is not None:
            before = 100 * point.original
            axes.plot([place, place], [before, value], color=colour, linewidth=1.6)
            axes.plot([place], [before], marker="_", markersize=13, markeredgewidth=2, color=colour)
        axes.plot([place], [value], marker=_SHAPES[at % len(_SHAPES)], markersize=8, color=colour)
    labels = [
        f"{one_line(visible(pair), 18 if narrow else 24)}\n{-bits:.3g} bits" for bits, pair in slots
    ]
    crowded = len(slots) > (3 if narrow else 8)
    axes.set_xticks(
        range(len(slots)),
        labels,
        rotation=35 if crowded else 0,
        ha="right" if crowded else "center",
    )
    axes.set_xlim(-0.6, len(slots) - 0.4)
    axes.set_ylim(-4, 104)
    axes.set_ylabel("% of prompts or questions")
    axes.tick_params(length=0)
    axes.grid(axis="y", linewidth=0.6)
    axes.spines["left"].set_visible(False)
