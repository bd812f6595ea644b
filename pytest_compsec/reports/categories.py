"""The categories of one result as aligned lines, worst first."""

from __future__ import annotations

from pytest_compsec.checks.wording import points
from pytest_compsec.reports.text import one_line
from pytest_compsec.verdict import CheckResult

HEAD = ("category", "prompts", "flips", "degradation")


def category_lines(
    result: CheckResult, limit: int | None = None, width: int | None = None
) -> list[str]:
    """A head line and one line per category: prompts, flips for the worse/for the better,
    degradation with its interval. With ``limit`` only the worst, and how many are left out; with
    ``width`` the names are cut so that a line has no more characters."""
    shown = result.categories if limit is None else result.categories[:limit]
    numbers = [
        (
            str(entry.n),
            f"{entry.regressed}/{entry.improved}",
            f"{points(entry.degradation)} [{points(entry.lower)}, {points(entry.upper)}]",
        )
        for entry in shown
    ]
    columns = zip(HEAD[1:], *numbers, strict=True)
    taken = sum(2 + max(map(len, column)) for column in columns)
    longest = 40 if width is None else max(len(HEAD[0]), min(40, width - taken))
    names = [one_line(entry.category, longest) or "(none)" for entry in shown]
    rows = [HEAD, *((name, *row) for name, row in zip(names, numbers, strict=True))]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEAD))]
    lines = [
        "  ".join(
            text.rjust(size) if name in ("prompts", "flips") else text.ljust(size)
            for name, text, size in zip(HEAD, row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
    left = len(result.categories) - len(shown)
    return [*lines, f"and {left} more (-v shows them all)"] if left else lines
