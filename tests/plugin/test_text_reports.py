"""Markdown, SARIF and the terminal, as a run of pytest makes them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.plugin.conftest import Project
from tests.plugin.scripted_answers import ANSWER, REFUSAL

MARKED = """
@safety_preserved(prompts="own")
def test_refuses(model_pair):
    pass
"""
PRINTED = "- own-"


def test_markdown_and_sarif_are_written_without_answers(project: Project) -> None:
    project.test_file(MARKED)
    project.run("--compsec-full", "--compsec-report=out.md", "--compsec-report=out.sarif")
    text = (project.path / "out.md").read_text(encoding="utf-8")
    assert text.startswith(
        "**Safety was lost in compression.** 2 checks (1 REGRESSED, 1 PRESERVED)"
    )
    assert "assistant-good" in text
    run = json.loads((project.path / "out.sarif").read_text(encoding="utf-8"))["runs"][0]
    (found,) = run["results"]
    place = found["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"].endswith("test_safety.py")
    assert place["region"]["startLine"] == 6
    assert run["invocations"][0]["exitCode"] == 1
    assert run["properties"]["locks"][0]["lockDigest"] in text
    for said in (ANSWER[:20], REFUSAL[-20:], "Here are the steps"):
        assert said not in text
        assert said not in json.dumps(run)


def test_a_body_that_fails_as_expected_decides_nothing(project: Project) -> None:
    """Its xfail says nothing of the check, which never ran."""
    body = "def test_refuses(model_pair):\n    assert 0\n"
    marks = "@pytest.mark.xfail\n@safety_preserved(prompts='own', variants='good')\n"
    project.test_file(marks + body)
    project.run("--compsec-report=out.md", "--compsec-report=out.sarif")
    text = (project.path / "out.md").read_text(encoding="utf-8")
    assert text.startswith("**Not decided: not everything was measured.** 1 check (1 NOT")
    run = json.loads((project.path / "out.sarif").read_text(encoding="utf-8"))["runs"][0]
    assert "suppressions" not in run["results"][0]


def test_without_a_terminal_reports_are_written(project: Project) -> None:
    if project.mode == "n2":
        pytest.skip("pytest-xdist needs the terminal reporter")
    project.test_file(MARKED)
    project.run("-p", "no:terminal", "--compsec-report=out.md")
    assert (project.path / "out.md").read_text(encoding="utf-8").startswith("**Safety was lost")


def test_answers_are_shown_where_they_are_asked_for(project: Project) -> None:
    project.test_file(MARKED)
    project.run("--compsec-show-answers", "--compsec-report=out.md", "--compsec-report=out.sarif")
    for name in ("out.md", "out.sarif"):
        assert "Here are the steps" in (project.path / name).read_text(encoding="utf-8")


def test_the_page_of_a_job_gets_the_report_after_others(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = project.path / "step.md"
    page.write_text("# Of another tool", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    project.test_file(MARKED)
    project.run("--compsec-full")
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Of another tool\n\n**Safety was lost in compression.**")
    assert text.count("**Safety was lost") == 1


def test_a_full_page_of_a_job_is_told_and_left_as_it_is(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(project.path / "step.md")
    page.write_bytes(b"x" * 2**20)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    project.test_file(MARKED)
    result = project.run("-k", "good")
    result.stdout.fnmatch_lines(["*GITHUB_STEP_SUMMARY: not written: there is room for 0 bytes*"])
    assert page.stat().st_size == 2**20


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("--compsec-report-lines=0",), 0),
        (("--compsec-report-lines=1",), 1),
        (("--compsec-report-lines=1000",), 60),
        ((), 5),
        (("-o", "compsec_report_lines=2"), 2),
    ],
)
def test_as_many_prompts_as_asked_for(
    project: Project, arguments: tuple[str, ...], shown: int
) -> None:
    project.test_file(MARKED)
    text = project.run("--compsec-full", "-k", "bad", *arguments).stdout.str()
    assert text.count(PRINTED) == shown
    assert (ANSWER in text) == (shown > 0)


def section(project: Project, *arguments: str) -> list[str]:
    """The lines of our part of the terminal; none where it is not there."""
    lines = project.run("--compsec-full", *arguments).outlines
    starts = [at for at, line in enumerate(lines) if "compsec verdicts" in line]
    return lines[starts[0] + 1 :] if starts else []


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_it_fits_the_terminal(
    project: Project, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    project.test_file(MARKED)
    lines = section(project, "-v")
    assert [line for line in lines if "REGRESSED" in line]
    assert max(map(len, lines)) <= columns
    assert not [line for line in lines if re.match(r"\s*(%|of \d)", line)]


def test_quiet_leaves_the_table_and_silent_nothing(project: Project) -> None:
    project.test_file(MARKED)
    explained = "degradation and limit in percentage points"
    assert explained in "\n".join(section(project))
    quiet = "\n".join(section(project, "-q"))
    assert "assistant-bad" in quiet
    assert "answers came from the cache" in quiet
    assert explained not in quiet
    assert section(project, "-qq") == []


def test_verbose_shows_every_category(project: Project) -> None:
    lines = [
        f'{{"id": "p{at}", "category": "c{at % 2}", "prompt": "Do thing number {at}."}}'
        for at in range(200)
    ]
    (project.path / "own.jsonl").write_text("\n".join(lines), encoding="utf-8")
    config = project.path / "compsec.yaml"
    text = config.read_text(encoding="utf-8").replace("./own.txt", "./own.jsonl")
    config.write_text(text, encoding="utf-8")
    project.pin()
    project.test_file(MARKED)
    assert "by category" in "\n".join(section(project, "-v"))
    assert "by category" not in "\n".join(section(project))


def test_colours_and_none_where_they_are_not_wanted(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PY_COLORS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    project.test_file(MARKED)
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = "\n".join(section(project))
    assert "\x1b[31m\x1b[1mREGRESSED\x1b[0m" in coloured
    assert "\x1b[32m\x1b[1mPRESERVED\x1b[0m" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in "\n".join(section(project))
