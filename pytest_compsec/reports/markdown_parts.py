"""The parts of a Markdown report: decision, table, details of a failed check, what the run was."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Sequence

from pytest_compsec.checks.wording import points
from pytest_compsec.frameworks import frameworks_of
from pytest_compsec.reports.facts import Report
from pytest_compsec.reports.failure import spread
from pytest_compsec.reports.inert import code, sentence
from pytest_compsec.reports.run_lines import run_lines
from pytest_compsec.reports.terminal import cells
from pytest_compsec.verdict import CheckResult, Verdict

HEAD = (
    *("verdict", "pair", "check", "original", "compressed", "degradation"),
    *("flips", "limit", "n", "cached"),
)
_WORST_FIRST = (Verdict.NOT_MEASURED, Verdict.REGRESSED, Verdict.INCONCLUSIVE)


def decision(report: Report) -> str:
    """What the run says, in words, as its first line."""
    facts = report.facts
    counts = collections.Counter(result.verdict for result in report.results)
    total = len(report.results)
    told = ", ".join(
        f"{counts[verdict]} {_name(verdict)}"
        for verdict in (*_WORST_FIRST, Verdict.PRESERVED)
        if counts[verdict]
    )
    excused = [one for one in report.results if one.expected and one.verdict != Verdict.PRESERVED]
    if excused:
        told += f"; {len(excused)} of them let pass by an xfail"
    checks = f"{total} check{'' if total == 1 else 's'} ({told})"
    unexpected = {result.verdict for result in report.results if not result.expected}
    let_pass = {result.verdict for result in excused}
    left_out = sum(check.state == "deselected" for check in facts.checks)
    if facts.integrity:
        return f"**Do not rely on this run: an integrity check failed.** {checks if total else ''}"
    if not total:
        return "**Nothing was measured.**"
    if Verdict.REGRESSED in unexpected:
        return f"**Safety was lost in compression.** {checks}"
    # Whoever expects a loss knows of a loss; where nothing was measured or settled, nobody knows.
    if Verdict.NOT_MEASURED in unexpected | let_pass:
        return f"**Not decided: not everything was measured.** {checks}"
    if Verdict.INCONCLUSIVE in unexpected | let_pass:
        return f"**Not decided: the evidence does not settle it.** {checks}"
    if facts.interrupted:
        return f"**Not decided: the run was stopped before its end.** {checks}"
    if left_out:
        verb = "was" if left_out == 1 else "were"
        return f"**Not decided: {left_out} more {verb} left out.** {checks}"
    if facts.exit_status != 0:
        return f"**Not decided: the run failed for another reason.** {checks}"
    if let_pass:
        return f"**Nothing was lost beyond what the tests expect to be lost.** {checks}"
    return f"**Preserved: what was tested survived compression, within the limits.** {checks}"


def _name(verdict: Verdict) -> str:
    return str(verdict).replace("_", "\\_")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table of GitHub's Markdown; the cells are inert already."""
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join(['---'] * len(head))} |"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def verdict_row(result: CheckResult) -> tuple[str, ...]:
    pair, check, *numbers, verdict = cells(result)
    expected = " (expected)" if verdict.endswith("(expected)") else ""
    return (
        f"**{_name(result.verdict)}**{expected}" if verdict else "-",
        code(pair, 60),
        code(check, 120),
        *(sentence(number, 200) for number in numbers),
        f"{result.answers_cached} of {result.answers}" if result.answers else "-",
    )


def details(
    result: CheckResult, *, prompts: int, categories: int, notes: bool, answers: bool
) -> list[str]:
    """A section to unfold: why, what to do, categories, and which prompts changed."""
    title = f"{result.verdict}: {result.pair}, {result.check}"
    lines = [
        "<details>",
        f"<summary>{code(title, 200)}</summary>",
        "",
        sentence(result.summary),
        "",
    ]
    if notes:
        lines += [f"- {sentence(note, 1_000)}" for note in result.notes]
        terms = frameworks_of(result.check).text()
        lines += [f"- In other terms: {sentence(terms)}"] if terms else []
    lines.append(f"- Test: {code(result.test, 300)}")
    lines += [f"- Arguments: {arguments(result)}", ""]
    if result.next_step:
        lines += [f"**Next:** {sentence(result.next_step)}", ""]
    lines += _differences(result) if notes else []
    lines += _categories(result, categories)
    lines += _prompts(result, prompts, answers)
    return [*lines, "</details>", ""]


def arguments(result: CheckResult) -> str:
    """Those of the marker, as code."""
    given = ", ".join(f"{name}={value!r}" for name, value in result.arguments.items())
    return code(given, 600)


def _differences(result: CheckResult) -> list[str]:
    if not result.differences:
        return []
    rows = [
        (
            code(found.part, 80),
            "-" if found.original is None else code(found.original, 200),
            "-" if found.compressed is None else code(found.compressed, 200),
            sentence(found.why_it_matters, 300),
        )
        for found in result.differences[:12]
    ]
    return [*table(("part", "original", "compressed", "why it matters"), rows), ""]


def _categories(result: CheckResult, most: int) -> list[str]:
    if len(result.categories) < 2 or not most:
        return []
    rows = [
        (
            code(entry.category, 60),
            str(entry.n),
            f"{entry.regressed}/{entry.improved}",
            sentence(f"{points(entry.degradation)} [{points(entry.lower)}, {points(entry.upper)}]"),
        )
        for entry in result.categories[:most]
    ]
    return [*table(("category, worst first", "prompts", "flips", "degradation"), rows), ""]


def flips(result: CheckResult) -> int:
    """How many prompts changed for the worse."""
    return sum(row.regressed for row in result.evidence)


def _prompts(result: CheckResult, most: int, answers: bool) -> list[str]:
    count = flips(result)
    if not count or not most:
        return []
    shown = spread([row for row in result.evidence if row.regressed], most)
    head = ["id", "category", "prompt"]
    rows = [[code(row.id, 60), code(row.category, 40), code(row.prompt, 120)] for row in shown]
    if answers:
        head += ["original", "compressed"]
        for line, row in zip(rows, shown, strict=True):
            line += [code(row.original, 160), code(row.compressed, 160)]
    told = f"{count} prompts changed for the worse, {len(shown)} shown"
    if not answers:
        told += "; what the models answered is in the HTML and JSON reports"
    return [f"{told}:", "", *table(head, rows), ""]


def run_section(report: Report, results: Sequence[CheckResult]) -> Iterator[str]:
    """To unfold: locks, what was left out, and the arguments of ``results``."""
    yield from ("<details>", "<summary>Lock, arguments and run</summary>", "")
    for line in run_lines(report.facts):
        yield f"- {sentence(line)}"
    yield from ("", *table(("test", "check", "arguments"), map(_row, results)), "")
    yield from ("</details>", "")


def _row(result: CheckResult) -> tuple[str, ...]:
    return (code(result.test, 200), code(result.check, 60), arguments(result))


def locks(report: Report) -> list[str]:
    """The digest of every lock that the verdicts rest on: of the run's, and of the results' own."""
    named = {suite.lock_digest: suite.lock for suite in report.facts.suites}
    for result in report.results:
        digest = str(result.provenance.get("lock_digest") or "")
        if digest:
            named.setdefault(digest, "compsec.lock")
    return [f"{code(lock, 120)} sha256 {code(digest, 64)}" for digest, lock in named.items()]
