"""From a run's history to the baseline, and from the baseline to the verdict of ``no_drift``.

What the verdict is made of is tested in ``tests/unit/checks/test_no_drift.py``; here is what only a
run of pytest shows, so each test starts one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.cli import main
from tests.plugin.conftest import CONFIG, Project

SAFETY = """
@safety_preserved(prompts="own")
def test_refuses(model_pair):
    pass
"""
DRIFT = """
@no_drift
def test_as_before(model_pair):
    pass
"""
HEAD = "import pytest\nfrom pytest_compsec import *\n\n"
HISTORY = "compsec-history.jsonl"
BASELINE = "compsec-baseline.json"
WITH_BASELINE = f"{CONFIG}data:\n  baseline: {{file: ./{BASELINE}}}\n"

serial = pytest.mark.parametrize("mode", ["without-xdist"], indirect=True)
parallel = pytest.mark.parametrize("mode", ["n2"], indirect=True)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def accepted_template(pinned_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose only run is its baseline, named in the config and pinned."""
    root = tmp_path_factory.mktemp("accepted") / "project"
    shutil.copytree(pinned_template, root)
    (root / "answers.json").write_text('{"assistant-bad": 60}', encoding="utf-8")
    (root / "test_safety.py").write_text(HEAD + SAFETY, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "scripted_answers", "-p", "no:xdist"]
    outer = ("PYTEST_ADDOPTS", "GITHUB_STEP_SUMMARY")
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    paths = [str(root), str(Path(__file__).parents[2])]
    done = subprocess.run(
        [*command, "--compsec-history", "--compsec-full"],
        cwd=root,
        env={**environment, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout  # one variant lost 30 % of its refusals
    assert f"report written: {HISTORY}: run 2" in done.stdout
    config = root / "compsec.yaml"
    assert main(["accept", "--config", str(config)]) == 0
    config.write_text(WITH_BASELINE, encoding="utf-8")
    assert main(["pin", "--config", str(config)]) == 0
    (root / "test_safety.py").write_text(HEAD + DRIFT, encoding="utf-8")
    return root


@pytest.fixture
def accepted(project: Project, accepted_template: Path) -> Project:
    shutil.copytree(accepted_template, project.path, dirs_exist_ok=True)
    return project


def test_a_run_leaves_one_line_with_every_outcome_and_no_answer(accepted_template: Path) -> None:
    line, accepted = lines(accepted_template / HISTORY)
    assert (line["kind"], line["finished"], line["previous"]) == ("run", True, "0" * 64)
    assert (accepted["kind"], accepted["run"]) == ("accepted", line["run"])
    assert line["verdicts"]["PRESERVED"] == line["verdicts"]["REGRESSED"] == 1
    found = {item["pair"]: item for item in line["results"]}
    (good,), (bad,) = (found[f"assistant-{name}"]["outcomes"] for name in ("good", "bad"))
    assert list(good["compressed"].values()) == [True] * 200
    assert sum(safe is False for safe in bad["compressed"].values()) == 60
    assert list(bad["original"].values()) == [True] * 200
    made_with = found["assistant-bad"]["provenance"]
    assert len(made_with["compressed"]["weights_digest"]) == 64
    assert made_with["compressed"]["weights_digest"] != made_with["original"]["weights_digest"]
    assert made_with["libraries"]["torch"]
    assert made_with["machine"]["processor"]
    assert made_with["compressed"]["device"] == "cpu"
    assert made_with["compressed"]["dtype"] == "float32"
    assert found["assistant-bad"]["answers_cached"] == 0
    assert set(found["assistant-bad"]["pins"]["compressed"]) == {"config", "weights"}
    text = (accepted_template / HISTORY).read_text(encoding="utf-8")
    assert "Here are the steps" not in text
    assert "forbidden thing" not in text


@serial
def test_planted_drift_is_red_the_rest_green_and_the_run_can_be_accepted(
    accepted: Project,
) -> None:
    accepted.answers(assistant_good=20, assistant_bad=60)
    result, report = accepted.report("--compsec-history")
    found = {item["pair"]: item for item in report["results"]}
    good, bad = found["assistant-good"], found["assistant-bad"]
    assert (good["verdict"], bad["verdict"]) == ("REGRESSED", "PRESERVED")
    assert "same model and environment: rounding" in good["summary"]
    assert "same model and environment" in bad["summary"]
    assert {row["original"] for row in good["evidence"]} == {"(the baseline's answer: not kept)"}
    assert good["estimates"][0]["change"] == pytest.approx(0.1)
    result.stdout.fnmatch_lines(
        ["*20 prompts regressed, 5 shown*", "*original*| (the baseline's answer: not kept)"]
    )
    run, accept, second = lines(accepted.path / HISTORY)
    assert (second["kind"], second["run"] != run["run"]) == ("run", True)
    assert second["previous"] != accept["previous"]
    # Its outcomes are today's, those of no_drift: they are the next baseline.
    assert main(["accept", "--config", str(accepted.path / "compsec.yaml")]) == 0
    baseline = json.loads((accepted.path / BASELINE).read_text(encoding="utf-8"))
    counts = {
        entry["pair"]: sum(safe is False for safe in entry["compressed"].values())
        for entry in baseline["entries"]
    }
    assert counts == {"assistant-good": 20, "assistant-bad": 60}
    # The lock still pins the former one.
    assert main(["verify", "--config", str(accepted.path / "compsec.yaml")]) == 1


@serial
def test_an_edited_history_is_noticed_and_nothing_is_added(accepted: Project) -> None:
    path = accepted.path / HISTORY
    text = path.read_text(encoding="utf-8").replace('"verdict":"REGRESSED"', '"verdict":"X"', 1)
    path.write_text(text, encoding="utf-8")
    accepted.answers(assistant_bad=60)
    result = accepted.run("--compsec-history")
    result.assert_outcomes(passed=2)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*--compsec-history: nothing was added: *:1: was changed after*"])
    assert path.read_text(encoding="utf-8") == text


@serial
def test_without_a_baseline_nothing_is_measured_and_without_the_option_nothing_written(
    project: Project,
) -> None:
    project.test_file(DRIFT + SAFETY)
    result, report = project.report()
    verdicts = [item["verdict"] for item in report["results"] if item["check"] == "no_drift"]
    assert verdicts == ["NOT_MEASURED", "NOT_MEASURED"]
    text = result.stdout.str()
    for command in ("pytest --compsec-history", "compsec accept", "compsec pin", "data: {baseline"):
        assert command in text
    assert not list(project.path.glob("*history*"))


@serial
def test_a_run_that_is_interrupted_keeps_what_finished(project: Project) -> None:
    project.answers(assistant_bad="interrupt")
    project.test_file(SAFETY)
    project.run("--compsec-history")
    (line,) = lines(project.path / HISTORY)
    assert line["finished"] is False
    assert [item["pair"] for item in line["results"]] == ["assistant-good"]
    assert [item["pair"] for item in line["unfinished"]] == ["assistant-bad"]
    assert main(["accept", "--config", str(project.path / "compsec.yaml")]) == 2


@parallel
def test_workers_leave_one_line_where_the_ini_says(project: Project) -> None:
    ini = project.path / "pytest.ini"
    ini.write_text(ini.read_text(encoding="utf-8") + "compsec_history = kept/h.jsonl\n", "utf-8")
    project.test_file(SAFETY)
    project.run()
    path = project.path / "kept" / "h.jsonl"
    (line,) = lines(path)
    assert line["finished"] is True
    assert {item["pair"] for item in line["results"]} == {"assistant-good", "assistant-bad"}
    assert line["config"] == "../compsec.yaml"
    config = str(project.path / "compsec.yaml")
    assert main(["accept", "--config", config, "--history", str(path)]) == 0


@serial
def test_a_path_that_is_taken_for_the_file_is_a_usage_error(project: Project) -> None:
    project.test_file(SAFETY)
    result = project.run("--compsec-history", "test_safety.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--compsec-history=test_safety.py: the file must end in .jsonl" in result.stderr.str()
