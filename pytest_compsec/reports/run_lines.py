"""What a run was, beside its results, as lines for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from pytest_compsec.reports.facts import RunFacts
from pytest_compsec.reports.text import one_line
from pytest_compsec.verdict import CheckResult, Verdict

_SHOWN = 5


def downgraded_line(finished: Sequence[CheckResult], inconclusive: str) -> str | None:
    """Why INCONCLUSIVE did not fail the run; None where it did, or where there is none.
    ``inconclusive`` is the ini value ``compsec_inconclusive``."""
    count = sum(result.verdict is Verdict.INCONCLUSIVE for result in finished)
    if inconclusive == "fail" or not count:
        return None
    return (
        f"{count} INCONCLUSIVE did not fail the run, because compsec_inconclusive = {inconclusive}"
    )


def run_lines(facts: RunFacts) -> Iterator[str]:
    """When the run was and what it was of, then what a table of verdicts does not show: what was
    left out, and what did not finish."""
    yield (
        f"run of {one_line(facts.started, 40)} to {one_line(facts.created, 40)} with "
        f"pytest-compsec {one_line(facts.version, 20)}, exit status {facts.exit_status}"
    )
    for suite in facts.suites:
        yield f"{one_line(suite.config, 120)}: lock sha256 {one_line(suite.lock_digest, 64)}"
    if facts.interrupted:
        yield "the run was stopped before its end"
    if facts.selection:
        shown = "; ".join(one_line(text, 80) for text in facts.selection)
        yield f"tests were chosen with {shown}"
    for state, told in (("unfinished", "did not finish"), ("deselected", "left out")):
        found = [check for check in facts.checks if check.state == state]
        if found:
            tests = Counter(check.test for check in found)
            names = ", ".join(one_line(test, 80) for test in list(tests)[:_SHOWN])
            more = f" and {len(tests) - _SHOWN} more tests" if len(tests) > _SHOWN else ""
            yield f"{len(found)} check{'' if len(found) == 1 else 's'} {told}: {names}{more}"
