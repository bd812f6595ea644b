"""The first sentence of the page: may it ship? Only what the verdicts and the run itself say."""

from __future__ import annotations

import collections
import dataclasses
from typing import Literal

from pytest_compsec.reports.facts import CollectedCheck, Report
from pytest_compsec.reports.html.words import WORST_FIRST, count
from pytest_compsec.reports.text import one_line
from pytest_compsec.verdict import CheckResult, Verdict

#: Verdict of the whole: nothing speaks against it, something does, or it cannot be told.
Tone = Literal["good", "bad", "open"]


@dataclasses.dataclass(frozen=True)
class Decision:
    """``headline`` in a few words, then ``sentences``. ``alarms`` are what makes the whole run
    doubtful, each a title and its lines, and stand above everything else. ``counts`` has every
    verdict, worst first, with the number of its checks."""

    tone: Tone
    headline: str
    sentences: tuple[str, ...]
    alarms: tuple[tuple[str, tuple[str, ...]], ...]
    counts: tuple[tuple[Verdict, int], ...]


def decide(report: Report) -> Decision:
    """What the report says as a whole."""
    found = collections.Counter(result.verdict for result in report.results)
    tone, headline = _headline(report)
    return Decision(
        tone,
        headline,
        tuple(_sentences(report)),
        tuple(_alarms(report)),
        tuple((verdict, found.get(verdict, 0)) for verdict in WORST_FIRST),
    )


def left_out(report: Report) -> list[CollectedCheck]:
    """Collected checks that were deselected or skipped, or never came to a result."""
    known = {(result.test, result.check) for result in report.results}
    return [
        check
        for check in report.facts.checks
        if check.state == "deselected" or (check.test, check.check) not in known
    ]


def _not_preserved(report: Report) -> list[CheckResult]:
    return [result for result in report.results if result.verdict is not Verdict.PRESERVED]


def _headline(report: Report) -> tuple[Tone, str]:
    facts, total, bad = report.facts, len(report.results), len(_not_preserved(report))
    if facts.integrity:
        return "bad", "May not ship: an integrity check failed"
    if total == 0:
        return "bad", "Nothing is known: no check has a result"
    if bad == total == 1:
        return "bad", f"May not ship: the only check is {report.results[0].verdict}"
    if bad:
        verb = "is" if bad == 1 else "are"
        return "bad", f"May not ship: {bad:,} of {count(total, 'check')} {verb} not PRESERVED"
    if facts.interrupted or any(check.state == "unfinished" for check in facts.checks):
        return "bad", "May not ship: the run did not finish"
    if facts.exit_status != 0 or _failed_otherwise(report):
        return "open", "Not decided: the checks are PRESERVED, but the run failed"
    others = len(left_out(report))
    if others:
        return "open", f"Not decided: {count(others, 'collected check')} did not run"
    if total == 1:
        return "good", "The only check is PRESERVED"
    return "good", f"All {total:,} checks are PRESERVED"


def _failed_otherwise(report: Report) -> list[CollectedCheck]:
    """Tests that failed though their verdict is PRESERVED: in their body, their set-up."""
    preserved = {
        (result.test, result.check)
        for result in report.results
        if result.verdict is Verdict.PRESERVED
    }
    return [
        check
        for check in report.facts.checks
        if check.outcome in ("failed", "error") and (check.test, check.check) in preserved
    ]


def _alarms(report: Report) -> list[tuple[str, tuple[str, ...]]]:
    facts = report.facts
    alarms: list[tuple[str, tuple[str, ...]]] = []
    if facts.integrity:
        alarms.append(
            (
                "Integrity failure: what was tested is not what was pinned",
                (
                    *facts.integrity,
                    "No verdict of this run is evidence about the pinned files.",
                ),
            )
        )
    unfinished = sum(check.state == "unfinished" for check in facts.checks)
    if facts.interrupted or unfinished:
        lines = []
        if unfinished:
            lines.append(
                f"{unfinished:,} of {count(len(facts.checks), 'collected check')} never came to a "
                "result; they are shown as NOT_MEASURED."
            )
        lines.append("A later part of the run could have said something else.")
        title = "The run was interrupted" if facts.interrupted else "The run did not finish"
        alarms.append((title, tuple(lines)))
    return alarms


def _sentences(report: Report) -> list[str]:
    results, facts = report.results, report.facts
    bad, found = _not_preserved(report), []
    expected = sum(result.expected for result in bad)
    if expected:
        which = f"{expected:,} of the {len(bad):,} that are" if expected < len(bad) else "What is"
        found.append(
            f"{which} not PRESERVED {_were(expected if expected < len(bad) else 1)} expected by "
            "the suite (xfail). An expectation is not an approval."
        )
    pairs = list(dict.fromkeys(result.pair for result in results))
    whole = [pair for pair in pairs if not any(result.pair == pair for result in bad)]
    if bad and len(pairs) > 1:
        found.append(_pairs_sentence(whole, len(pairs)))
    failed = _failed_otherwise(report)
    if failed:
        found.append(
            f"{count(len(failed), 'check')} with a PRESERVED verdict belong to a test that failed "
            f"for another reason, such as {failed[0].test}."
        )
    elif facts.exit_status != 0 and not bad and results and not facts.integrity:
        found.append(f"pytest ended with exit status {facts.exit_status}.")
    found += _left_out_sentence(report)
    if facts.selection:
        chosen = one_line("; ".join(facts.selection), 200)
        found.append(f"Tests were chosen with {chosen}: what that left out may be missing here.")
    answers = sum(result.answers for result in results)
    if answers:
        cached = sum(result.answers_cached for result in results)
        found.append(f"{cached:,} of {answers:,} answers came from the cache of earlier runs.")
    if results and not bad:
        found.append(
            "Each within its limit and at its confidence. What these checks cannot see is at the "
            "end of this page."
        )
    return found


def _pairs_sentence(whole: list[str], total: int) -> str:
    """Which pairs nothing speaks against, so far as they were checked."""
    if not whole:
        return f"None of the {total:,} pairs is PRESERVED in all the checks that ran on it."
    named = f"{', '.join(whole[:6])}{', …' if len(whole) > 6 else ''}"
    verb = "is" if len(whole) == 1 else "are"
    return (
        f"{len(whole):,} of {total:,} pairs {verb} PRESERVED in all the checks that ran on "
        f"{'it' if len(whole) == 1 else 'them'}: {named}."
    )


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


def _left_out_sentence(report: Report) -> list[str]:
    others = left_out(report)
    if not others:
        return []
    kinds = collections.Counter(reason(check) for check in others)
    told = ", ".join(f"{number:,} {kind}" for kind, number in kinds.items())
    return [f"{count(len(others), 'collected check')} did not run: {told}."]


def reason(check: CollectedCheck) -> str:
    """Why a collected check has no result, in a word."""
    if check.state == "deselected":
        return "deselected"
    return "skipped" if check.outcome == "skipped" else "without a result"
