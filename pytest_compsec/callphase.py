"""Run a test's checks after its body, fail it once, and put the results on its report."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest

from pytest_compsec.errors import CompsecError, IntegrityError
from pytest_compsec.outcomes import FAILURES, CompsecWarning, NotMeasured
from pytest_compsec.reports.failure import failure_text
from pytest_compsec.run import (
    CHECKS,
    INTEGRITY,
    RESULTS,
    Expected,
    Run,
    encode_results,
    not_measured,
)
from pytest_compsec.verdict import CheckResult, Verdict, clean_text

if TYPE_CHECKING:
    from pytest_compsec.markers import MarkedCheck


def begin(item: pytest.Item) -> None:
    """Forget what an earlier attempt (a rerun) left behind."""
    item.stash[RESULTS] = []
    item.stash.pop(INTEGRITY, None)


def run_checks(run: Run, item: pytest.Function) -> None:
    """Measure every check of ``item`` on its pair, then fail once if any is not PRESERVED."""
    results = item.stash[RESULTS]
    pair = item.funcargs["model_pair"]
    fault: Exception | None = None
    for check in item.stash[CHECKS]:
        try:
            result = check.marker.measure(pair, check.arguments, test=item.nodeid)
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
    text = clean_text(failure_text(results))
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
    if report.when == "teardown":
        return
    checks = item.stash.get(CHECKS, [])
    results = item.stash.get(RESULTS, [])
    error = call.excinfo.value if call.excinfo is not None else None
    if isinstance(error, IntegrityError):
        item.stash[INTEGRITY] = str(error)
    if isinstance(error, CompsecError) and report.failed:
        report.longrepr = clean_text(f"{type(error).__name__}: {error}")
    if report.when == "call" or not report.passed:
        _complete(item, checks, results, report, error)
    if item.stash.get(INTEGRITY, None) is not None:
        message = clean_text(item.stash[INTEGRITY])
        _force_failure(report, f"IntegrityError: {message}")
        report.compsec_integrity = message  # type: ignore[attr-defined]
    elif _hides_not_measured(item, results, report, error):
        _force_failure(report, clean_text(failure_text(results)))
    if results and (report.when == "call" or not report.passed):
        expected = bool(report.skipped and hasattr(report, "wasxfail"))
        report.compsec = encode_results(  # type: ignore[attr-defined]
            [_with_expected(result, expected) for result in results]
        )


def _complete(
    item: pytest.Item,
    checks: list[MarkedCheck],
    results: list[CheckResult],
    report: pytest.TestReport,
    error: BaseException | None,
) -> None:
    """Add NOT_MEASURED for each check that did not run, and fail a test that passed without."""
    done = {result.check for result in results}
    missing = [check for check in checks if check.arguments.check not in done]
    for check in missing:
        reason = "the check did not run"
        if error is not None:
            kind = "was skipped" if report.skipped else "failed"
            reason = f"the test's {'body' if report.when == 'call' else 'set-up'} {kind} before it"
        results.append(not_measured(_expected(item, check), reason))
    if missing and not isinstance(item.stash.get(RESULTS, None), list):
        item.stash[RESULTS] = results
    if missing and report.passed:
        _force_failure(report, clean_text(failure_text(results)))


def _hides_not_measured(
    item: pytest.Item,
    results: list[CheckResult],
    report: pytest.TestReport,
    error: BaseException | None,
) -> bool:
    """An xfail swallows NOT_MEASURED only where it names exactly that."""
    if not (report.skipped and hasattr(report, "wasxfail") and isinstance(error, NotMeasured)):
        return False
    for mark in item.iter_markers("xfail"):
        raises = mark.kwargs.get("raises")
        kinds = raises if isinstance(raises, tuple) else (raises,)
        if NotMeasured in kinds:
            return False
    return any(result.verdict is Verdict.NOT_MEASURED for result in results)


def _force_failure(report: pytest.TestReport, message: str) -> None:
    report.outcome = "failed"
    report.longrepr = message
    if hasattr(report, "wasxfail"):
        del report.wasxfail


def _with_expected(result: CheckResult, expected: bool) -> CheckResult:
    import dataclasses

    return dataclasses.replace(result, expected=expected)
