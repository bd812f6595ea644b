"""What the options of the statistics do to a run, serial and under pytest-xdist."""

from __future__ import annotations

import csv
from typing import Any

from tests.plugin.conftest import Project

BOTH = """
@safety_preserved(prompts="own")
def test_refuses(model_pair):
    pass
"""


def by_pair(report: dict[str, Any]) -> dict[str, Any]:
    return {item["pair"]: item for item in report["results"]}


def test_a_regression_stops_early_and_full_asks_everything(project: Project) -> None:
    project.test_file(BOTH)
    result, report = project.report()
    bad = by_pair(report)["assistant-bad"]
    assert bad["verdict"] == "REGRESSED"
    assert bad["stopping"]["answered"] == bad["measurement"]["n"] < 200
    assert bad["stopping"]["total"] == 200
    assert f"{bad['measurement']['n']}/200" in result.stdout.str()
    assert "Stopped after" in result.stdout.str()
    assert by_pair(report)["assistant-good"]["stopping"] is None
    again = by_pair(project.report()[1])["assistant-bad"]
    assert again["measurement"] == bad["measurement"], "a rerun gives the recorded verdict"
    full = by_pair(project.report("--compsec-full")[1])["assistant-bad"]
    assert (full["measurement"]["n"], full["stopping"]) == (200, None)


def test_familywise_withholds_what_only_the_number_of_tries_let_pass(project: Project) -> None:
    """200 prompts without a loss: p = .018, enough for one variant, not for three."""
    project.answers()
    project.test_file(
        BOTH
        + """
@safety_preserved(prompts="own", variants="good")
def test_again(model_pair):
    pass
"""
    )
    result, report = project.report()
    result.assert_outcomes(passed=3)
    result, report = project.report("--compsec-familywise")
    result.assert_outcomes(failed=3)
    assert {item["verdict"] for item in report["results"]} == {"INCONCLUSIVE"}
    method = "bonferroni" if project.mode == "n2" else "holm"
    assert {item["familywise"]["method"] for item in report["results"]} == {method}
    assert "familywise: one of 3 pairs tested in this run" in result.stdout.str()


def test_familywise_keeps_every_failure_with_its_own_test(project: Project) -> None:
    """A pair that cannot be measured fails its own test and counts as a member of the family."""
    project.answers(assistant_bad="bug")
    project.test_file(BOTH)
    result, report = project.report("--compsec-familywise")
    result.assert_outcomes(passed=1, failed=1)
    assert by_pair(report)["assistant-good"]["familywise"]["count"] == 2
    assert by_pair(report)["assistant-bad"]["verdict"] == "NOT_MEASURED"


def test_the_noise_floor_is_measured_and_shown(project: Project) -> None:
    project.test_file(BOTH)
    _, report = project.report("--compsec-noise-floor", "--compsec-full")
    bad = by_pair(report)["assistant-bad"]
    assert bad["verdict"] == "REGRESSED"
    assert (bad["noise_floor"]["n"], bad["noise_floor"]["regressed"]) == (200, 0)
    assert any("Noise floor: the original against itself" in note for note in bad["notes"])


def test_a_sheet_for_labels_is_written_once_and_is_blind(project: Project) -> None:
    project.test_file(BOTH)
    result = project.run("--compsec-export-labels=labels.csv", "--compsec-full")
    text = (project.path / "labels.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    assert set(rows[0]) == {"row", "prompt", "response", "refused"}
    assert {row["refused"] for row in rows} == {""}
    assert len(rows) >= 120, "both answers to each of the 60 disagreements"
    assert "assistant" not in text
    assert f"labels.csv: {len(rows)} rows to label" in result.stdout.str()
    assert (project.path / "labels.key.json").is_file()


def test_a_run_that_will_probably_not_tell_warns_with_the_figure(project: Project) -> None:
    project.answers()
    project.test_file(BOTH)
    result = project.run("-o", "compsec_expected_discordance=0.03")
    text = result.stdout.str()
    assert result.ret == 0
    assert text.count("comes out PRESERVED with probability 0.42 only") == 1
    assert "`compsec plan --margin 0.02 --discordance 0.03`" in " ".join(text.split())


def test_a_category_with_too_few_prompts_is_a_usage_error(project: Project) -> None:
    project.test_file(
        """
@safety_preserved(per_category=True)
def test_each(model_pair):
    pass
"""
    )
    result = project.run()
    assert result.ret == 4
    error = result.stderr.str() + result.stdout.str()
    assert "54 prompts in category" in error
    assert "at least 149 are needed" in error
    assert "the least margin is 0.054" in error
    assert project.asked() == []


def test_a_verbose_run_lists_the_categories(project: Project) -> None:
    project.answers(assistant_bad=0)
    project.test_file("@safety_preserved(variants='good')\ndef test_builtin(): pass\n")
    text = project.run("-v").stdout.str()
    assert "assistant-good safety_preserved by category" in text
    assert "54    0/0  +0.0 [-" in text
