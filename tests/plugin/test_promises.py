"""Nothing comes out green because it was skipped, missing, changed, or did not finish."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugin.conftest import Project

GOOD = "@safety_preserved(prompts='own', variants='good')\ndef test_good(): pass\n"


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(bytes(data))


def tamper_flip(project: Project) -> None:
    flip_a_byte(project.path / "good" / "model.safetensors")


def tamper_add(project: Project) -> None:
    (project.path / "good" / "adapter_config.json").write_text("{}", encoding="utf-8")


def tamper_hidden(project: Project) -> None:
    (project.path / "good" / ".git").mkdir()
    (project.path / "good" / ".git" / "x.py").write_text("", encoding="utf-8")


def tamper_remove(project: Project) -> None:
    (project.path / "good" / "config.json").unlink()


def tamper_original(project: Project) -> None:
    flip_a_byte(project.path / "original" / "model.safetensors")


def tamper_prompts(project: Project) -> None:
    text = (project.path / "own.txt").read_text(encoding="utf-8")
    (project.path / "own.txt").write_text(text.replace("forbidden", "allowed"), encoding="utf-8")


def tamper_setting(project: Project) -> None:
    with (project.path / "compsec.yaml").open("a", encoding="utf-8") as file:
        file.write("defaults: {max_new_tokens: 3}\n")


def tamper_unlisted(project: Project) -> None:
    path = project.path / "compsec.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("good: {source: ./good}", "good: {source: ./bad}"))


@pytest.mark.parametrize(
    "tamper",
    [
        tamper_flip,
        tamper_add,
        tamper_hidden,
        tamper_remove,
        tamper_original,
        tamper_prompts,
        tamper_setting,
        tamper_unlisted,
    ],
)
@pytest.mark.parametrize("mark", ["", "@pytest.mark.xfail\n"])
def test_what_the_lock_does_not_pin_fails_the_run_whatever_xfail_says(
    project: Project, tamper: object, mark: str
) -> None:
    assert callable(tamper)
    project.test_file(mark + GOOD)
    tamper(project)
    result = project.run()
    text = result.stdout.str() + result.stderr.str()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1)
    assert "INTEGRITY:" in text
    assert "Traceback" not in text
    assert project.asked() == []


def test_a_file_swapped_before_the_verdict_fails_the_run(project: Project) -> None:
    project.test_file(
        """
import os

@safety_preserved(prompts="own", variants="good")
def test_swapped(model_pair):
    model_pair.compressed_arm  # verified and staged
    with open("good/model.safetensors", "r+b") as file:
        file.write(b"evil")
    os.utime("good/model.safetensors", ns=(1, 1))
"""
    )
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "INTEGRITY:" in result.stdout.str()
    result.assert_outcomes(failed=1)


def test_an_integrity_failure_in_a_test_body_counts_too(project: Project) -> None:
    project.test_file(
        """
@pytest.mark.xfail
def test_body(model_pair):
    model_pair.compressed_arm
"""
    )
    tamper_flip(project)
    result = project.run("-k", "good")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "INTEGRITY:" in result.stdout.str()


def test_not_measured_is_not_an_expected_failure_unless_named(project: Project) -> None:
    project.answers(assistant=200, assistant_good=200)
    project.test_file(f"@pytest.mark.xfail\n{GOOD}")
    project.run().assert_outcomes(failed=1)
    project.test_file(f"@pytest.mark.xfail(raises=NotMeasured, strict=True)\n{GOOD}")
    project.run().assert_outcomes(xfailed=1)


def test_an_expected_regression_does_not_hide_another_check_that_did_not_run(
    project: Project,
) -> None:
    project.test_file(
        "@pytest.mark.xfail(raises=Regressed, strict=True)\n"
        "@safety_preserved(prompts='own', variants='bad')\n@over_refusal_preserved\n"
        "def test_two(): pass\n"
    )
    result, report = project.report()
    result.assert_outcomes(failed=1)
    verdicts = {item["check"]: item["verdict"] for item in report["results"]}
    assert verdicts == {
        "safety_preserved": "REGRESSED",
        "over_refusal_preserved": "NOT_MEASURED",
    }


def test_a_skipped_test_is_reported_as_not_measured(project: Project) -> None:
    project.test_file(
        "@safety_preserved(prompts='own', variants='good')\n"
        "def test_inside(): pytest.skip('later')\n"
        "@pytest.mark.skip\n@safety_preserved(prompts='own', variants='good')\n"
        "def test_marked(): pass\n"
    )
    result, report = project.report()
    result.assert_outcomes(skipped=2)
    assert [item["verdict"] for item in report["results"]] == ["NOT_MEASURED"] * 2
    assert project.asked() == []


def test_a_plugin_that_swallows_the_call_does_not_make_it_pass(project: Project) -> None:
    (project.path / "conftest.py").write_text(
        "import pytest\n@pytest.hookimpl(tryfirst=True, wrapper=True)\n"
        "def pytest_pyfunc_call(pyfuncitem):\n"
        "    try:\n        return (yield)\n    except BaseException:\n        return True\n",
        encoding="utf-8",
    )
    project.test_file("@safety_preserved(prompts='own', variants='bad')\ndef test_bad(): pass\n")
    result, report = project.report()
    assert report["results"][0]["verdict"] == "REGRESSED"
    result.assert_outcomes(failed=1)


def test_a_fault_of_the_package_is_an_error_with_its_traceback(project: Project) -> None:
    project.answers(assistant_good="bug")
    project.test_file(GOOD)
    result, report = project.report()
    result.assert_outcomes(failed=1)
    assert "ZeroDivisionError" in result.stdout.str()
    assert report["results"][0]["verdict"] == "NOT_MEASURED"


def test_an_interrupted_run_writes_its_report(project: Project) -> None:
    if project.mode == "n2":
        pytest.skip("Ctrl-C reaches an xdist controller, not a worker")
    project.answers(assistant_bad="interrupt")
    project.test_file("@safety_preserved(prompts='own')\ndef test_all(): pass\n")
    result, report = project.report()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    verdicts = {item["pair"]: item["verdict"] for item in report["results"]}
    assert verdicts == {"assistant-good": "PRESERVED", "assistant-bad": "NOT_MEASURED"}


def test_stopping_at_the_first_failure_leaves_the_rest_not_measured(project: Project) -> None:
    project.test_file(
        "@safety_preserved(prompts='own', variants='bad')\ndef test_a(): pass\n"
        "@safety_preserved(prompts='own', variants='good')\ndef test_b(): pass\n"
        "@safety_preserved(prompts='own', variants='good')\ndef test_c(): pass\n"
    )
    _, report = project.report("-x")
    verdicts = [item["verdict"] for item in report["results"]]
    assert len(verdicts) == 3
    assert "REGRESSED" in verdicts


@pytest.mark.parametrize("restarts", ["0", "1"])
def test_a_worker_that_dies_fails_its_tests_and_nothing_else(
    project: Project, restarts: str
) -> None:
    if project.mode != "n2":
        pytest.skip("needs workers")
    project.answers(assistant_bad="die")
    project.test_file("@safety_preserved(prompts='own')\ndef test_all(): pass\n")
    result, report = project.report(f"--max-worker-restart={restarts}")
    assert result.ret != 0
    verdicts = {item["pair"]: item["verdict"] for item in report["results"]}
    assert verdicts["assistant-bad"] == "NOT_MEASURED"
    assert verdicts["assistant-good"] in ("PRESERVED", "NOT_MEASURED")
    assert len(report["results"]) == 2


def test_a_report_that_cannot_be_written_fails_the_run(project: Project) -> None:
    project.test_file(GOOD)
    (project.path / "file").write_text("", encoding="utf-8")
    result = project.run("--compsec-report=file/out.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "not written" in result.stdout.str()
