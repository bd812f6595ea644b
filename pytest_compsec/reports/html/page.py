"""Puts the page together: one template, its style and script inside, nothing from anywhere else.

The Content-Security-Policy allows this one style sheet and this one script by their hashes and
nothing besides: no network, no markup made by script (trusted types), no inline handlers. A text
that got past the escaping would still not run.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_compsec.reports.facts import Report
from pytest_compsec.reports.html.cards import cards_of, framework_rows
from pytest_compsec.reports.html.categories import heat_maps
from pytest_compsec.reports.html.decision import decide
from pytest_compsec.reports.html.evidence_rows import evidence_data
from pytest_compsec.reports.html.forest import forest_of
from pytest_compsec.reports.html.layers import layer_charts
from pytest_compsec.reports.html.overview import overview_of
from pytest_compsec.reports.html.precision import precision_of
from pytest_compsec.reports.html.provenance import provenance_of
from pytest_compsec.reports.html.shown_text import visible
from pytest_compsec.reports.html.words import CLASSES
from pytest_compsec.reports.terminal import sorted_results

if TYPE_CHECKING:
    import jinja2

_HERE = Path(__file__).parent


def page_of(report: Report) -> str:
    """The whole page. The same report gives the same text. Raises MissingExtraError without
    matplotlib."""
    report = dataclasses.replace(report, results=tuple(sorted_results(list(report.results))))
    style, script = _static("report.css"), _static("report.js")
    return (
        _environment()
        .get_template("page.html")
        .render(
            policy=policy(style, script),
            style=_trusted(style),
            script=_trusted(script),
            evidence=(evidence := evidence_data(report.results)),
            evidence_json=_trusted(evidence.text),
            facts=report.facts,
            results=report.results,
            decision=decide(report),
            overview=overview_of(report),
            forest=forest_of(report.results),
            precision=precision_of(report.results),
            heat_maps=heat_maps(report.results),
            layer_charts=layer_charts(report.results),
            cards=cards_of(report),
            frameworks=framework_rows(report.results),
            provenance=provenance_of(report),
            classes={str(verdict): name for verdict, name in CLASSES.items()},
        )
    )


def policy(style: str, script: str) -> str:
    """The Content-Security-Policy of a page with this style sheet and this script alone."""
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {_hash(style)}",
            f"script-src {_hash(script)}",
            # The empty icon, without which a browser asks the server for one.
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _static(name: str) -> str:
    return (_HERE / "static" / name).read_text(encoding="utf-8")


def _trusted(text: str) -> Any:
    """Text that is markup already: our own files, drawings, and JSON without ``<``."""
    import markupsafe

    return markupsafe.Markup(text)


def _environment() -> jinja2.Environment:
    import jinja2
    import markupsafe

    def shown(value: Any) -> Any:
        """Every value that the template prints goes through here, and then is escaped."""
        if isinstance(value, str) and not isinstance(value, markupsafe.Markup):
            return visible(value)
        return value

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def breakable(name: str) -> markupsafe.Markup:
        """A name that may be broken after its underscores."""
        return markupsafe.escape(visible(name)).replace("_", markupsafe.Markup("_<wbr>"))

    environment.filters["drawn"] = _trusted
    environment.filters["breakable"] = breakable
    return environment
