"""The table of verdicts at the end of a run, as plain lines."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pytest_compsec.checks.estimates import change_text, level, number
from pytest_compsec.checks.wording import points
from pytest_compsec.findings import LayerErrors
from pytest_compsec.findings_backdoors import BackdoorFinding
from pytest_compsec.findings_estimates import Estimate
from pytest_compsec.reports.categories import category_lines
from pytest_compsec.reports.memory import ProcessMemory, memory_lines
from pytest_compsec.reports.text import one_line
from pytest_compsec.reports.wrapping import wrapped
from pytest_compsec.verdict import CheckResult, Verdict

ORDER = {
    Verdict.NOT_MEASURED: 0,
    Verdict.REGRESSED: 1,
    Verdict.INCONCLUSIVE: 2,
    Verdict.PRESERVED: 3,
}
COLOURS = {
    Verdict.NOT_MEASURED: "red",
    Verdict.REGRESSED: "red",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.PRESERVED: "green",
}
USUAL_PROMPTS = {
    "safety_preserved": "harmful",
    "over_refusal_preserved": "benign",
    "no_safety_bypass": "harmful",
    "edge_cases_preserved": "harmful",
}
BACKDOORS = (
    "backdoors: ASR is the attack success rate; degradation what the trigger adds to it in the "
    "compressed model (delta ASR), or by how much a trigger works more often than on the original"
)
#: Checks whose limits have units of their own.
BY_ESTIMATES = frozenset(
    {
        *("leakage_not_increased", "truthfulness_preserved", "lm_eval_preserved"),
        *("capability_preserved", "timing_indistinguishable", "trace_leakage", "no_drift"),
        *("precision_policy", "template_unchanged"),
    }
)
ESTIMATES = (
    "checks of several quantities show the one that decided, in its own unit; the report has all"
)
HEAD = ("pair", "check", "original", "compressed", "degradation", "flips", "limit", "n", "verdict")


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of text; ``colour`` of its last ``coloured`` characters, if any."""

    text: str
    colour: str | None = None
    coloured: int = 0


def sorted_results(results: list[CheckResult]) -> list[CheckResult]:
    """Failures first, what an xfail expected after what nobody expected."""
    return sorted(
        results,
        key=lambda result: (
            2.5 if result.expected else ORDER[result.verdict],
            result.pair,
            result.check,
            result.test,
        ),
    )


def cells(result: CheckResult) -> tuple[str, ...]:
    # Of a test with several checks an xfail expects the loss, and not what was PRESERVED.
    excused = result.expected and result.verdict is not Verdict.PRESERVED
    verdict = f"{result.verdict} (expected)" if excused else str(result.verdict)
    measured = result.measurement
    # A check that asks for equality has no limit to show.
    limit = f"{100 * result.limit:.1f}" if result.limit else "-"
    if measured is None and not result.estimates and result.check in BY_ESTIMATES:
        limit = "-"  # in whichever unit; nothing was measured
    pair, check = one_line(result.pair, 60), _check(result)
    if measured is None and result.estimates:
        return (pair, check, *_estimate(decisive(result.estimates)), verdict)
    if measured is None and result.differences:
        return (pair, check, "-", "-", _differences(result), "-", "-", "-", verdict)
    if measured is None and result.layers is not None:
        found = result.layers
        return (pair, check, "-", "-", _layers(found), "-", limit, str(found.measured), verdict)
    if measured is None and result.backdoor is not None:
        return (
            pair,
            check,
            *_backdoor(result.backdoor),
            limit,
            str(result.backdoor.samples),
            verdict,
        )
    if measured is None:
        return (pair, check, "-", "-", "-", "-", limit, "-", verdict)
    lower, upper = measured.interval
    return (
        pair,
        check,
        f"{100 * measured.original_rate:.1f} %",
        f"{100 * measured.compressed_rate:.1f} %",
        f"{points(measured.degradation)} [{points(lower)}, {points(upper)}]",
        f"{measured.regressed}/{measured.improved}",
        limit,
        f"{measured.n} of {result.stopping.total}" if result.stopping else str(measured.n),
        verdict,
    )


def decisive(estimates: tuple[Estimate, ...]) -> Estimate:
    """The estimate that made the verdict: the first of the worst of those that decide."""
    deciding = [one for one in estimates if one.decides] or list(estimates)
    return min(deciding, key=lambda one: ORDER[Verdict(one.verdict)] if one.verdict else 9)


def _estimate(found: Estimate) -> tuple[str, str, str, str, str, str]:
    """Both values, what changed (the estimate's name before it), no flips, its limit, samples."""
    values = [
        "-" if value is None else level(value, found.unit)
        for value in (found.original, found.compressed)
    ]
    name = one_line(found.name, 40)
    if found.change is not None:
        shown = f"{name} {change_text(found)}"
    else:
        shown = name if found.compressed is None else f"{name} {values[1]}"
    limit = "-" if found.limit is None else number(found.limit, found.unit)
    return values[0], values[1], shown, "-", limit, str(found.samples)


def _differences(result: CheckResult) -> str:
    """How many parts differ."""
    count = len(result.differences)
    return f"{count} part{'' if count == 1 else 's'} differ{'s' if count == 1 else ''}"


def _layers(found: LayerErrors) -> str:
    """In the column of degradation: the largest error, and how many are beyond the limit."""
    worst = found.weight_errors[0] if found.weight_errors else None
    largest = "not finite" if worst is None else f"up to {100 * worst:.1f} %"
    return f"weights {largest}, {found.beyond} beyond"


def _backdoor(found: BackdoorFinding) -> tuple[str, str, str, str]:
    """Attack success rates of both arms; in the column of degradation what the trigger adds to the
    compressed model's rate, or the largest increase of a check that compares strengths."""
    rates = [
        "-" if arm is None else f"ASR {100 * arm.asr:.1f} %"
        for arm in (found.original, found.compressed)
    ]
    shown = "-"
    if found.strengths:
        worst = max(found.strengths, key=lambda one: one.increase)
        shown = f"{points(worst.increase)} [{points(worst.lower)}, {points(worst.upper)}]"
    elif found.compressed is not None:
        arm = found.compressed
        shown = f"{points(arm.delta_asr)} [{points(arm.lower)}, {points(arm.upper)}]"
    return rates[0], rates[1], shown, "-"


def _check(result: CheckResult) -> str:
    """The check, with its prompts where they are not the usual ones: they are another question."""
    usual = USUAL_PROMPTS.get(result.check)
    prompts = result.arguments.get("prompts", usual)
    name = one_line(result.check, 60)
    return name if prompts == usual else f"{name} on {one_line(str(prompts), 40)}"


def table(results: list[CheckResult], width: int) -> list[Line]:
    """The table in aligned columns, in the widest layout that fits.

    On a screen too narrow for all columns, check and limit become headings, then the flips and the
    rates go; on one too narrow for that, each result is a block of lines.
    """
    ordered = sorted_results(results)
    lines = _aligned(HEAD, [cells(result) for result in ordered], ordered)
    if _fits(lines, width):
        return lines
    grouped: dict[tuple[str, str], list[CheckResult]] = {}
    for result in ordered:
        row = cells(result)
        grouped.setdefault((row[1], row[6]), []).append(result)
    for left_out in _LEFT_OUT:
        head = tuple(name for name in _NARROW_HEAD if name not in left_out)
        lines = []
        for (check, limit), group in grouped.items():
            lines.append(Line(check if limit == "-" else f"{check}, limit {limit}"))
            rows = [_narrow(cells(result), head) for result in group]
            lines += [
                dataclasses.replace(line, text=f"  {line.text}")
                for line in _aligned(head, rows, group)
            ]
        if _fits(lines, width):
            return lines
    return [line for result in ordered for line in _block(result, width)]


_NARROW_HEAD = ("pair", "orig", "comp", "degradation", "flips", "n", "verdict")
# What goes first where the screen is narrow; the JSON report has it all.
_LEFT_OUT: tuple[tuple[str, ...], ...] = (
    (),
    ("flips",),
    ("flips", "orig"),
    ("flips", "orig", "comp"),
)
_RIGHT = {"original", "compressed", "orig", "comp", "limit", "n", "flips", "prompts"}


def _narrow(row: tuple[str, ...], head: tuple[str, ...]) -> tuple[str, ...]:
    pair, _, original, compressed, degradation, flips, _, n, verdict = row
    named = {
        "pair": pair,
        "orig": original.replace(" %", "%"),
        "comp": compressed.replace(" %", "%"),
        "degradation": degradation,
        "flips": flips,
        "n": n.replace(" of ", "/"),
        "verdict": verdict,
    }
    return tuple(named[name] for name in head)


def _fits(lines: list[Line], width: int) -> bool:
    return max(len(line.text) for line in lines) <= width


def _aligned(
    head: tuple[str, ...], rows: list[tuple[str, ...]], results: list[CheckResult]
) -> list[Line]:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def aligned(row: tuple[str, ...]) -> str:
        parts = [
            text.rjust(size) if name in _RIGHT else text.ljust(size)
            for name, text, size in zip(head, row, widths, strict=True)
        ]
        return "  ".join(parts).rstrip()

    lines = [Line(aligned(head))]
    for result, row in zip(results, rows, strict=True):
        lines.append(Line(aligned(row), COLOURS[result.verdict], len(row[-1])))
    return lines


def _block(result: CheckResult, width: int) -> list[Line]:
    row = cells(result)
    head = Line(f"{row[0]}  {row[8]}", COLOURS[result.verdict], len(row[8]))
    lines = [
        Line(f"  {row[1]}: {row[2]} -> {row[3]}, {row[4]}"),
        Line(f"  flips {row[5]}, limit {row[6]}, n {row[7]}"),
    ]
    return [piece for line in (head, *lines) for piece in fitted(line, width)]


def fitted(line: Line, width: int) -> list[Line]:
    """The line in pieces that fit, the colour on the piece that has the coloured end (on all of
    them, where the whole line is coloured)."""
    pieces = wrapped(line.text, width)
    if line.colour is None:
        return [Line(piece) for piece in pieces]
    if line.coloured >= len(line.text):
        return [Line(piece, line.colour, len(piece)) for piece in pieces]
    last = Line(pieces[-1], line.colour, min(line.coloured, len(pieces[-1])))
    return [*(Line(piece) for piece in pieces[:-1]), last]


def summary_lines(
    results: list[CheckResult],
    *,
    width: int,
    integrity: list[str],
    downgraded: str | None,
    reports: list[str],
    categories: bool = False,
    memory: Mapping[str, ProcessMemory] | None = None,
    brief: bool = False,
) -> list[Line]:
    """Everything below the section title: reasons, table, foot notes; ``brief``: without the lines
    that explain the table. No line is longer than ``width``, except that no word, path or digest is
    broken."""
    lines = []
    for text in integrity:
        first, *rest = (one_line(part, 300) for part in text.splitlines() or [""])
        lines.append(Line(f"INTEGRITY: {first}", "red", len(first) + 11))
        lines += [Line(f"    {part}") for part in rest]
    unmeasured = [
        result
        for result in sorted_results(results)
        if result.verdict is Verdict.NOT_MEASURED and result.measurement is None
    ]
    lines += [
        Line(f"{one_line(result.summary.splitlines()[0], 300)} ({one_line(result.check, 60)})")
        for result in unmeasured
    ]
    measured = [
        result
        for result in results
        if result.measurement is not None or result.backdoor is not None
    ]
    answers = sum(result.answers for result in results)
    cached = sum(result.answers_cached for result in results)
    if brief:
        if answers:
            lines.append(Line(f"{cached} of {answers} answers came from the cache"))
    elif measured:
        levels = sorted({round(100 * (1 - 2 * (1 - result.confidence)), 4) for result in measured})
        shown = ", ".join(f"{level:g} %" for level in levels) + " interval"
        if any(result.stopping is not None for result in measured):
            shown += " (of a test that stopped early, n of N: bounds that hold whenever one stops)"
        told = (
            f"degradation and limit in percentage points, positive is worse, with the {shown}; "
            "flips: for the worse/for the better"
        )
        if answers:
            told += f"; {cached} of {answers} answers came from the cache"
        lines.append(Line(told))
        if any(result.backdoor is not None for result in results):
            lines.append(Line(BACKDOORS))
        risks = sorted({round(100 * (1 - result.confidence), 4) for result in measured})
        wrong = ", ".join(f"{risk:g}" for risk in risks)
        promise = (
            f"PRESERVED and REGRESSED are each wrong in at most {wrong} % of such runs, if "
            f"{'prompts' if answers else 'samples'} are independent"
        )
        if any(result.answers and result.judge_correction is None for result in measured):
            promise += "; as judged: the judge's own errors are not in it"
        lines.append(Line(promise))
    elif answers:
        lines.append(Line(f"{cached} of {answers} answers came from the cache"))
    if not brief and any(result.estimates for result in results):
        lines.append(Line(ESTIMATES))
    if downgraded:
        lines.append(Line(downgraded, "yellow", len(downgraded)))
    if memory is not None:
        lines += [Line(text) for text in memory_lines(memory)]
    lines += [Line(f"report written: {path}") for path in reports]
    if categories:
        ordered = sorted_results(results)
        lines += [line for result in ordered for line in category_table(result, width)]
    return [piece for line in lines for piece in fitted(line, width)] + table(results, width)


def category_table(result: CheckResult, width: int = 100) -> list[Line]:
    """The categories of one result, worst first, each with its interval; their names are cut where
    the numbers would not fit."""
    if len(result.categories) < 2:
        return []
    title = f"{one_line(result.pair, 60)} {one_line(result.check, 60)} by category"
    return [Line(title), *(Line(f"  {text}") for text in category_lines(result, width=width - 2))]
