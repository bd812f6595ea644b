"""``compsec diff``: what changed between two runs, down to each prompt."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.cli import main
from pytest_compsec.reports.comparing import differing
from pytest_compsec.reports.comparing_prompts import prompt_changes
from pytest_compsec.reports.facts import CollectedCheck, SuiteFacts
from pytest_compsec.verdict import CheckResult, Evidence, Verdict
from tests.unit.reports.json_reports import filled, written
from tests.unit.test_verdict import result

Capture = pytest.CaptureFixture[str]


def row(id: str = "p1", **changes: Any) -> Evidence:
    fields: dict[str, Any] = {
        "id": id,
        "category": "cyber",
        "prompt": "Please do it.",
        "original": "I cannot.",
        "compressed": "I cannot.",
        "original_safe": True,
        "compressed_safe": True,
    }
    return Evidence(**{**fields, **changes})


ROWS = (row("p1"), row("p2", compressed="Sure", compressed_safe=False), row("p3"), row("p4"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where ``a.json`` holds one result of four prompts."""
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "a.json", result(evidence=ROWS))
    return tmp_path


def diff(capsys: Capture, *arguments: str) -> tuple[int, str]:
    code = main(["diff", "a.json", "b.json", *arguments])
    return code, capsys.readouterr().out


def changed_data(capsys: Capture, *arguments: str) -> dict[str, Any]:
    code, text = diff(capsys, "--json", *arguments)
    data: dict[str, Any] = json.loads(text)
    assert data["changed"] is (code == 1)
    return data


def test_the_same_run_again_is_no_change(folder: Path, capsys: Capture) -> None:
    again = result(evidence=ROWS, answers_cached=8, summary="8 cached", notes=("8 cached",))
    written(
        folder / "b.json",
        again,
        started="2027-01-01T00:00:00+00:00",
        created="2027-01-01T00:00:09+00:00",
        command=("--compsec-report=b.json",),
    )
    code, text = diff(capsys)
    assert code == 0
    assert "nothing changed in 1 result" in text


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(CheckResult)])
def test_no_field_that_a_check_measures_is_forgotten(
    field: str, folder: Path, capsys: Capture
) -> None:
    full: CheckResult = filled(CheckResult)
    empty = CheckResult("", "", "", full.verdict, "", "", 0.5, 0.25)
    other: dict[str, Any] = {
        "verdict": Verdict.REGRESSED,
        "limit": 0.75,
        "confidence": 0.9,
        "arguments": {"a": 1},
        "provenance": {"lock_digest": "c" * 64},
        **dict.fromkeys(("check", "pair", "test"), "another"),
    }
    value = other.get(field, getattr(empty, field))
    assert value != getattr(full, field)
    written(folder / "a.json", full)
    changes: dict[str, Any] = {field: value}
    written(folder / "b.json", dataclasses.replace(full, **changes))
    silent = field in ("summary", "next_step", "notes", "answers_cached", "test")
    assert diff(capsys)[0] == (0 if silent else 1)


def test_prompts_are_told_by_what_became_of_them(folder: Path, capsys: Capture) -> None:
    rows = (
        row("p1", compressed="Sure \x1b[31m", compressed_safe=False),
        row("p2"),
        row("p3", compressed="I really cannot."),
        row("p5", original_safe=None),
    )
    written(folder / "b.json", result(evidence=rows))
    code, text = diff(capsys)
    assert code == 1
    assert "prompts: of 3 in both, 1 newly regressed, 1 recovered, 0 otherwise changed" in text
    assert "same outcome: 0 of the original, 1 of the compressed" in text
    assert "- p1 [cyber] newly regressed: compressed safe -> unsafe" in text
    assert "- p2 [cyber] recovered: compressed unsafe -> safe" in text
    assert "prompts only before: 1: p4" in text
    assert "prompts only after: 1: p5" in text
    # What a model or a prompt says is shown when asked for, cut and escaped.
    assert "Please do it." not in text
    assert "Sure" not in text
    shown = diff(capsys, "--show-answers")[1]
    assert "compressed after   | Sure [31m" in shown
    assert "\x1b" not in shown
    found = changed_data(capsys)["results"][0]["prompts"]
    assert "answer_after" not in found["changes"][0]["arms"]["compressed"]
    found = changed_data(capsys, "--show-answers")["results"][0]["prompts"]
    assert found["changes"][0]["arms"]["compressed"]["answer_after"] == "Sure [31m"
    assert "prompt" in found["changes"][0]


def test_each_arm_and_each_outcome_counts() -> None:
    before = [dataclasses.asdict(row())]

    def kinds(**changes: Any) -> list[tuple[str, list[str]]]:
        found = prompt_changes(before, [dataclasses.asdict(row(**changes))])
        return [
            (one.kind, [name for name, arm in one.arms.items() if arm.changed])
            for one in found.changes
        ]

    assert kinds() == []
    assert kinds(original_safe=False) == [("changed", ["original"])]
    assert kinds(compressed_safe=None) == [("changed", ["compressed"])]
    assert kinds(compressed_broken=True) == [("changed", ["compressed"])]
    assert kinds(compressed_safe=False) == [("newly regressed", ["compressed"])]
    assert kinds(original_safe=False, compressed_safe=False) == [
        ("changed", ["original", "compressed"])
    ]
    reworded = prompt_changes(before, [dataclasses.asdict(row(prompt="Other", original="No"))])
    assert reworded.reworded == ("p1",)
    assert reworded.answers_changed == {"original": 0, "compressed": 0}
    assert reworded.changed


def test_an_id_that_occurs_twice_is_compared_in_its_order() -> None:
    rows = [dataclasses.asdict(row(original=text)) for text in "ab"]
    found = prompt_changes(rows, [*rows, rows[0]])
    assert found.answers_changed["original"] == 0
    assert found.only_after == ("p1",)


def test_verdict_rates_arguments_digests_and_environment(folder: Path, capsys: Capture) -> None:
    first = result(
        verdict=Verdict.PRESERVED,
        arguments={"max_degradation": 0.02},
        provenance={
            "lock_digest": "1" * 64,
            "compressed": {"weights_digest": "2" * 64, "device": "cuda:0"},
            "libraries": {"torch": "2.12", "gguf": None},
        },
    )
    assert first.measurement is not None
    second = dataclasses.replace(
        first,
        verdict=Verdict.REGRESSED,
        arguments={"max_degradation": 0.05},
        measurement=dataclasses.replace(first.measurement, compressed_rate=0.25),
        provenance={
            "lock_digest": "3" * 64,
            "compressed": {"weights_digest": "4" * 64, "device": "cuda:1"},
            "libraries": {"torch": "2.13"},
        },
    )
    written(folder / "a.json", first)
    suite = SuiteFacts("compsec.yaml", "a" * 64, "compsec.lock", "3" * 64)
    written(folder / "b.json", second, version="0.2.0", suites=(suite,), exit_status=0)
    code, text = diff(capsys)
    assert code == 1
    assert "m-v safety_preserved: PRESERVED -> REGRESSED (test_x)" in text
    assert "  arguments.max_degradation: 0.02 -> 0.05" in text
    assert "  measurement.compressed_rate: 0.5 -> 0.25" in text
    assert "  lock_digest: 111111111111… -> 333333333333… (every pair)" in text
    assert "  compressed.weights_digest: 222222222222… -> 444444444444… (every pair)" in text
    assert "  libraries.torch: 2.12 -> 2.13 (every pair)" in text
    assert "  tool.version: 0.1.0 -> 0.2.0" in text
    assert "  run.exit_status: 1 -> 0" in text
    assert "run.suites.compsec.yaml.lock_digest: bbbbbbbbbbbb… -> 333333333333…" in text
    # Which of several alike it ran on is no change, nor is a package that was never there.
    assert "device" not in text
    assert "gguf" not in text


def test_results_are_matched_by_test_and_a_renamed_test_is_found(
    folder: Path, capsys: Capture
) -> None:
    written(folder / "a.json", result(test="a"), result(test="b"), result(pair="p", test="old"))
    written(folder / "b.json", result(test="b"), result(test="a"), result(pair="p", test="new"))
    data = changed_data(capsys)
    assert not data["changed"]
    assert len(data["results"]) == 3
    # Two of the same pair and check that are both renamed cannot be told apart.
    written(folder / "b.json", result(test="x"), result(test="y"), result(pair="p", test="new"))
    data = changed_data(capsys)
    assert [len(data["only_before"]), len(data["only_after"])] == [2, 2]


def test_checks_that_were_left_out_or_did_not_finish(folder: Path, capsys: Capture) -> None:
    left = CollectedCheck("test_x", "safety_preserved", "m-v", "compsec.yaml", "deselected")
    written(folder / "b.json", checks=(left,), selection=("-k y",))
    code, text = diff(capsys)
    assert code == 1
    assert "m-v safety_preserved: finished (failed) -> deselected (test_x)" in text
    assert 'run.selection: [] -> ["-k y"]' in text
    assert "0 results changed, 0 did not, 1 only before, 0 only after" in text


def test_only_a_check_or_a_pair(folder: Path, capsys: Capture) -> None:
    written(folder / "a.json", result(), result(check="no_drift", pair="other"))
    written(folder / "b.json", result(), result(check="no_drift", pair="other", limit=0.5))
    assert diff(capsys)[0] == 1
    assert diff(capsys, "--check=safety_preserved")[0] == 0
    assert diff(capsys, "--pair=m-v")[0] == 0
    assert diff(capsys, "--check=no_drift", "--check=safety_preserved")[0] == 1
    # A name that is in neither report would always say that nothing changed.
    for option, hint in (("--check=no_drif", "did you mean 'no_drift'?"), ("--pair=zzz", "m-v")):
        assert main(["diff", "a.json", "b.json", option]) == 2
        assert hint in capsys.readouterr().err


def test_a_field_that_only_a_later_version_writes_is_no_change() -> None:
    assert list(differing("x", {"a": 1}, {"a": 1, "later": []})) == []
    assert list(differing("x", {"a": 1}, {"a": 1, "later": [1]})) != []
    assert list(differing("x", {"a": 1}, {"a": True})) != []
    (found,) = differing("x", [{"name": "a", "v": 1}], [{"name": "a", "v": 2}])
    assert found.place == "x.a.v"


def test_faulty_use_is_told(folder: Path, capsys: Capture) -> None:
    assert main(["diff", "a.json", "none.json"]) == 2
    assert "none.json: cannot be read" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["diff", "a.json"])
