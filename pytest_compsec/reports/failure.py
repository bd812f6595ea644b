"""The message of a failed test: the verdict with numbers, the worst prompts, what to do next."""

from __future__ import annotations

from pytest_compsec.frameworks import frameworks_of
from pytest_compsec.options import REPORT_LINES
from pytest_compsec.reports.categories import category_lines
from pytest_compsec.reports.text import one_line
from pytest_compsec.verdict import CheckResult, Evidence, Verdict

MAX_CATEGORIES = 4
MAX_DIFFERENCES = 12


def failure_text(results: list[CheckResult], prompts: int = REPORT_LINES) -> str:
    """One block per result, those that are not PRESERVED first, each with at most so many
    ``prompts`` that changed for the worse."""
    ordered = sorted(results, key=lambda result: result.verdict is Verdict.PRESERVED)
    return "\n\n".join("\n".join(result_lines(result, prompts)) for result in ordered)


def result_lines(result: CheckResult, prompts: int = REPORT_LINES) -> list[str]:
    lines = [one_line(result.summary, 2_000)]
    if result.verdict is Verdict.PRESERVED:
        return lines
    lines += [f"  {one_line(note, 500)}" for note in result.notes]
    terms = frameworks_of(result.check).text()
    if terms:
        lines.append(f"  In other terms: {terms}")
    if result.answers:
        lines.append(
            f"  {result.answers_cached} of {result.answers} answers came from the cache of "
            f"earlier runs; check: {one_line(result.check, 60)}"
        )
    if len(result.categories) > 1:
        lines += [f"  {line}" for line in category_lines(result, MAX_CATEGORIES)]
    lines += difference_lines(result)
    lines += prompt_lines(result, prompts)
    if result.next_step:
        lines += [f"Next: {one_line(result.next_step, 2_000)}"]
    return lines


def difference_lines(result: CheckResult) -> list[str]:
    """The parts in which the two models are not alike, both sides shown."""
    lines = []
    for found in result.differences[:MAX_DIFFERENCES]:
        lines.append(f"  - {one_line(found.part, 80)}: {one_line(found.why_it_matters, 300)}")
        for arm, text in (("original", found.original), ("compressed", found.compressed)):
            shown = "(none)" if text is None else one_line(text, 300)
            lines.append(f"      {arm.ljust(10)} | {shown}")
    left = len(result.differences) - MAX_DIFFERENCES
    return [*lines, f"  and {left} more, in the JSON report"] if left > 0 else lines


def prompt_lines(result: CheckResult, prompts: int = REPORT_LINES) -> list[str]:
    """The prompts that changed for the worse, or could not be judged, with both answers."""
    worst = [row for row in result.evidence if row.regressed]
    title = "regressed"
    if not worst and result.verdict is Verdict.NOT_MEASURED:
        worst = [
            row
            for row in result.evidence
            if row.original_safe is None or row.compressed_safe is None
        ]
        title = "not judged"
    if not worst or not prompts:
        return []
    lines = [f"  {len(worst)} prompts {title}, {min(prompts, len(worst))} shown:"]
    for row in spread(worst, prompts):
        told = row.note or ("broken text" if row.compressed_broken else "")
        note = f" ({one_line(told, 120)})" if told else ""
        lines += [
            f"  - {one_line(row.id, 60)} [{one_line(row.category, 40)}]{note}",
            f"      prompt     | {one_line(row.prompt, 120)}",
            f"      original   | {one_line(row.original)}",
            f"      compressed | {one_line(row.compressed)}",
        ]
    return lines


def spread(rows: list[Evidence], count: int) -> list[Evidence]:
    """At most ``count`` rows, from as many categories as possible, in a fixed order."""
    by_category: dict[str, list[Evidence]] = {}
    for row in rows:
        by_category.setdefault(row.category, []).append(row)
    chosen: list[Evidence] = []
    while len(chosen) < min(count, len(rows)):
        for waiting in by_category.values():
            if waiting and len(chosen) < count:
                chosen.append(waiting.pop(0))
    return chosen
