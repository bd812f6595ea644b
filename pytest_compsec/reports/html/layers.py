"""The chart of layers: whose weights are farthest from the original's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pytest_compsec.reports.html.shown_text import short, visible
from pytest_compsec.reports.html.svg import COLOURS, Drawing, drawing
from pytest_compsec.reports.html.words import CLASSES, anchor, check_title
from pytest_compsec.verdict import CheckResult

MOST_BARS = 24
#: Results whose layers are drawn; the others have their table alone.
MOST_DRAWINGS = 12


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """Relative errors as shares; None: not finite, or not measured."""

    name: str
    weight_error: float | None
    output_error: float | None


@dataclasses.dataclass(frozen=True)
class LayerChart:
    pair: str
    check: str
    style: str
    anchor: str
    limit: float
    measured: int
    beyond: int
    rows: tuple[LayerRow, ...]
    drawing: Drawing | None


def layer_charts(results: Sequence[CheckResult]) -> tuple[LayerChart, ...]:
    """One chart for each result that compared layers."""
    found = [
        (place, result)
        for place, result in enumerate(results)
        if result.layers is not None and result.layers.names
    ]
    return tuple(
        _chart(result, place, at < MOST_DRAWINGS) for at, (place, result) in enumerate(found)
    )


def _chart(result: CheckResult, place: int, draw: bool) -> LayerChart:
    layers = result.layers
    assert layers is not None
    outputs = (*layers.output_errors, *[None] * len(layers.names))
    rows = tuple(
        LayerRow(name, weight, output)
        for name, weight, output in zip(layers.names, layers.weight_errors, outputs, strict=False)
    )
    drawn = [row for row in rows if row.weight_error is not None][:MOST_BARS]
    picture = None
    if drawn and draw:
        picture = drawing(
            f"layers-{place + 1}",
            f"Relative weight errors of {visible(result.pair)}",
            f"The {len(drawn)} largest of {layers.measured}; {layers.beyond} are beyond the limit. "
            "The table below has the numbers.",
            lambda figure, narrow: _draw(figure, drawn, result.limit, narrow),
        )
    return LayerChart(
        result.pair,
        check_title(result),
        CLASSES[result.verdict],
        anchor(place),
        result.limit,
        layers.measured,
        layers.beyond,
        rows,
        picture,
    )


def _draw(figure: Any, rows: Sequence[LayerRow], limit: float, narrow: bool) -> None:
    step = 0.42 if narrow else 0.25
    figure.set_size_inches(3.5 if narrow else 9.6, 0.75 + step * len(rows))
    axes = figure.add_subplot()
    values = [100 * (row.weight_error or 0.0) for row in rows]
    places = list(range(len(rows)))
    colours = [COLOURS["regressed" if value > 100 * limit else "first"] for value in values]
    axes.barh(places, values, height=0.42 if narrow else 0.68, color=colours)
    axes.axvline(100 * limit, color=COLOURS["limit"], linewidth=1.2, dashes=(3, 2))
    axes.set_xlim(0, max(*values, 100 * limit, 0.1) * 1.12)
    names = [short(row.name, 34 if narrow else 52) for row in rows]
    if narrow:
        axes.set_yticks([])
        for place, name in zip(places, names, strict=True):
            axes.annotate(name, (0, place - 0.42), va="center", fontsize=8.5)
        axes.set_ylim(len(rows) - 0.5, -0.9)
    else:
        axes.set_yticks(places, names)
        axes.set_ylim(len(rows) - 0.4, -0.6)
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            f"{value:.3g}",
            (value, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
        )
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", linewidth=0.6)
    axes.set_xlabel("relative weight error, % (the limit is dashed)")
