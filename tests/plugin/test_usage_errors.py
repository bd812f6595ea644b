"""What is wrong with a test is said at collection, before any model is opened, with exit code 4."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Project

CASES = {
    "typo": (
        "@safety_preserved(max_degredation=0.02)\ndef test_x(): pass",
        "has no argument 'max_degredation'; did you mean 'max_degradation'?",
    ),
    "positional": (
        "@safety_preserved(0.02)\ndef test_x(): pass",
        "takes keyword arguments only",
    ),
    "percent": (
        "@safety_preserved(max_degradation=2)\ndef test_x(): pass",
        "a share, not per cent: write max_degradation=0.02",
    ),
    "confidence": (
        "@safety_preserved(confidence=0.4)\ndef test_x(): pass",
        "confidence=0.4 must be greater than 0.5",
    ),
    "unknown variant": (
        "@safety_preserved(variants='godo')\ndef test_x(): pass",
        "variants='godo' is not in",
    ),
    "unknown prompts": (
        "@safety_preserved(prompts='fwe')\ndef test_x(): pass",
        "no prompt set 'fwe'; did you mean 'few'?",
    ),
    "too few prompts": (
        "@safety_preserved(max_degradation=0.02, prompts='few')\ndef test_x(): pass",
        "100 prompts in 'few' are too few to show max_degradation=0.02 at confidence 0.95: "
        "at least 149 are needed",
    ),
    "contradiction": (
        "@safety_preserved(variants='good')\n@over_refusal_preserved(variants='bad')\n"
        "def test_x(): pass",
        "select no pair in common",
    ),
    "twice": (
        "@safety_preserved(max_degradation=0.02)\n@safety_preserved(max_degradation=0.03)\n"
        "def test_x(): pass",
        "stands twice",
    ),
    "unittest": (
        "import unittest\nclass TestOld(unittest.TestCase):\n"
        "    @safety_preserved\n    def test_x(self): pass",
        "do not work on unittest.TestCase",
    ),
    "mark in a parameter": (
        "@pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.safety_preserved)])\n"
        "def test_x(x): pass",
        "inside pytest.param",
    ),
}


@pytest.mark.parametrize("case", list(CASES))
def test_a_usage_error_names_the_test_and_opens_no_model(project: Project, case: str) -> None:
    source, message = CASES[case]
    project.test_file(source)
    result = project.run()
    text = result.stderr.str() + result.stdout.str()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in text
    assert "test_safety.py" in text
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text
    # One mistake, one message: not also that the test has no pair.
    assert ("inside pytest.param" in text) == (case == "mark in a parameter")
    assert project.asked() == []


def test_all_problems_are_listed_at_once(project: Project) -> None:
    project.test_file(
        "@safety_preserved(max_degredation=0.02)\ndef test_a(): pass\n"
        "@safety_preserved(variants='nope')\ndef test_b(): pass\n"
    )
    result = project.run()
    text = result.stderr.str() + result.stdout.str()
    assert "test_a" in text
    assert "test_b" in text
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_without_a_config_or_a_lock(project: Project) -> None:
    project.test_file("@safety_preserved\ndef test_x(): pass")
    (project.path / "compsec.lock").unlink()
    result = project.run()
    text = result.stderr.str() + result.stdout.str()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "compsec pin" in text
    assert "pytest.param" not in text
    (project.path / "compsec.yaml").unlink()
    result = project.run()
    text = result.stderr.str() + result.stdout.str()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "compsec init" in text
    assert "pytest.param" not in text


def test_another_lock_than_the_one_asked_for(project: Project) -> None:
    project.test_file("@safety_preserved(prompts='own', variants='good')\ndef test_x(): pass")
    result = project.run(f"--compsec-lock-digest={'0' * 64}")
    text = result.stderr.str() + result.stdout.str()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "0" * 64 in text
    assert project.asked() == []


def test_a_config_error_is_shown_with_file_and_line(project: Project) -> None:
    project.test_file("@safety_preserved\ndef test_x(): pass")
    text = (project.path / "compsec.yaml").read_text(encoding="utf-8")
    (project.path / "compsec.yaml").write_text(text.replace("original:", "orignal:"))
    result = project.run()
    output = result.stderr.str() + result.stdout.str()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "compsec.yaml:4:" in output


@pytest.mark.parametrize(
    "arguments",
    [
        ("--compsec-report=out.pdf",),
        ("--compsec-lock-digest=abc",),
        ("-o", "compsec_inconclusive=maybe"),
        ("-o", "compsec_staging=magic"),
        ("-o", "compsec_report_lines=²"),
        ("--compsec-sign-sigstore",),
    ],
)
def test_bad_options(project: Project, arguments: tuple[str, ...]) -> None:
    project.test_file("@safety_preserved(prompts='own')\ndef test_x(): pass")
    result = project.run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "INTERNALERROR" not in result.stderr.str() + result.stdout.str()
