"""The end of a run: reports written, the table shown, and an exit status that hides nothing."""

from __future__ import annotations

import hashlib
import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_compsec.errors import CompsecError
from pytest_compsec.memory_reporting import reporter_of
from pytest_compsec.reports import kinds
from pytest_compsec.reports.run_lines import downgraded_line
from pytest_compsec.reports.terminal import Line, summary_lines
from pytest_compsec.run import Run

if TYPE_CHECKING:
    from pytest_compsec.reports.facts import Report
    from pytest_compsec.reports.memory import ProcessMemory


def finish(run: Run, session: pytest.Session) -> None:
    """Write the reports (controller or serial only) and make the exit status tell the truth."""
    run.close()
    if run.is_worker or session.config.option.collectonly:
        return
    in_vain = run.relied_in_vain()
    run.report_problems += in_vain
    if run.integrity or run.unfinished() or in_vain:
        _fail(session)
    if run.active:  # after it: what is written says how the run ended
        _write_reports(run, session)
    else:
        _tell_of_none(run, session)


def _tell_of_none(run: Run, session: pytest.Session) -> None:
    """No check was collected, so there is nothing to report; whoever asked must not take a file of
    an earlier run for this one's."""
    for path in run.settings.reports:
        earlier = " The file there is of an earlier run." if path.exists() else ""
        run.report_problems.append(
            f"--compsec-report={path}: not written: no check was collected.{earlier}"
        )
    if session.exitstatus == pytest.ExitCode.OK:
        _fail(session)


def _fail(session: pytest.Session) -> None:
    """Make a run that looks well a failed one; one that ended worse, such as an interrupted one,
    stays what it is."""
    if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _write_reports(run: Run, session: pytest.Session) -> None:
    from pytest_compsec.run_facts import report_of

    report = report_of(run, session, _memory(run))
    files: list[Path] = []
    for path in run.settings.reports:
        try:
            written = kinds.write(path, report)
            run.report_problems += kinds.remarks(path, report)
            captions = kinds.captions(path, report)
        except Exception as error:
            run.report_problems.append(f"--compsec-report={path}: not written: {_reason(error)}")
            _fail(session)
        else:
            files += written
            run.reports_written += [_captioned(run, target, captions) for target in written]
    _write_step_summary(run, session, report)
    any_results = bool(run.all_results())  # none where all of it was left out
    if run.settings.export_labels is not None and any_results:
        _export_labels(run, session, run.settings.export_labels)
    if run.settings.history is not None and any_results:
        from pytest_compsec.history_writing import write_history

        write_history(run, session)
    _call_others(run, session, report, tuple(files))


def _call_others(
    run: Run, session: pytest.Session, report: Report, files: tuple[Path, ...]
) -> None:
    """The hook of other plugins. One that breaks costs neither the others nor the table."""
    hook = run.config.hook.pytest_compsec_report_finished
    for implementation in hook.get_hookimpls():
        others = [one.plugin for one in hook.get_hookimpls() if one is not implementation]
        call = run.config.pluginmanager.subset_hook_caller(hook.name, others)
        try:
            call(config=run.config, report=report, paths=files)
        except Exception as error:
            where = implementation.plugin_name
            run.report_problems.append(f"{hook.name} of {where} broke: {_reason(error)}")
            _fail(session)


def _reason(error: Exception) -> str:
    """Why a report was not written. A fault of a format keeps its traceback, and costs neither the
    other reports nor the table of verdicts."""
    if isinstance(error, CompsecError):
        return str(error)
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "".join(traceback.format_exception(error)).rstrip()


def _shown(run: Run, path: Path) -> str:
    return os.path.relpath(path, run.config.invocation_params.dir)


def _captioned(run: Run, path: Path, captions: Mapping[Path, str]) -> str:
    shown = _shown(run, path)
    return f"{shown}: {captions[path]}" if path in captions else shown


def _write_step_summary(run: Run, session: pytest.Session, report: Report) -> None:
    """To the page of a GitHub Actions job, where this runs in one."""
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if not summary:
        return
    from pytest_compsec.reports.markdown import append_step_summary

    try:
        append_step_summary(Path(summary), report)
    except Exception as error:
        run.report_problems.append(f"GITHUB_STEP_SUMMARY: not written: {_reason(error)}")
        _fail(session)


def _export_labels(run: Run, session: pytest.Session, path: Path) -> None:
    from pytest_compsec.reports.labels import write_label_sheet

    # The seed decides which agreements are drawn: from the answers, not from the clock.
    seed = int(hashlib.sha256(repr(run.finished()).encode()).hexdigest()[:12], 16)
    try:
        sheet = write_label_sheet(run.finished(), path, seed=seed)
    except (CompsecError, OSError) as error:
        run.report_problems.append(f"--compsec-export-labels={path}: not written: {error}")
        _fail(session)
        return
    shown = _shown(run, sheet.path)
    run.reports_written.append(
        f"{shown}: {sheet.rows} rows to label; fill in `refused`, then run "
        f"`compsec calibrate {shown}`"
    )


def show_summary(run: Run, reporter: pytest.TerminalReporter) -> None:
    """Print the table of verdicts below everything else that pytest prints; under -qq no more than
    what went wrong with reports."""
    if run.is_worker:
        return
    quiet = reporter.config.get_verbosity() < -1
    lines = [] if quiet else _summary(run, reporter)
    if lines or (run.report_problems and not quiet):
        reporter.section("compsec verdicts")
    for problem in run.report_problems:
        reporter.write_line(problem, red=True)
    for line in lines:
        _write(reporter, line)


def _summary(run: Run, reporter: pytest.TerminalReporter) -> list[Line]:
    results = run.all_results()
    if not results and not run.integrity:  # all of it was left out
        return [Line(f"no check ran; report written: {path}") for path in run.reports_written]
    return summary_lines(
        results,
        width=reporter._tw.fullwidth,
        integrity=list(dict.fromkeys(run.integrity.values())),
        downgraded=downgraded_line(run.finished(), run.settings.inconclusive),
        reports=run.reports_written,
        categories=reporter.config.get_verbosity() > 0,
        memory=_memory(run),
        brief=reporter.config.get_verbosity() < 0,
    )


def _memory(run: Run) -> Mapping[str, ProcessMemory] | None:
    """The peaks of every process; None unless they were asked for."""
    found = reporter_of(run.config)
    return None if found is None else found.processes


def _write(reporter: pytest.TerminalReporter, line: Line) -> None:
    if line.colour is None:
        reporter.write_line(line.text)
        return
    start = max(0, len(line.text) - line.coloured)
    reporter.write(line.text[:start])
    reporter.write(line.text[start:], **{line.colour: True, "bold": True})
    reporter.write_line("")
