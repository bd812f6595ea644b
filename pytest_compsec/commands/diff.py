"""``compsec diff``: what changed between the JSON reports of two runs, down to each prompt."""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_compsec.errors import ConfigError

if TYPE_CHECKING:
    from pytest_compsec.reports.reading import ReadReport


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command line of ``compsec diff``."""
    parser = commands.add_parser(
        "diff",
        help="what changed between two JSON reports, per prompt",
        epilog="exit code: 0 nothing changed, 1 something did, 2 usage",
    )
    parser.add_argument("before", metavar="A.json", help="report of the earlier run")
    parser.add_argument("after", metavar="B.json", help="report of the later run")
    parser.add_argument(
        "--check", metavar="NAME", action="append", default=[], help="only this check (repeatable)"
    )
    parser.add_argument(
        "--pair", metavar="ID", action="append", default=[], help="only this pair (repeatable)"
    )
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")
    parser.add_argument(
        "--show-answers",
        action="store_true",
        help="show prompts whose outcome changed, and their answers (cut and escaped)",
    )


def run_diff(arguments: argparse.Namespace) -> int:
    """Print what changed. Exit code 0 where nothing did, else 1.

    Raises ConfigError for a file that is no report, and for a check or pair that is in neither.
    """
    from pytest_compsec.reports.comparing import compare
    from pytest_compsec.reports.comparison_lines import comparison_data, comparison_lines
    from pytest_compsec.reports.reading import read_report

    before, after = read_report(Path(arguments.before)), read_report(Path(arguments.after))
    _require_known("--check", arguments.check, (before, after))
    _require_known("--pair", arguments.pair, (before, after))
    found = compare(before, after, checks=arguments.check, pairs=arguments.pair)
    show_answers = arguments.show_answers
    if arguments.json:
        print(
            json.dumps(comparison_data(before, after, found, show_answers=show_answers), indent=2)
        )
    else:
        for line in comparison_lines(before, after, found, show_answers=show_answers):
            print(line)
    return 1 if found.changed else 0


def _require_known(option: str, names: Sequence[str], reports: Sequence[ReadReport]) -> None:
    """A name that is in neither report would show that nothing changed."""
    field = option.removeprefix("--")
    known = sorted(
        {
            getattr(one, field)
            for report in reports
            for one in (*report.results, *report.facts.checks)
        }
    )
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"they have: {', '.join(known)}"
            raise ConfigError(f"{option}={name}: is in neither report; {hint}")
