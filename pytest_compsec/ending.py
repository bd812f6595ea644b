"""The end of a run: reports written, the table shown, and an exit status that hides nothing."""

from __future__ import annotations

import datetime
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.errors import CompsecError
from pytest_compsec.memory_reporting import reporter_of
from pytest_compsec.reports.json_report import report_data, write_report
from pytest_compsec.reports.terminal import Line, sorted_results, summary_lines
from pytest_compsec.run import Run
from pytest_compsec.verdict import Verdict


def finish(run: Run, session: pytest.Session) -> None:
    """Write the reports (controller or serial only) and make the exit status tell the truth."""
    run.close()
    if run.is_worker or session.config.option.collectonly:
        return
    in_vain = run.relied_in_vain()
    run.report_problems += in_vain
    if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) and (
        run.integrity or run.unfinished() or in_vain
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if run.active:  # after it: what is written says how the run ended
        _write_reports(run, session)


def _write_reports(run: Run, session: pytest.Session) -> None:
    from pytest_compsec import __version__

    for path in run.settings.reports:
        data = report_data(
            sorted_results(run.all_results()),
            version=__version__,
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            integrity=list(run.integrity.values()),
            memory=_memory(run),
        )
        try:
            write_report(path, data)
        except OSError as error:
            run.report_problems.append(f"--compsec-report={path}: not written: {error.strerror}")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        else:
            run.reports_written.append(os.path.relpath(path, run.config.invocation_params.dir))
    if run.settings.export_labels is not None:
        _export_labels(run, session, run.settings.export_labels)
    if run.settings.history is not None:
        from pytest_compsec.history_writing import write_history

        write_history(run, session)


def _export_labels(run: Run, session: pytest.Session, path: Path) -> None:
    from pytest_compsec.reports.labels import write_label_sheet

    # The seed decides which agreements are drawn: from the answers, not from the clock.
    seed = int(hashlib.sha256(repr(run.finished()).encode()).hexdigest()[:12], 16)
    try:
        sheet = write_label_sheet(run.finished(), path, seed=seed)
    except (CompsecError, OSError) as error:
        run.report_problems.append(f"--compsec-export-labels={path}: not written: {error}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return
    shown = os.path.relpath(sheet.path, run.config.invocation_params.dir)
    run.reports_written.append(
        f"{shown}: {sheet.rows} rows to label; fill in `refused`, then run "
        f"`compsec calibrate {shown}`"
    )


def show_summary(run: Run, reporter: pytest.TerminalReporter) -> None:
    """Print the table of verdicts below everything else that pytest prints."""
    if not run.active or run.is_worker or reporter.config.get_verbosity() < -1:
        return
    lines = summary_lines(
        run.all_results(),
        width=reporter._tw.fullwidth,
        integrity=list(dict.fromkeys(run.integrity.values())),
        downgraded=_downgraded(run),
        reports=run.reports_written,
        categories=reporter.config.get_verbosity() > 0,
        memory=_memory(run),
    )
    reporter.section("compsec verdicts")
    for problem in run.report_problems:
        reporter.write_line(problem, red=True)
    for line in lines:
        _write(reporter, line)


def _memory(run: Run) -> dict[str, dict[str, Any]] | None:
    """The peaks of every process; None unless they were asked for."""
    found = reporter_of(run.config)
    return None if found is None else found.processes


def _downgraded(run: Run) -> str | None:
    choice = run.settings.inconclusive
    count = sum(result.verdict is Verdict.INCONCLUSIVE for result in run.finished())
    if choice == "fail" or not count:
        return None
    return f"{count} INCONCLUSIVE did not fail the run, because compsec_inconclusive = {choice}"


def _write(reporter: pytest.TerminalReporter, line: Line) -> None:
    if line.colour is None:
        reporter.write_line(line.text)
        return
    start = max(0, len(line.text) - line.coloured)
    reporter.write(line.text[:start])
    reporter.write(line.text[start:], **{line.colour: True, "bold": True})
    reporter.write_line("")
