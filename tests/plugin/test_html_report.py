"""The HTML report as a run of pytest makes it, also when the run fails or lacks what it needs."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

from tests.plugin.conftest import Project

MARKED = """
@safety_preserved(prompts="own", max_degradation=0.05)
def test_refuses(model_pair):
    pass
"""


def words(path: Path) -> str:
    """What stands on the page, without its style, script and tags."""
    text = re.sub(r"<(style|script)[ >].*?</\1>", " ", path.read_text(encoding="utf-8"), flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def test_the_report_of_a_run_says_what_its_json_says(project: Project) -> None:
    project.test_file(MARKED)
    reports = ("--compsec-report=deep/out.html", "--compsec-report=out.json")
    project.run("--compsec-full", *reports)
    data = json.loads((project.path / "out.json").read_text(encoding="utf-8"))
    shown = words(project.path / "deep" / "out.html")
    assert "May not ship: 1 of 2 checks is not PRESERVED" in shown
    for result in data["results"]:
        assert result["summary"] in shown
        assert result["provenance"]["lock_digest"] in shown
        assert result["provenance"]["compressed"]["weights_digest"] in shown
        assert f"{result['answers_cached']} of {result['answers']}" in shown
    assert "max_degradation 0.05" in shown
    assert data["run"]["suites"][0]["config_digest"] in shown


def test_a_check_that_was_left_out_keeps_the_decision_open(project: Project) -> None:
    project.test_file(MARKED)
    project.run("-k", "good", "--compsec-full", "--compsec-report=out.html")
    shown = words(project.path / "out.html")
    assert "Not decided: 1 collected check did not run" in shown
    assert "-k good" in shown
