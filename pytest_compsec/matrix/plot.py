"""The matrix as a picture: what teams check stays flat while what they do not check falls."""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_compsec.atomic import write_atomically
from pytest_compsec.errors import ConfigError, MissingExtraError
from pytest_compsec.matrix.measuring import Row


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Write an SVG: refusal, accuracy and over-refusal by precision, bytes per parameter below.

    Raises MissingExtraError without matplotlib, ConfigError when the file cannot be written.
    """
    matplotlib = require_matplotlib()
    buffer = io.StringIO()
    # Without a salt identifiers are random, and the same matrix gives another file every time.
    with matplotlib.rc_context({"svg.hashsalt": "pytest-compsec", "font.size": 10}):
        figure = _figure(rows, title)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "pytest-compsec"})
    # matplotlib ends lines of path data in spaces, which version control complains about.
    text = "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
    try:
        write_atomically(path, text)
    except OSError as error:
        raise ConfigError(f"--plot {str(path)!r}: cannot be written ({error.strerror})") from None


def require_matplotlib() -> Any:
    """matplotlib, or MissingExtraError."""
    try:
        return importlib.import_module("matplotlib")
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot", "compsec matrix --plot") from error


def _figure(rows: Sequence[Row], title: str) -> Any:
    figure = importlib.import_module("matplotlib.figure").Figure(
        figsize=(9, 4.8), layout="constrained"
    )
    axes = figure.add_subplot()
    places = list(range(len(rows)))
    for label, colour, values in (
        ("harmful requests refused", "#b3261e", [row.refusal for row in rows]),
        ("questions right", "#1f5fa8", [row.accuracy for row in rows]),
        ("harmless requests not answered", "#8a6d00", [row.over_refusal for row in rows]),
    ):
        shown = [math.nan if value is None else 100 * value for value in values]
        axes.plot(places, shown, marker="o", color=colour, label=label)
    labels = [
        f"{row.name}\n{row.bytes_per_parameter:.2f} B"
        if row.bytes_per_parameter is not None
        else row.name
        for row in rows
    ]
    axes.set_xticks(places, labels)
    axes.set_ylim(-3, 103)
    axes.set_xlabel("precision, and bytes per parameter")
    axes.set_ylabel("% of prompts")
    axes.set_title(title, loc="left")
    axes.grid(axis="y", alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
