"""Run a test's checks after its body, fail it once, and put the results on its report."""

from __future__ import annotations

import dataclasses
import json
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from pytest_compsec import junit
from pytest_compsec.errors import CompsecError, IntegrityError
from pytest_compsec.outcomes import FAILURES, CompsecWarning, NotMeasured
from pytest_compsec.run import (
    BY_HAND,
    CHECKS,
    INTEGRITY,
    RESULTS,
    RUN,
    Expected,
    Run,
    encode_results,
    not_measured,
)
from pytest_compsec.verdict import CheckResult, Verdict, clean_text

if TYPE_CHECKING:
    from pytest_compsec.markers import MarkedCheck

#: The check that asks what else the run knows of its pair (see :mod:`pytest_compsec.evidence`).
POLICY = "precision_policy"
#: How often a test ran in this process, and of the attempt at work: the results that were sent, and
#: how many of them its body and fixtures had made by hand.
ATTEMPTS: pytest.StashKey[int] = pytest.StashKey()
SENT: pytest.StashKey[tuple[list[CheckResult], int]] = pytest.StashKey()


def begin(item: pytest.Item) -> None:
    """Forget what an earlier attempt (a rerun) left behind."""
    run = item.config.stash[RUN]
    for check in item.stash[CHECKS]:
        key = (item.nodeid, check.arguments.check)
        run.finished_here.pop(key, None)
        if RESULTS in item.stash:  # else another test's policy had it measured for this attempt
            run.ahead.pop(key, None)
    item.stash[RESULTS] = []


def run_checks(run: Run, item: pytest.Function) -> None:
    """Measure every check of ``item`` on its pair, then fail once if any is not PRESERVED."""
    from pytest_compsec.family import measure

    results = item.stash[RESULTS]
    fault: Exception | None = None
    for check in item.stash[CHECKS]:
        try:
            result = measure(run, item, check)
        except IntegrityError as error:
            item.stash[INTEGRITY] = str(error)
            result = not_measured(_expected(item, check), f"integrity check failed: {error}")
        except CompsecError as error:
            result = not_measured(_expected(item, check), str(error))
        except Exception as error:
            # A fault of ours or of a library: kept with its traceback, after the other checks.
            fault = fault or error
            reason = f"the check broke: {type(error).__name__}: {error}"
            result = not_measured(_expected(item, check), reason)
        results.append(result)
    if fault is not None:
        raise fault
    _fail_once(run, results)


def _expected(item: pytest.Item, check: MarkedCheck) -> Expected:
    from pytest_compsec.collection import pair_id

    arguments = check.arguments
    return Expected(
        item.nodeid, arguments.check, pair_id(item), arguments.margin, arguments.confidence
    )


def _fail_once(run: Run, results: list[CheckResult]) -> None:
    from pytest_compsec.reports.failure import failure_text

    text = clean_text(failure_text(results, run.settings.report_lines))
    verdicts = {result.verdict for result in results}
    for verdict, failure in FAILURES:
        if verdict not in verdicts:
            continue
        if verdict is Verdict.INCONCLUSIVE and run.settings.inconclusive == "warn":
            warnings.warn(CompsecWarning(text), stacklevel=2)
            return
        if verdict is Verdict.INCONCLUSIVE and run.settings.inconclusive == "xfail":
            pytest.xfail(text)  # does nothing under --runxfail
        raise failure(text, tuple(results))


def finish_report(
    run: Run, item: pytest.Item, call: pytest.CallInfo[Any], report: pytest.TestReport
) -> None:
    """Make the report say what was measured, and refuse every way to pass without it.

    Runs outside pytest's own xfail handling, so that it has the last word.
    """
    earlier: list[CheckResult] = item.stash.get(RESULTS, [])
    error = call.excinfo.value if call.excinfo is not None else None
    if report.when == "teardown":
        junit.hide_answers(run, report, [*earlier, *item.stash.get(BY_HAND, [])], error)
        _end_attempt(item, report)
    if report.when == "teardown" or (report.when == "setup" and report.passed):
        return
    checks = item.stash.get(CHECKS, [])
    results = list(earlier)
    if isinstance(error, IntegrityError):
        item.stash[INTEGRITY] = str(error)
    if isinstance(error, CompsecError) and report.failed:
        report.longrepr = clean_text(f"{type(error).__name__}: {error}")
    results += _did_not_run(item, checks, results, report, error)
    integrity = item.stash.get(INTEGRITY, None)
    if integrity is not None:
        report.compsec_integrity = clean_text(integrity)  # type: ignore[attr-defined]
        _force_failure(report, clean_text(f"IntegrityError: {integrity}"))
    elif _hides_a_verdict(run, item, results, report, error):
        from pytest_compsec.reports.failure import failure_text

        _force_failure(report, clean_text(failure_text(results, run.settings.report_lines)))
    elif not report.failed and (relied := _relied_on(run, item, checks, earlier)) is not None:
        _force_failure(report, clean_text(relied))
    expected = bool(report.skipped and hasattr(report, "wasxfail"))
    shown = [dataclasses.replace(result, expected=expected) for result in results]
    attempt = item.stash[ATTEMPTS] = item.stash.get(ATTEMPTS, 0) + 1
    if attempt > 1:  # whoever asks until it is green must not look like whoever asked once
        shown = [
            dataclasses.replace(one, provenance={**one.provenance, "attempt": attempt})
            for one in shown
        ]
    run.finished_here.update({(item.nodeid, result.check): result for result in shown})
    by_hand: list[CheckResult] = item.stash.get(BY_HAND, [])
    shown += by_hand
    item.stash[SENT] = (shown, len(by_hand))
    junit.prepare(run, item, report, shown, error)
    if shown:
        report.compsec = encode_results(shown)  # type: ignore[attr-defined]
    _note_relied(run, item, report, shown)


def _end_attempt(item: pytest.Item, report: pytest.TestReport) -> None:
    """What fixtures made by hand after the body goes with the tear-down, and nothing of it with the
    next attempt (a rerun)."""
    shown, sent = item.stash.get(SENT, ([], 0))
    late = item.stash.get(BY_HAND, [])[sent:]
    if late:
        report.compsec = encode_results([*shown, *late])  # type: ignore[attr-defined]
    ended: tuple[pytest.StashKey[Any], ...] = (SENT, BY_HAND, INTEGRITY)
    for key in ended:
        if key in item.stash:
            del item.stash[key]


def _did_not_run(
    item: pytest.Item,
    checks: list[MarkedCheck],
    results: list[CheckResult],
    report: pytest.TestReport,
    error: BaseException | None,
) -> list[CheckResult]:
    """NOT_MEASURED for each check of the test's markers that has no result."""
    done = {result.check for result in results}
    reason = "the check did not run"
    if error is not None:
        skipped = report.skipped and not hasattr(report, "wasxfail")
        kind = "was skipped" if skipped else "failed"
        reason = f"the test's {'body' if report.when == 'call' else 'set-up'} {kind} before it"
    return [
        not_measured(_expected(item, check), reason)
        for check in checks
        if check.arguments.check not in done
    ]


def _hides_a_verdict(
    run: Run,
    item: pytest.Item,
    results: list[CheckResult],
    report: pytest.TestReport,
    error: BaseException | None,
) -> bool:
    """Would this report look better than its verdicts are?

    A passed test needs PRESERVED throughout, and an xfail swallows NOT_MEASURED only where it
    names exactly that.
    """
    if report.passed:
        allowed = {Verdict.PRESERVED}
        if run.settings.inconclusive == "warn":
            allowed.add(Verdict.INCONCLUSIVE)
        return any(result.verdict not in allowed for result in results)
    if not (report.skipped and hasattr(report, "wasxfail") and isinstance(error, NotMeasured)):
        return False
    for mark in item.iter_markers("xfail"):
        raises = mark.kwargs.get("raises")
        if NotMeasured in (raises if isinstance(raises, tuple) else (raises,)):
            return False
    return True


def _relied_on(
    run: Run, item: pytest.Item, checks: list[MarkedCheck], results: list[CheckResult]
) -> str | None:
    """Did a policy pass on what this test's check was measured to be ahead of it, and now the test
    ends without that result? Which of the two tests runs first must not decide the policy's."""
    done = {result.check for result in results}
    for check in checks:
        name = check.arguments.check
        policy = run.relied_on.get((item.nodeid, name))
        if policy is not None and name not in done:
            return (
                f"{policy} was let pass because of this test's {name}, measured ahead, and the "
                "test itself ended without it. Let it run, or skip it with a mark "
                "(@pytest.mark.skip), which is known beforehand"
            )
    return None


def _note_relied(
    run: Run, item: pytest.Item, report: pytest.TestReport, results: list[CheckResult]
) -> None:
    """What a policy that passed relied on goes with its report: those tests may be on another
    worker of pytest-xdist. One that did not pass relied on nothing."""
    relied = [key for key, policy in run.relied_on.items() if policy == item.nodeid]
    if not relied:
        return
    if any(result.check == POLICY and result.verdict is Verdict.PRESERVED for result in results):
        report.compsec_relied = json.dumps(relied)  # type: ignore[attr-defined]
        return
    for key in relied:
        del run.relied_on[key]


def _force_failure(report: pytest.TestReport, message: str) -> None:
    report.outcome = "failed"
    report.longrepr = message
    if hasattr(report, "wasxfail"):
        del report.wasxfail
