"""A run as one HTML file that needs no network: for whoever decides, signs, or looks again later.

``files`` is the door; :mod:`page` puts together what the other modules, one per section, make of
the results. Every text that a model, a file or a user wrote is shown as text: escaped by the
template engine, or set through ``textContent`` by the page's own script.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pytest_compsec.reports.facts import Report


def files(path: Path, report: Report) -> Iterator[tuple[Path, str]]:
    """The one file of an HTML report. Raises MissingExtraError without matplotlib."""
    from pytest_compsec.reports.html.page import page_of

    yield path, page_of(report)
