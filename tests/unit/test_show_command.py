"""``compsec show``: the table of a finished run, again."""

from __future__ import annotations

import argparse
import dataclasses
import io
from pathlib import Path

import pytest

from pytest_compsec.cli import main
from pytest_compsec.commands.show_report import painted, run_show, shown_lines, wants_colours
from pytest_compsec.findings import CategoryFinding
from pytest_compsec.reports.facts import CollectedCheck
from pytest_compsec.reports.reading import read_report
from pytest_compsec.reports.terminal import Line, summary_lines
from pytest_compsec.verdict import CheckResult, Verdict
from tests.unit.reports.json_reports import MEMORY, filled, written
from tests.unit.test_verdict import result

Capture = pytest.CaptureFixture[str]


def test_the_lines_are_those_of_the_run(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = [result(answers=4, answers_cached=2), result(pair="b", verdict=Verdict.PRESERVED)]
    path = written(tmp_path / "a.json", *results, memory=MEMORY, integrity=("file x changed",))
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["show", str(path)]) == 0
    shown = capsys.readouterr().out.splitlines()
    expected = summary_lines(
        results,
        width=100,
        integrity=["file x changed"],
        downgraded=None,
        reports=[],
        memory=MEMORY,
    )
    assert shown[-len(expected) :] == [line.text for line in expected]
    assert " ".join(" ".join(shown[:2]).split()).endswith("pytest-compsec 0.1.0, exit status 1")
    assert shown[2] == f"compsec.yaml: lock sha256 {'b' * 64}"
    # The width is the terminal's.
    monkeypatch.setenv("COLUMNS", "60")
    main(["show", str(path)])
    narrow = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in narrow if "b" * 64 not in line) <= 60


def test_what_was_left_out_or_did_not_finish_is_told(tmp_path: Path, capsys: Capture) -> None:
    states = ("finished", "unfinished", "deselected", "deselected")
    checks = tuple(
        CollectedCheck(f"test_{at}", "safety_preserved", "m-v", "c", state)  # type: ignore[arg-type]
        for at, state in enumerate(states)
    )
    path = written(
        tmp_path / "a.json",
        result(verdict=Verdict.INCONCLUSIVE),
        interrupted=True,
        selection=("-k x",),
        checks=checks,
        settings={"inconclusive": "warn"},
    )
    main(["show", str(path)])
    text = capsys.readouterr().out
    assert "the run was stopped before its end" in text
    assert "tests were chosen with -k x" in text
    assert "1 check did not finish: test_1" in text
    assert "2 checks left out: test_2, test_3" in text
    assert "1 INCONCLUSIVE did not fail the run, because compsec_inconclusive = warn" in text


def test_categories_are_shown_when_asked_for(tmp_path: Path, capsys: Capture) -> None:
    one: CategoryFinding = filled(CategoryFinding)
    both = (one, dataclasses.replace(one, category="cyber"))
    path = str(written(tmp_path / "a.json", result(categories=both)))
    assert main(["show", path]) == 0
    assert "cyber" not in capsys.readouterr().out
    assert main(["show", path, "-v"]) == 0
    assert "cyber" in capsys.readouterr().out


def test_every_kind_of_result_can_be_shown_at_every_width(tmp_path: Path) -> None:
    full = filled(CheckResult)
    kinds = [
        dataclasses.replace(full, measurement=None, estimates=(), differences=(), **gone)
        for gone in ({}, {"layers": None}, {"layers": None, "backdoor": None})
    ]
    others = [full, dataclasses.replace(full, measurement=None, pair="e")]
    report = read_report(written(tmp_path / "a.json", *others, *kinds))
    for width in (20, 60, 200):
        assert list(shown_lines(report, width=width, categories=True))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    path = written(tmp_path / "a.json", result())
    main(["show", str(path)])
    assert "\x1b" not in capsys.readouterr().out
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    run_show(argparse.Namespace(report=str(path), verbose=False))
    assert "\x1b[1;31mREGRESSED\x1b[0m" in screen.getvalue()
    assert wants_colours(Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colours(Terminal())
    assert painted(Line("a b", "red", 1), colours=True) == "a \x1b[1;31mb\x1b[0m"


def test_a_models_text_commands_no_terminal(tmp_path: Path, capsys: Capture) -> None:
    bad = "\x1b[31mred\x07\u202e"
    hostile = result(pair=bad, check=bad, summary=bad, measurement=None, test=bad)
    (arm,) = MEMORY["main"]["arms"]
    memory = {"main": {"how": bad, "arms": [{**arm, "arm": bad, "device": bad}]}}  # type: ignore[dict-item]
    path = written(tmp_path / "a.json", hostile, selection=(bad,), version=bad, memory=memory)
    assert main(["show", str(path)]) == 0
    text = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\u202e"} & set(text)


def test_another_file_is_one_message(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"version": "2.1.0"}', encoding="utf-8")
    assert main(["show", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"compsec: {path}: is JSON, but no JSON report")
    assert len(error.splitlines()) == 1
    with pytest.raises(SystemExit, match="2"):
        main(["show"])
