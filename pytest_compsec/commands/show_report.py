"""``compsec show``: the table of a JSON report, as the run that wrote it had shown it."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from pytest_compsec.reports.reading import ReadReport
    from pytest_compsec.reports.terminal import Line

#: Select Graphic Rendition of ECMA-48: bold, then the colour.
_CODES = {"red": "1;31", "green": "1;32", "yellow": "1;33"}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command line of ``compsec show``."""
    parser = commands.add_parser("show", help="show a JSON report's table of verdicts again")
    parser.add_argument("report", metavar="REPORT.json", help="from --compsec-report=REPORT.json")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="and every category of the prompt sets"
    )


def run_show(arguments: argparse.Namespace) -> int:
    """Print the table. Exit code 0, whatever the verdicts are.

    Raises ConfigError for a file that is no report.
    """
    from pytest_compsec.reports.reading import read_report

    report = read_report(Path(arguments.report))
    width = shutil.get_terminal_size().columns
    for line in shown_lines(report, width=width, categories=arguments.verbose):
        print(painted(line, colours=wants_colours(sys.stdout)))
    return 0


def shown_lines(report: ReadReport, *, width: int, categories: bool) -> Iterator[Line]:
    """What the run was, a line without text, and all that it showed below its tests."""
    from pytest_compsec.reports.run_lines import downgraded_line, run_lines
    from pytest_compsec.reports.terminal import Line, fitted, summary_lines

    for text in run_lines(report.facts):
        yield from fitted(Line(text), width)
    yield Line("")
    # One that did not finish has no verdict that could have been downgraded.
    inconclusive = str(report.facts.settings.get("inconclusive", "fail"))
    yield from summary_lines(
        list(report.results),
        width=width,
        integrity=list(report.facts.integrity),
        downgraded=downgraded_line(report.results, inconclusive),
        reports=[],
        categories=categories,
        memory=report.memory,
    )


def wants_colours(stream: TextIO) -> bool:
    """On a terminal, unless ``NO_COLOR`` (no-color.org) or ``TERM=dumb`` says otherwise."""
    refused = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not refused


def painted(line: Line, *, colours: bool) -> str:
    """The line with its coloured end, as a terminal takes it."""
    if not colours or line.colour is None:
        return line.text
    start = max(0, len(line.text) - line.coloured)
    return f"{line.text[:start]}\x1b[{_CODES[line.colour]}m{line.text[start:]}\x1b[0m"
