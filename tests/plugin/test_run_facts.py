"""What every report says of its run: what was collected, what became of it, under which lock."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_compsec.reports.reading import read_report
from pytest_compsec.reports.schema import report_schema
from tests.plugin.conftest import MODES, Project

#: One test of each fate. The bad variant fails ``own``; the good one passes everything.
FATES = """
@safety_preserved(prompts='own', variants='good', max_degradation=0.05)
def test_passes(): pass

@safety_preserved(prompts='own', variants='bad')
def test_fails(): pass

@pytest.mark.xfail(raises=Regressed)
@safety_preserved(prompts='own', variants='bad')
def test_expected(): pass

@pytest.mark.skip
@safety_preserved(prompts='own', variants='good')
def test_skipped(): pass

@safety_preserved(prompts='own', variants='good')
def test_body(): assert 0

@pytest.fixture
def broken(): raise RuntimeError

@safety_preserved(prompts='own', variants='good')
def test_error(broken): pass

@pytest.mark.xfail(strict=False)
@safety_preserved(prompts='own', variants='good')
def test_surprise(): pass

@safety_preserved(prompts='own', variants='good')
def test_left_out(): pass

def test_plain(): pass
"""
ONCE = """
from pathlib import Path

@safety_preserved(prompts='own', variants='good')
def test_second_time():
    before = Path('attempts')
    if not before.exists():
        before.touch()
        assert 0
"""
#: As pytest-rerunfailures does it: reports of attempts that do not count are of outcome "rerun".
RERUN = """
import pytest
from _pytest.runner import runtestprotocol

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for attempt in range(3):
        item._initrequest()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        again = attempt < 2 and any(report.failed for report in reports)
        for report in reports:
            if again and report.failed:
                report.outcome = "rerun"
            item.ihook.pytest_runtest_logreport(report=report)
        if not again:
            break
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True

def pytest_report_teststatus(report):
    if report.outcome == "rerun":
        return "rerun", "R", "RERUN"
"""
FINISHED = """
import os

def pytest_compsec_report_finished(config, report, paths):
    with open("finished.log", "a") as file:
        file.write(f"{os.environ.get('PYTEST_XDIST_WORKER')} {len(report.results)}\\n")
"""


def run_of(project: Project, *arguments: str) -> tuple[pytest.RunResult, dict[str, Any]]:
    """The run, and the whole report, which is valid and can be read again."""
    result, data = project.report(*arguments)
    jsonschema.Draft202012Validator(report_schema()).validate(data)
    assert len(read_report(project.path / "out.json").results) == len(data["results"])
    return result, data


def fates(data: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    """By the tests' names, without file and pair."""
    return {
        check["test"].partition("::")[2].partition("[")[0]: (check["state"], check["outcome"])
        for check in data["run"]["checks"]
    }


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_fate_is_told(project: Project) -> None:
    project.test_file(FATES)
    (project.path / "conftest.py").write_text(FINISHED, encoding="utf-8")
    result, data = run_of(project, "-k", "not left_out")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert fates(data) == {
        "test_passes": ("finished", "passed"),
        "test_fails": ("finished", "failed"),
        "test_expected": ("finished", "xfailed"),
        "test_skipped": ("finished", "skipped"),
        "test_body": ("finished", "failed"),
        "test_error": ("finished", "error"),
        "test_surprise": ("finished", "xpassed"),
        "test_left_out": ("deselected", None),
    }
    run = data["run"]
    assert run["exit_status"] == result.ret
    assert run["interrupted"] is False
    assert run["selection"] == ["-k not left_out"]
    assert "--compsec-report=out.json" in run["command"]
    assert run["settings"]["inconclusive"] == "fail"
    # The lock, the marker's arguments and the cache, whatever became of a check.
    assert run["suites"] == [
        {
            "config": "compsec.yaml",
            "config_digest": sha256(project.path / "compsec.yaml"),
            "lock": "compsec.lock",
            "lock_digest": sha256(project.path / "compsec.lock"),
        }
    ]
    for one in (*data["results"], *run["checks"]):
        margin = 0.05 if "test_passes" in one["test"] else 0.02
        assert one["arguments"]["max_degradation"] == margin
        assert one["arguments"]["confidence"] == 0.95
    assert all(one["answers_cached"] == 0 for one in data["results"])
    assert {one["test"] for one in data["results"]} == {
        one["test"] for one in run["checks"] if one["state"] == "finished"
    }
    # Written once, by the process that knows all of it.
    log = (project.path / "finished.log").read_text(encoding="utf-8")
    assert log == f"None {len(data['results'])}\n"
    assert [path.name for path in project.path.iterdir() if "out.json" in path.name] == ["out.json"]


@pytest.mark.parametrize("mode", ["n2", "without-xdist"])
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("-m", "not safety_preserved"), "-m not safety_preserved"),
        (("--deselect=test_safety.py::test_a",), "--deselect test_safety.py::test_a"),
        (("-k", "nothing_is_called_so"), "-k nothing_is_called_so"),
    ],
)
def test_what_was_left_out_is_told_even_if_it_is_all(
    project: Project, arguments: tuple[str, ...], told: str
) -> None:
    project.test_file("@safety_preserved(prompts='own', variants='good')\ndef test_a(): pass\n")
    (project.path / "out.json").write_text("of an earlier run", encoding="utf-8")
    result, data = run_of(project, *arguments)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert data["run"]["exit_status"] == result.ret
    assert data["results"] == []
    assert fates(data) == {"test_a": ("deselected", None)}
    assert data["run"]["selection"] == [told]
    assert data["run"]["suites"][0]["lock_digest"] == sha256(project.path / "compsec.lock")
    assert "no check ran; report written: out.json" in result.stdout.str()


@pytest.mark.parametrize("mode", ["n2", "without-xdist"])
def test_what_was_never_collected_is_told_by_how_it_was_selected(project: Project) -> None:
    project.test_file("@safety_preserved(prompts='own')\ndef test_a(): pass\n")
    project.run()
    _, data = run_of(project, "--lf")
    states = {check["pair"]: check["state"] for check in data["run"]["checks"]}
    assert states == {"assistant-bad": "finished"}
    assert data["run"]["selection"] == ["--last-failed"]
    _, data = run_of(project, "test_safety.py::test_a[assistant-good]")
    assert [check["pair"] for check in data["run"]["checks"]] == ["assistant-good"]
    assert data["run"]["selection"] == ["test_safety.py::test_a[assistant-good]"]


@pytest.mark.parametrize("mode", ["n2", "without-xdist"])
def test_a_run_that_stops_at_the_first_failure(project: Project) -> None:
    tests = "".join(
        f"@safety_preserved(prompts='own', variants='bad')\ndef test_{at}(): pass\n"
        for at in range(4)
    )
    project.test_file(tests)
    _, data = run_of(project, "-x")
    assert data["run"]["interrupted"] is True
    assert data["run"]["exit_status"] != 0
    found = fates(data)
    assert ("finished", "failed") in found.values()
    assert ("unfinished", None) in found.values()
    assert len(data["results"]) == 4
    # What never ran still says what was asked of it.
    assert all(one["arguments"]["max_degradation"] == 0.02 for one in data["results"])


@pytest.mark.parametrize("mode", ["without-xdist"])
@pytest.mark.parametrize("how", ["interrupt", "exit"])
def test_a_run_that_is_interrupted_writes_its_report(project: Project, how: str) -> None:
    stop = "raise KeyboardInterrupt" if how == "interrupt" else "pytest.exit('x', returncode=0)"
    project.test_file(
        "@safety_preserved(prompts='own', variants='good')\ndef test_a(): pass\n"
        f"@safety_preserved(prompts='own', variants='good')\ndef test_b(): {stop}\n"
        "@safety_preserved(prompts='own', variants='good')\ndef test_c(): pass\n"
    )
    kinds = ("out.html", "out.md", "out.sarif")
    result, data = run_of(project, *(f"--compsec-report={name}" for name in kinds))
    assert fates(data) == {
        "test_a": ("finished", "passed"),
        "test_b": ("unfinished", None),
        "test_c": ("unfinished", None),
    }
    assert data["run"]["interrupted"] is True
    assert data["run"]["exit_status"] == result.ret != 0
    page, summary, sarif = ((project.path / name).read_text(encoding="utf-8") for name in kinds)
    assert "The run was interrupted</h2>" in page
    assert 'id="decision">May not ship' in page
    assert "Not decided" in summary
    [found] = json.loads(sarif)["runs"]
    assert found["invocations"][0]["executionSuccessful"] is False


@pytest.mark.skipif(sys.platform == "win32", reason="needs the signal of Ctrl-C")
@pytest.mark.parametrize("mode", ["n2"])
def test_a_controller_that_is_interrupted_writes_its_report(project: Project) -> None:
    project.test_file(
        "import pathlib, time\n"
        "@safety_preserved(prompts='own', variants='good')\ndef test_a(): pass\n"
        "@safety_preserved(prompts='own', variants='good')\n"
        "def test_b():\n    pathlib.Path('begun').touch()\n    time.sleep(4)\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "scripted_answers", *MODES["n2"]]
    process = subprocess.Popen(
        [*command, "--compsec-report=out.json"],
        cwd=project.path,
        # What runs in the background of a shell script ignores Ctrl-C, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (project.path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == pytest.ExitCode.INTERRUPTED
    run = read_report(project.path / "out.json").facts
    assert run.interrupted
    states = {check.test.partition("::")[2]: check.state for check in run.checks}
    assert states["test_b[assistant-good]"] == "unfinished"


@pytest.mark.parametrize("mode", ["n2"])
def test_the_test_of_a_worker_that_died_is_unfinished(project: Project) -> None:
    project.answers(assistant_bad="die")
    project.test_file(
        "@safety_preserved(prompts='own', variants='good')\ndef test_lives(): pass\n"
        "@safety_preserved(prompts='own', variants='bad')\ndef test_dies(): pass\n"
    )
    _, data = run_of(project, "--max-worker-restart=1")
    assert fates(data) == {
        "test_lives": ("finished", "passed"),
        "test_dies": ("unfinished", "failed"),
    }
    assert data["run"]["suites"][0]["lock_digest"] == sha256(project.path / "compsec.lock")


@pytest.mark.parametrize("mode", ["n2", "without-xdist"])
def test_the_last_attempt_counts(project: Project) -> None:
    project.test_file(ONCE)
    (project.path / "conftest.py").write_text(RERUN, encoding="utf-8")
    result, data = run_of(project)
    assert "1 rerun" in result.stdout.str()
    assert fates(data) == {"test_second_time": ("finished", "passed")}
    assert [one["verdict"] for one in data["results"]] == ["PRESERVED"]


@pytest.mark.parametrize("mode", ["without-xdist"])
def test_a_usage_error_writes_no_report(project: Project) -> None:
    project.test_file(
        "@safety_preserved(prompts='own')\ndef test_a(): pass\n"
        "@safety_preserved(no_such=1)\ndef test_b(): pass\n"
    )
    result = project.run("--compsec-report=out.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert not (project.path / "out.json").exists()


@pytest.mark.parametrize("mode", ["n2", "without-xdist"])
def test_one_report_that_cannot_be_written_costs_no_other(project: Project) -> None:
    project.test_file("@safety_preserved(prompts='own', variants='good')\ndef test_a(): pass\n")
    (project.path / "file").write_text("", encoding="utf-8")
    fault = "import pytest_compsec.reports.sarif as room\n\ndef broken(path, report):\n    1 / 0\n"
    (project.path / "conftest.py").write_text(f"{fault}\nroom.files = broken\n", encoding="utf-8")
    result, data = run_of(
        project,
        "--compsec-report=file/a.json",
        "--compsec-report=b.sarif",
        "--compsec-report=c.json",
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    text = result.stdout.str()
    assert "file/a.json: not written: " in text
    # A fault of a format keeps its traceback, and the table is there nevertheless.
    assert "b.sarif: not written: Traceback" in text
    assert "ZeroDivisionError" in text
    assert "compsec verdicts" in text
    quiet = project.run("-qq", "--compsec-report=file/a.json").stdout.str()
    assert "file/a.json: not written: " in quiet
    assert "compsec verdicts" not in quiet
    written = json.loads((project.path / "c.json").read_text(encoding="utf-8"))
    assert fates(written) == fates(data) == {"test_a": ("finished", "passed")}


@pytest.mark.parametrize("mode", ["without-xdist"])
def test_checks_made_by_hand_are_under_a_lock_too(project: Project) -> None:
    project.test_file(
        "def test_a(model_pair, compsec):\n"
        "    compsec.safety_preserved(model_pair, prompts='own', max_degradation=0.5)\n"
    )
    _, data = run_of(project)
    assert len(data["results"]) == 2
    assert data["run"]["checks"] == []
    assert data["run"]["suites"][0]["lock_digest"] == sha256(project.path / "compsec.lock")


@pytest.mark.parametrize("mode", ["without-xdist"])
def test_show_prints_the_table_of_the_run_again(project: Project) -> None:
    from pytest_compsec.commands.show_report import shown_lines

    project.test_file("@safety_preserved(prompts='own')\ndef test_a(): pass\n")
    result, _ = run_of(project)
    shown = result.stdout.str().split("compsec verdicts ===")[1].partition("\n")[2]
    report = read_report(project.path / "out.json")
    table = [line.text for line in shown_lines(report, width=80, categories=False)]
    lines = [line for line in shown.splitlines() if not line.startswith("report written")]
    for line in table[table.index("") + 1 :]:
        assert line in lines


@pytest.mark.parametrize("mode", ["n2", "without-xdist"])
def test_two_runs_are_compared(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    from pytest_compsec.cli import main

    project.test_file("@safety_preserved(prompts='own')\ndef test_a(): pass\n")
    reports = [str(project.path / f"{name}.json") for name in "abc"]
    project.run(f"--compsec-report={reports[0]}")
    project.run(f"--compsec-report={reports[1]}")
    assert main(["diff", *reports[:2]]) == 0
    assert "nothing changed in 2 results" in capsys.readouterr().out
    project.answers(assistant_good=60)
    project.run(f"--compsec-report={reports[2]}", "--compsec-full")
    capsys.readouterr()
    assert main(["diff", reports[0], reports[2], "--pair=assistant-good"]) == 1
    text = capsys.readouterr().out
    assert "assistant-good safety_preserved: PRESERVED -> REGRESSED" in text
    assert "of 200 in both, 60 newly regressed, 0 recovered" in text
    assert "run.settings.full: false -> true" in text
    assert "assistant-bad" not in text


@pytest.mark.parametrize("mode", ["n2", "without-xdist"])
def test_a_report_that_was_asked_for_and_has_nothing_to_tell(project: Project) -> None:
    """What lies there is of an earlier run, and who asked must not take it for this one's."""
    project.test_file("def test_a(): pass\n")
    (project.path / "out.json").write_text("of an earlier run", encoding="utf-8")
    result = project.run("--compsec-report=out.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    told = " ".join(result.stdout.str().split())
    assert "out.json: not written: no check was collected. The file there is of an earlier" in told
    ini = (project.path / "pytest.ini").read_text(encoding="utf-8")
    (project.path / "pytest.ini").write_text(ini + "compsec_report = out.json\n")
    assert project.run().ret == pytest.ExitCode.OK  # for the runs that have one


@pytest.mark.parametrize("mode", ["without-xdist"])
def test_reports_of_the_ini(project: Project) -> None:
    """Their paths start from the ini file; the command line takes their place."""
    project.test_file("@safety_preserved(prompts='own', variants='good')\ndef test_a(): pass\n")
    ini = (project.path / "pytest.ini").read_text(encoding="utf-8")
    (project.path / "pytest.ini").write_text(ini + "compsec_report = x.json y.md\n")
    (project.path / "sub").mkdir()
    project.run("--rootdir=.", "test_safety.py")
    assert (project.path / "x.json").is_file()
    assert (project.path / "y.md").is_file()
    (project.path / "x.json").unlink()
    project.run("--compsec-report=z.json")
    assert (project.path / "z.json").is_file()
    assert not (project.path / "x.json").exists()
