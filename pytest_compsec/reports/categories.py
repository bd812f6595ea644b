"""The categories of one result as aligned lines, worst first."""

from __future__ import annotations

from pytest_compsec.checks.wording import points
from pytest_compsec.reports.text import one_line
from pytest_compsec.verdict import CheckResult

HEAD = ("category", "prompts", "flips", "degradation")


def category_lines(result: CheckResult, limit: int | None = None) -> list[str]:
    """A head line and one line per category: prompts, flips for the worse/for the better,
    degradation with its interval. With ``limit`` only the worst, and how many are left out."""
    shown = result.categories if limit is None else result.categories[:limit]
    rows = [HEAD] + [
        (
            one_line(entry.category, 40) or "(none)",
            str(entry.n),
            f"{entry.regressed}/{entry.improved}",
            f"{points(entry.degradation)} [{points(entry.lower)}, {points(entry.upper)}]",
        )
        for entry in shown
    ]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEAD))]
    lines = [
        "  ".join(
            text.rjust(width) if name in ("prompts", "flips") else text.ljust(width)
            for name, text, width in zip(HEAD, row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
    left = len(result.categories) - len(shown)
    return [*lines, f"and {left} more (-v shows them all)"] if left else lines
