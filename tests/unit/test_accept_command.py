"""``compsec accept`` as a user types it: what it writes, what it says, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.checks.drift.baseline import read_baseline
from pytest_compsec.cli import main
from pytest_compsec.reports.history import append_record, run_record
from pytest_compsec.reports.history_reading import read_history
from pytest_compsec.verdict import Evidence, Verdict
from tests.unit.test_verdict import result

Capture = pytest.CaptureFixture[str]
HISTORY = "compsec-history.jsonl"
BASELINE = "compsec-baseline.json"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "compsec.yaml").write_text("version: 1\n", encoding="utf-8")
    return tmp_path


def run(
    name: str,
    *outcomes: bool | None,
    pair: str = "m-v",
    check: str = "safety_preserved",
    exit_status: int = 0,
    **provenance: Any,
) -> None:
    """Append a run with these outcomes of the compressed model."""
    rows = tuple(
        Evidence(f"p{place}", "c", "prompt", "text", "text", True, safe)
        for place, safe in enumerate(outcomes)
    )
    made_with: dict[str, Any] = {
        "lock_digest": "f" * 64,
        "original": {"name": "m", "weights_digest": "0" * 64},
        "compressed": {"name": pair, "weights_digest": "1" * 64},
        "prompts": {"name": "harmful", "version": "1", "digest": "d", "count": len(rows)},
        "judge": {"name": "refusal", "version": "3", "digest": "j" * 8},
        "libraries": {"transformers": "5.22"},
    }
    made = result(
        check=check,
        pair=pair,
        evidence=rows,
        verdict=Verdict.PRESERVED,
        provenance={**made_with, **provenance},
    )
    append_record(
        Path(HISTORY),
        run_record(
            [made],
            [],
            run=name,
            created="2026-01-01T00:00:00+00:00",
            version="1",
            config="compsec.yaml",
            exit_status=exit_status,
            pins={},
            lock_digest=None,
        ),
    )


def accepted(capsys: Capture, *arguments: str) -> str:
    assert main(["accept", *arguments]) == 0
    return capsys.readouterr().out


def refused(capsys: Capture, *arguments: str, code: int = 2) -> str:
    before = Path(HISTORY).read_bytes() if Path(HISTORY).exists() else b""
    assert main(["accept", *arguments]) == code
    assert not Path(BASELINE).exists()
    assert before == (Path(HISTORY).read_bytes() if Path(HISTORY).exists() else b"")
    return capsys.readouterr().err


def test_the_last_run_becomes_the_baseline_and_the_next_steps_are_told(capsys: Capture) -> None:
    run("first", False)
    run("second", True, True, False)
    out = accepted(capsys)
    assert "Accepted run second" in out
    assert "m-v, safety_preserved on harmful: 66.7 % of 3 prompts safe (new)" in out
    assert "data:\n  baseline: {file: ./compsec-baseline.json}" in out
    assert "compsec pin" in out
    baseline = read_baseline(Path(BASELINE).read_text(encoding="utf-8"), BASELINE)
    (entry,) = baseline.entries
    assert entry.compressed == {"p0": True, "p1": True, "p2": False}
    assert entry.provenance["compressed"]["weights_digest"] == "1" * 64
    assert "text" not in Path(BASELINE).read_text(encoding="utf-8")
    _, second, note = read_history(Path(HISTORY)).lines
    assert baseline.line == second.sha256
    assert (note.record["kind"], note.run, note.record["former"]) == ("accepted", "second", None)


def test_what_changed_against_the_former_baseline_is_printed(capsys: Capture) -> None:
    run("first", True, True, True, False)
    accepted(capsys)
    run("second", True, False, False, True, libraries={"transformers": "5.23"})
    out = accepted(capsys)
    assert "50.0 % of 4 prompts safe, 75.0 % before" in out
    assert "2 prompts no longer safe: p1, p2" in out
    assert "1 prompts now safe: p3" in out
    assert "same model, other environment: transformers 5.22 -> 5.23" in out
    assert read_history(Path(HISTORY)).lines[-1].record["former"] == "first"


def test_another_model_other_prompts_and_a_pair_that_is_gone_are_told(capsys: Capture) -> None:
    run("first", True, True)
    accepted(capsys)
    run("second", True, True, compressed={"name": "m-v", "weights_digest": "2" * 64})
    assert "the model changed (digest 11111111 -> 22222222)" in accepted(capsys)
    prompts = {"name": "harmful", "version": "2", "digest": "e", "count": 2}
    run("third", True, True, prompts=prompts)
    assert "(other prompts than before: not compared)" in accepted(capsys)
    judge = {"name": "refusal", "version": "4", "digest": "k" * 8}
    run("fourth", True, True, prompts=prompts, judge=judge)
    assert "another judge than before, jjjjjjjj -> kkkkkkkk" in accepted(capsys)
    run("fifth", True, pair="m-w")
    assert "m-v, safety_preserved on harmful: no longer in the baseline" in accepted(capsys)


def test_a_run_can_be_named_by_how_it_begins(capsys: Capture) -> None:
    for name in ("aa1", "aa2", "b"):
        run(name, True)
    assert "2 runs begin with 'aa'" in refused(capsys, "aa")
    assert "there is no run 'x'" in refused(capsys, "x")
    assert "Accepted run aa2" in accepted(capsys, "aa2")


def test_a_run_that_did_not_finish_must_be_named(capsys: Capture) -> None:
    run("whole", True)
    run("broken", True, exit_status=2)
    error = refused(capsys)
    assert "compsec-history.jsonl:2: the last run, broken, did not finish" in error
    assert "`compsec accept whole`" in error
    out = accepted(capsys, "broken")
    assert "warning: the run did not finish" in out


def test_whoever_accepts_a_bad_run_is_told(capsys: Capture) -> None:
    run("run", True, None)
    out = accepted(capsys)
    assert "1 prompts could not be judged; no_drift will say NOT_MEASURED" in out


def test_a_run_without_comparable_outcomes_is_refused(capsys: Capture) -> None:
    run("run", True, check="layers_within")
    assert "holds no outcomes of prompts that could be compared" in refused(capsys)


def test_a_history_that_was_changed_is_refused_with_its_line(capsys: Capture) -> None:
    run("first", False)
    text = Path(HISTORY).read_text(encoding="utf-8")
    Path(HISTORY).write_text(text.replace('"p0":false', '"p0":true'), encoding="utf-8")
    assert "compsec-history.jsonl:1: was changed" in refused(capsys, code=1)


def test_without_a_history_the_option_is_named(capsys: Capture) -> None:
    error = refused(capsys)
    assert "there is no history. First run `pytest --compsec-history`" in error


def test_the_runs_are_listed_and_nothing_is_accepted(capsys: Capture) -> None:
    run("first", True)
    run("second", True, exit_status=2)
    accepted(capsys, "first")
    before = Path(BASELINE).read_bytes(), Path(HISTORY).read_bytes()
    first, second = accepted(capsys, "--list").splitlines()
    assert first.endswith("1 PRESERVED  <- accepted")
    assert second.endswith("1 PRESERVED  did not finish")
    assert before == (Path(BASELINE).read_bytes(), Path(HISTORY).read_bytes())


def test_the_file_that_the_config_names_is_written(project: Path, capsys: Capture) -> None:
    (project / "model").mkdir()
    (project / "sub").mkdir()
    (project / "sub" / "mine.json").write_text("[]", encoding="utf-8")
    (project / "compsec.yaml").write_text(
        "version: 1\nmodels:\n  m:\n    original: {source: ./model}\n    compressed:\n"
        "      v: {prune: {method: magnitude, sparsity: 0.5}}\n"
        "data:\n  baseline: {file: ./sub/mine.json}\n",
        encoding="utf-8",
    )
    run("run", True)
    out = accepted(capsys)
    assert "The former baseline cannot be read and is replaced" in out
    assert "review it, run `compsec pin`, and commit it with the lock" in out
    data = json.loads((project / "sub" / "mine.json").read_text(encoding="utf-8"))
    assert data["run"] == "run"
    assert not (project / BASELINE).exists()


def test_two_tests_of_one_pair_give_the_one_that_asked_more(capsys: Capture) -> None:
    """A run holds each comparison once."""
    rows = tuple(Evidence(f"p{i}", "c", "p", "t", "t", True, True) for i in range(5))
    provenance = {
        "original": {"name": "m"},
        "compressed": {"name": "m-v"},
        "prompts": {"name": "harmful", "version": "1", "digest": "d", "count": 5},
        "judge": {"name": "refusal", "version": "3", "digest": "j"},
    }
    few, all_ = (result(evidence=rows[:n], provenance=provenance) for n in (2, 5))
    append_record(
        Path(HISTORY),
        run_record(
            [few, all_, few],
            [],
            run="run",
            created="",
            version="1",
            config="compsec.yaml",
            exit_status=1,
            pins={},
            lock_digest=None,
        ),
    )
    out = accepted(capsys)
    assert "100.0 % of 5 prompts safe (new)" in out
    assert "warning: m-v, safety_preserved: REGRESSED" in out


@pytest.mark.parametrize("fault", ["modles: {}\n", "defaults: {max_new_tokens: none}\n"])
def test_a_fault_elsewhere_in_the_config_sends_the_baseline_nowhere_else(
    project: Path, capsys: Capture, fault: str
) -> None:
    text = f"version: 1\n{fault}data:\n  baseline: {{file: ./mine.json}}\n"
    (project / "compsec.yaml").write_text(text, encoding="utf-8")
    run("run", True)
    accepted(capsys)
    assert (project / "mine.json").exists()
    assert not (project / BASELINE).exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1\ndata:\n  baseline: mine.json\n", "compsec.yaml:3: data.baseline must name a"),
        ("version: 1\ndata:\n  baseline: {file: 3}\n", "compsec.yaml:3: data.baseline must name a"),
        ("version: 1\ndata: [baseline]\n", "data.baseline must name a file"),
        ("version: 1\ndata: {baseline: {file: a.json}\n", "compsec.yaml:"),
    ],
)
def test_a_config_that_does_not_tell_where_is_refused(
    project: Path, capsys: Capture, text: str, message: str
) -> None:
    run("run", True)
    (project / "compsec.yaml").write_text(text, encoding="utf-8")
    assert message in refused(capsys)


@pytest.mark.parametrize("former", [True, False])
def test_a_run_that_the_history_cannot_note_is_not_accepted(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, former: bool
) -> None:
    from pytest_compsec.reports import history

    run("first", True)
    if former:
        accepted(capsys)
    before = Path(BASELINE).read_bytes() if former else None
    run("second", False)

    def full(path: Path, data: bytes, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(history, "_append", full)
    assert main(["accept"]) == 2
    assert "cannot be written (No space left on device)" in capsys.readouterr().err
    assert (Path(BASELINE).read_bytes() if former else None) == before
    assert Path(BASELINE).exists() is former
