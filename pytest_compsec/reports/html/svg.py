"""Drawings by matplotlib as SVG that can stand inside the page.

Colours are placeholders that become classes, so that the page's style sheet gives them their value
in light, in dark and on paper; style attributes become attributes of their own, because the page's
Content-Security-Policy allows none.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

from pytest_compsec.errors import MissingExtraError

#: A placeholder for each colour of the style sheet: ``.fill-NAME`` and ``.stroke-NAME`` there.
COLOURS = {
    name: f"#0000{place:02x}"
    for place, name in enumerate(
        (
            *("ink", "muted", "grid", "surface", "limit", "beyond"),
            *("preserved", "regressed", "inconclusive", "unmeasured"),
            *("first", "second", "third", "fourth", "fifth"),
        ),
        start=1,
    )
}
SERIES = ("first", "second", "third", "fourth", "fifth")
#: The same sign for a verdict in every drawing and in the page: shape as well as colour.
MARKERS = {"preserved": "o", "regressed": "s", "inconclusive": "^", "unmeasured": "D"}
_NAMES = {value: name for name, value in COLOURS.items()}
#: Properties of a style attribute that SVG knows as attributes.
_PLAIN = frozenset(
    {
        *("stroke-width", "stroke-dasharray", "stroke-dashoffset", "stroke-linecap"),
        *("stroke-linejoin", "stroke-opacity", "fill-opacity", "opacity", "fill-rule"),
        *("text-anchor", "font-size", "font-weight", "clip-path"),
    }
)
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pytest-compsec",
    # A pair may be called "$x$".
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": COLOURS["ink"],
    "axes.facecolor": "none",
    "axes.edgecolor": COLOURS["grid"],
    "axes.labelcolor": COLOURS["muted"],
    "xtick.color": COLOURS["grid"],
    "ytick.color": COLOURS["grid"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["ink"],
    "grid.color": COLOURS["grid"],
    "axes.grid.axis": "x",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclasses.dataclass(frozen=True)
class Drawing:
    """The same drawing for a wide and for a narrow screen, as SVG texts."""

    wide: str
    narrow: str


def drawing(name: str, title: str, told: str, draw: Callable[[Any, bool], None]) -> Drawing:
    """Draw twice: ``draw(figure, narrow)`` fills a matplotlib figure and sets its size. ``name`` is
    unique in the page, ``title`` and ``told`` are what a screen reader says of the drawing.

    Raises MissingExtraError without matplotlib.
    """
    return Drawing(
        *(
            _svg(f"{name}-{form}", title, told, draw, narrow=form == "narrow")
            for form in ("wide", "narrow")
        )
    )


def _svg(
    name: str, title: str, told: str, draw: Callable[[Any, bool], None], *, narrow: bool
) -> str:
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", "an HTML report") from error
    figures = importlib.import_module("matplotlib.figure")
    buffer = io.StringIO()
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        # About glyphs that its own font lacks: the reader's browser has other fonts.
        warnings.simplefilter("ignore")
        figure = figures.Figure(layout="constrained")
        draw(figure, narrow)
        figure.patch.set_alpha(0)
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None}
        )
    return cleaned(buffer.getvalue(), name, title, told)


def cleaned(text: str, name: str, title: str, told: str) -> str:
    """An SVG file as an element of a page. Identifiers begin with ``name``."""
    root = ET.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = dict(element.attrib)
        element.attrib.clear()
        for key, value in attributes.items():
            _set(element, _local(key), value, name)
        element.tail = None if element.tail is None or not element.tail.strip() else element.tail
    width, height = root.get("viewBox", "0 0 1 1").split()[2:]
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("width", width)
    root.set("height", height)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    for place, (tag, words) in enumerate((("title", title), ("desc", told))):
        element = ET.Element(tag, {"id": f"{name}-{tag}"})
        element.text = words
        root.insert(place, element)
    return ET.tostring(root, encoding="unicode", short_empty_elements=False)


def _local(name: str) -> str:
    return name.rsplit("}", 1)[-1]


def _set(element: ET.Element, key: str, value: str, name: str) -> None:
    if key == "id":
        element.set("id", f"{name}-{value}")
    elif key == "href":
        element.set("href", f"#{name}-{value.lstrip('#')}")
    elif key == "style":
        for part in value.split(";"):
            if ":" in part:
                property_name, setting = part.split(":", 1)
                _style(element, property_name.strip(), setting.strip(), name)
    elif key == "clip-path":
        element.set("clip-path", value.replace("url(#", f"url(#{name}-"))
    else:
        element.set(key, value)


def _style(element: ET.Element, key: str, value: str, name: str) -> None:
    if key in ("fill", "stroke"):
        colour = _NAMES.get(value)
        if colour is None:
            element.set(key, value)
        else:
            element.set("class", f"{element.get('class', '')} {key}-{colour}".strip())
    elif key == "font":
        size = re.search(r"([\d.]+)px", value)
        element.set("font-size", size[1] if size else "10")
        if "bold" in value or re.search(r"\b[67]00\b", value):
            element.set("font-weight", "600")
    elif key == "clip-path":
        element.set("clip-path", value.replace("url(#", f"url(#{name}-"))
    elif key in _PLAIN:
        element.set(key, value.removesuffix("px") if key == "font-size" else value)
