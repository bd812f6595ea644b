"""A run for a pull request: short, collapsible, without the models' answers.

It fits where GitHub takes it: a comment has at most 65,536 characters, the summary of a step 1 MiB
in all. What matters least is left out first, and the report says what that was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from pytest_compsec.errors import CompsecError
from pytest_compsec.reports.facts import Report
from pytest_compsec.reports.inert import code, sentence
from pytest_compsec.reports.markdown_parts import (
    HEAD,
    decision,
    details,
    flips,
    locks,
    run_section,
    table,
    verdict_row,
)
from pytest_compsec.reports.terminal import sorted_results
from pytest_compsec.verdict import CheckResult, Verdict

#: Of a whole report, in characters: under GitHub's 65,536 for a comment.
CHARACTERS = 65_000
#: Of GitHub's page of a step, in bytes, with what is there already.
STEP_BYTES = 1_048_576
_ALL = 1_000_000


@dataclasses.dataclass(frozen=True)
class Size:
    """How much of everything is shown: prompts and categories of each check, whether its notes,
    how many checks to unfold, whether the arguments of all, and how many rows of the table."""

    prompts: int = 0
    categories: int = 0
    notes: bool = True
    unfold: int = _ALL
    run: bool = True
    rows: int = _ALL


SIZES = (
    *(Size(many, 20) for many in (20, 10, 5, 2, 0)),
    Size(0, 5),
    Size(),
    Size(notes=False),
    Size(notes=False, run=False),
    *(Size(notes=False, unfold=most, run=False) for most in (50, 20, 5, 0)),
    *(Size(unfold=0, run=False, rows=most) for most in (300, 100, 30, 10, 1, 0)),
)


def files(path: Path, report: Report) -> Iterator[tuple[Path, str]]:
    """The one file of a Markdown report."""
    yield path, markdown_text(report)


def append_step_summary(path: Path, report: Report) -> None:
    """Append the report to the page of a GitHub Actions job, after what others wrote there. Raises
    OSError; CompsecError where the page is full."""
    there = path.stat().st_size if path.exists() else 0
    lead = "\n\n" if there else ""
    text = markdown_text(report, STEP_BYTES - there - len(lead))
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(lead + text)


def markdown_text(report: Report, most_bytes: int = STEP_BYTES) -> str:
    """The report in at most :data:`CHARACTERS` characters and ``most_bytes`` bytes of UTF-8.
    Raises CompsecError where not even the decision fits."""
    results = sorted_results(list(report.results))
    for size in SIZES:
        text = _within(_lines(report, results, size), CHARACTERS)
        if text is not None and len(text.encode("utf-8")) <= most_bytes:
            return text
    raise CompsecError(
        f"there is room for {max(0, most_bytes)} bytes, and the decision alone needs more"
    )


def _within(lines: Iterator[str], characters: int) -> str | None:
    """The lines as one text; None, without making the rest, where they are too long."""
    made: list[str] = []
    room = characters
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            return None
        made.append(line)
    return "\n".join(made).rstrip() + "\n"


def _lines(report: Report, results: list[CheckResult], size: Size) -> Iterator[str]:
    """``results`` are those of the report, the failed ones first."""
    failed = [result for result in results if result.verdict is not Verdict.PRESERVED]
    yield from (decision(report), "")
    if report.facts.selection:
        chosen = "; ".join(report.facts.selection)
        yield from (f"Tests were chosen with {code(chosen, 300)}; others may be missing here.", "")
    if report.facts.integrity:
        for text in report.facts.integrity[: size.rows]:
            yield f"- Integrity: {sentence(text)}"
        yield ""
    if results[: size.rows]:
        yield from table(HEAD, map(verdict_row, results[: size.rows]))
        yield from ("", _LEGEND, "")
    for lock in locks(report)[: max(1, size.rows)]:
        yield f"Lock: {lock}  "
    yield ""
    for result in failed[: size.unfold]:
        yield from details(
            result,
            prompts=size.prompts,
            categories=size.categories,
            notes=size.notes,
            answers=report.show_answers,
        )
    if size.run:
        yield from run_section(report, results)
    left_out = _left_out(results, failed, size)
    if left_out:
        told = f"Left out, to be short enough for GitHub: {'; '.join(left_out)}."
        yield f"{told} The JSON and HTML reports have it all."


_LEGEND = (
    "Degradation and limit in percentage points unless a unit is named, positive is worse, with "
    "its interval; flips: for the worse/for the better; cached: answers from earlier runs."
)


def _left_out(results: list[CheckResult], failed: list[CheckResult], size: Size) -> list[str]:
    unfolded = failed[: size.unfold]
    prompts = sum(max(0, flips(result) - size.prompts) for result in unfolded)
    categories = sum(
        max(0, len(result.categories) - size.categories)
        for result in unfolded
        if len(result.categories) > 1
    )
    counted = (
        (len(results) - len(results[: size.rows]), "checks of the table"),
        (len(failed) - len(unfolded), "sections of checks that are not PRESERVED"),
        (prompts, "prompts that changed for the worse"),
        (categories, "categories"),
        (0 if size.notes else sum(len(result.notes) for result in unfolded), "notes"),
        (0 if size.run else len(results), "checks' arguments"),
    )
    return [f"{count} {what}" for count, what in counted if count]
