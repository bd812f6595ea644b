"""What pytest's JUnit file says of a test with checks: no answers of models, opt-in properties.

pytest puts a failure's whole text into JUnit, and CI systems keep and show that to many. The text
without answers is made where the test ran and travels on its report; in the process that writes
the file, the JUnit plugin alone gets a copy of the report with that text. What the terminal and
other plugins see stays as it is. Captured output and a user's own messages are not touched.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_compsec.errors import CompsecError
from pytest_compsec.outcomes import _VerdictFailure
from pytest_compsec.run import Run
from pytest_compsec.verdict import CheckResult, clean_text

if TYPE_CHECKING:
    from pytest_compsec.reports.scalars import Scalar

#: What the reports of earlier attempts put among a test's properties.
PROPERTIES: pytest.StashKey[list[tuple[str, Scalar]]] = pytest.StashKey()
_REASON = "reason: "


def prepare(
    run: Run,
    item: pytest.Item,
    report: pytest.TestReport,
    results: list[CheckResult],
    error: BaseException | None,
) -> None:
    """Put what JUnit is to say on the report of a test's call (or of its failed set-up)."""
    if run.settings.junit_properties:
        earlier = item.stash.get(PROPERTIES, [])
        mine = item.stash[PROPERTIES] = list(properties(results))
        theirs = [pair for pair in item.user_properties if pair not in earlier]
        item.user_properties[:] = [*theirs, *mine]  # the report of the tear-down takes them along
        report.user_properties = list(item.user_properties)
    hide_answers(run, report, results, error)


def hide_answers(
    run: Run, report: pytest.TestReport, results: list[CheckResult], error: BaseException | None
) -> None:
    """Put the text for JUnit on a report whose own may show answers of ``results``."""
    text = _without_answers(run, report, results, error)
    if text is not None:
        report.compsec_without_answers = clean_text(text)  # type: ignore[attr-defined]


def _without_answers(
    run: Run, report: pytest.TestReport, results: list[CheckResult], error: BaseException | None
) -> str | None:
    """The text to show in place of the report's own; None where that shows no answers."""
    if run.settings.show_answers or not getattr(run.config.option, "xmlpath", None) or not results:
        return None
    from pytest_compsec.reports.answers import has_answers, without_answers
    from pytest_compsec.reports.failure import failure_text

    if isinstance(error, CompsecError) or not any(map(has_answers, results)):
        return None
    shown = failure_text([without_answers(one) for one in results], run.settings.report_lines)
    if report.skipped:
        ours = hasattr(report, "wasxfail") and _is_ours(report.wasxfail, results)
        return f"{_REASON}{shown}" if ours else None
    if not report.failed:
        return None
    if isinstance(report.longrepr, str):  # forced: ours, or of an integrity check or xfail(strict)
        return shown if _is_ours(report.longrepr, results) else None
    if isinstance(error, _VerdictFailure):
        return shown
    # Somebody's own assertion, or a fault: source lines and values may hold whole results.
    crash = getattr(report.longrepr, "reprcrash", None)
    where = f"{crash.path}:{crash.lineno}: " if crash is not None else ""
    return (
        f"{where}{type(error).__name__}: message and traceback are left out of this file, since "
        f"they may show models' answers (--compsec-show-answers puts them in)\n\n{shown}"
    )


def _is_ours(text: str, results: list[CheckResult]) -> bool:
    """Whether a failure's text is one that was made from these results."""
    from pytest_compsec.reports.text import one_line

    first = text.removeprefix(_REASON).partition("\n")[0]
    return first in {clean_text(one_line(result.summary, 2_000)) for result in results}


def properties(results: list[CheckResult]) -> Iterator[tuple[str, Scalar]]:
    """``compsec.<check>.<name>`` with scalars only; a check that was made by hand on several pairs
    names the pair: ``compsec.<check>[<pair>].<name>``. Shares are between 0 and 1."""
    from pytest_compsec.reports.scalars import scalars

    for result in results:
        alike = [one for one in results if one.check == result.check]
        name = f"compsec.{result.check}" + (f"[{result.pair}]" if len(alike) > 1 else "")
        for key, value in scalars(result).items():
            yield f"{name}.{key}", value


def guard(run: Run) -> None:
    """Give the JUnit plugin, where it is in use, the text without answers, and none of what workers
    tell the controller. In the process that writes the file: a serial run, or the controller."""
    from _pytest.junitxml import xml_key  # where pytest keeps it; record_property does the same

    config = run.config
    xml: Any = config.stash.get(xml_key, None)
    if xml is None:
        return
    log_report, log_collection = xml.pytest_runtest_logreport, xml.pytest_collectreport

    def pytest_runtest_logreport(report: pytest.TestReport) -> None:
        log_report(for_junit(report))

    def pytest_collectreport(report: pytest.CollectReport) -> None:
        if not hasattr(report, "compsec_promise"):  # it would count as a skipped test
            log_collection(report)

    # A plugin's hooks are read when it is registered.
    name = config.pluginmanager.get_name(xml)
    config.pluginmanager.unregister(xml)
    xml.pytest_runtest_logreport = pytest_runtest_logreport
    xml.pytest_collectreport = pytest_collectreport
    config.pluginmanager.register(xml, name)


def for_junit(report: pytest.TestReport) -> pytest.TestReport:
    """The report itself, or a copy whose text shows no answers."""
    text = getattr(report, "compsec_without_answers", None)
    if text is None:
        return report
    shown = copy.copy(report)
    if report.failed:
        shown.longrepr = text
    elif hasattr(report, "wasxfail"):
        shown.wasxfail = text
    return shown
