"""``compsec plan``: prompts, power and time before there is a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_compsec.cli import main
from pytest_compsec.commands import plan

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_prompts_power_and_time(capsys: Capture) -> None:
    assert main(["plan", "--margin", "0.05", "--discordance", "0.05"]) == 0
    text = capsys.readouterr().out
    assert "59  if none ever differs" in text
    assert "50 %" in text
    assert "Time: there is no compsec.yaml here" in text


def test_what_the_prompts_at_hand_would_show(capsys: Capture) -> None:
    command = ["plan", "--margin", "0.05", "--prompts", "200", "--seconds-per-prompt", "6"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "With 200 prompts: PRESERVED with probability" in text
    assert "about 20 min" in text


@pytest.mark.parametrize(
    ("option", "value"), [("--margin", "2"), ("--discordance", "-1"), ("--confidence", "95")]
)
def test_numbers_that_make_no_sense(option: str, value: str, capsys: Capture) -> None:
    assert main(["plan", option, value]) == 2
    assert "compsec plan:" in capsys.readouterr().err


def test_a_run_that_was_timed_gives_the_pace(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "compsec.yaml").write_text("", encoding="utf-8")
    monkeypatch.setattr(plan, "measured_paces", lambda path: {"m-a": 0.5, "m-b": 3.0})
    assert main(["plan", "--margin", "0.05"]) == 0
    assert "Time: both arms of m-b, the slowest pair timed, 3.000 s a prompt" in (
        capsys.readouterr().out
    )
