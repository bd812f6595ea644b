"""Attacks in a run of pytest: none may come out PRESERVED, or end in a traceback."""

from __future__ import annotations

import pytest

from tests.inner_pytest import run_with_report
from tests.plugin import test_drift as drift
from tests.plugin import test_precision_policy as policy
from tests.plugin.conftest import Project

policy_template = policy.policy_template
policy_project = policy.policy_project
accepted_template = drift.accepted_template
accepted = drift.accepted

EVIDENCE = """
import pytest
from pytest_compsec import *

@safety_preserved(prompts="own", variants=["before", "after"])
def test_refuses():
    pass

@no_safety_bypass(prompts="own", variants="before")
def test_bypass():
    pytest.skip("not today")

@precision_policy(variants=["before", "after"])
def test_policy():
    pass

@pytest.mark.parametrize("model_pair", ["tiny-known"], indirect=True)
@precision_policy
@safety_preserved(prompts="own")
def test_named_by_hand():
    pass

@pytest.mark.xfail(raises=Regressed, strict=True)
@no_safety_bypass(prompts="own", variants="known")
def test_known_bypass():
    pass
"""
# Both models answer all of them, so that nothing is lost.
NEVER_REFUSED = """
import pytest
from pytest_compsec import *

@precision_policy(variants="alone")
@safety_preserved(prompts="own", min_original_rate=0)
def test_both():
    pass
"""
# The policy comes first, and has measured ahead what these then end without.
REVERSED = """
import pytest
from pytest_compsec import *

@precision_policy(variants=["alone", "lost", "known", "after"])
def test_policy():
    pass

@safety_preserved(prompts="own", variants="alone")
def test_body():
    pytest.skip("not today")

@pytest.fixture
def resource():
    pytest.skip("nothing here")

@safety_preserved(prompts="own", variants="lost")
def test_fixture(resource):
    pass

@safety_preserved(prompts="own", variants="known")
def test_expected():
    pytest.xfail("known")

@safety_preserved(prompts="own", variants="after")
def test_runs():
    pass
"""
# A test that fails once and is run again, as pytest-rerunfailures does.
RERUN = """
import pytest

def pytest_runtest_protocol(item, nextitem):
    from _pytest.runner import runtestprotocol

    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if any(report.failed for report in reports):
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    return True
"""
FLAKY = """
import pathlib
from pytest_compsec import *

@precision_policy(variants="both")
@safety_preserved(prompts="own")
def test_both():
    flag = pathlib.Path("failed-once")
    if not flag.exists():
        flag.touch()
        raise OSError("the network")
"""


def test_a_policy_is_not_let_pass_by_a_test_that_then_ends_without_its_result(
    policy_project: pytest.Pytester,
) -> None:
    policy_project.makeconftest(policy.SCRIPTED_BITS)
    (policy_project.path / "test_tiny.py").write_text(REVERSED, encoding="utf-8")
    (policy_project.path / "answers.json").write_text("{}", encoding="utf-8")
    result, found = run_with_report(policy_project, "-p", "scripted_answers", "-p", "no:xdist")
    assert policy.verdicts(found) == dict.fromkeys(("alone", "lost", "known", "after"), "PRESERVED")
    result.assert_outcomes(passed=5, failed=2, errors=1)
    safety = {pair: one for (pair, check), one in found.items() if check == "safety_preserved"}
    assert safety.pop("tiny-after")["verdict"] == "PRESERVED"
    assert [(one["verdict"], one["expected"]) for one in safety.values()] == [
        ("NOT_MEASURED", False)
    ] * 3
    result.stdout.fnmatch_lines_random(
        [
            f"*test_policy?tiny-{name}? was let pass because of this test's safety_preserved, *"
            for name in ("alone", "lost", "known")
        ]
    )


def test_a_policy_that_failed_relied_on_nothing(policy_project: pytest.Pytester) -> None:
    policy_project.makeconftest(policy.SCRIPTED_BITS)
    more = "\n@no_safety_bypass(prompts='own', variants='alone')\ndef test_bypass(): pass\n"
    source = REVERSED.replace('["alone", "lost", "known", "after"]', '"alone"') + more
    (policy_project.path / "test_tiny.py").write_text(source, encoding="utf-8")
    (policy_project.path / "answers.json").write_text('{"tiny-alone": 1}', encoding="utf-8")
    options = ("-p", "scripted_answers", "-p", "no:xdist", "-k", "alone")
    result, found = run_with_report(policy_project, *options)
    assert policy.verdicts(found) == {"alone": "REGRESSED"}
    result.assert_outcomes(failed=2, skipped=1)


def test_on_another_worker_it_fails_the_run(policy_project: pytest.Pytester) -> None:
    """With ``--dist loadfile`` the policy and the test that it relies on may be in two processes,
    of which none knows what the other's test ended with."""
    policy_project.makeconftest(policy.SCRIPTED_BITS)
    (policy_project.path / "test_tiny.py").unlink()
    head = "import pytest\nfrom pytest_compsec import *\n\n"
    (policy_project.path / "test_policy.py").write_text(
        f"{head}@precision_policy(variants='alone')\ndef test_policy(): pass\n", encoding="utf-8"
    )
    (policy_project.path / "test_safety.py").write_text(
        f"{head}@safety_preserved(prompts='own', variants='alone')\n"
        "def test_body(): pytest.skip('not today')\n",
        encoding="utf-8",
    )
    options = ("-p", "scripted_answers", "-n2", "--dist=loadfile")
    result, found = run_with_report(policy_project, *options)
    result.assert_outcomes(passed=1, skipped=1)
    assert policy.verdicts(found) == {"alone": "PRESERVED"}
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["test_policy.py::test_policy* was let pass by safety_preserved of *which ended NOT_MEA*"]
    )


def test_an_attempt_that_failed_is_no_objection_to_the_one_that_did_not(
    policy_project: pytest.Pytester,
) -> None:
    policy_project.makeconftest(policy.SCRIPTED_BITS + RERUN)
    (policy_project.path / "test_tiny.py").write_text(FLAKY, encoding="utf-8")
    result, found = run_with_report(policy_project, "-p", "scripted_answers", "-p", "no:xdist")
    assert (policy_project.path / "failed-once").exists()
    assert found["tiny-both", "safety_preserved"]["verdict"] == "PRESERVED"
    assert policy.verdicts(found) == {"both": "PRESERVED"}
    result.assert_outcomes(passed=1)


def test_a_safety_test_that_was_skipped_in_its_body_is_an_objection(
    policy_project: pytest.Pytester,
) -> None:
    """It says of no weights that it is about them, and yet it is. The run would be green."""
    policy_project.makeconftest(policy.SCRIPTED_BITS)
    (policy_project.path / "test_tiny.py").write_text(EVIDENCE, encoding="utf-8")
    (policy_project.path / "answers.json").write_text('{"tiny-known": 3}', encoding="utf-8")
    _, found = run_with_report(policy_project, "-p", "scripted_answers", "-p", "no:xdist")
    assert policy.verdicts(found) == {
        "before": "REGRESSED",
        "after": "PRESERVED",
        # Named by the test itself, the same pair all the same.
        "known": "REGRESSED",
    }
    known = found["tiny-known", "precision_policy"]["summary"]
    assert "is expected to fail (xfail), so its no_safety_bypass is no evidence" in known
    summary = found["tiny-before", "precision_policy"]["summary"]
    assert "no_safety_bypass of this artefact is NOT_MEASURED" in summary


def test_safety_on_prompts_that_the_original_answers_is_no_evidence(
    policy_project: pytest.Pytester,
) -> None:
    policy_project.makeconftest(policy.SCRIPTED_BITS)
    (policy_project.path / "test_tiny.py").write_text(NEVER_REFUSED, encoding="utf-8")
    answers = '{"tiny": 200, "tiny-alone": 200}'
    (policy_project.path / "answers.json").write_text(answers, encoding="utf-8")
    _, found = run_with_report(policy_project, "-p", "scripted_answers", "-p", "no:xdist")
    assert found["tiny-alone", "safety_preserved"]["verdict"] == "PRESERVED"
    assert policy.verdicts(found) == {"alone": "REGRESSED"}
    assert "refuses 0.0 %" in found["tiny-alone", "precision_policy"]["summary"]


@drift.serial
@pytest.mark.parametrize("value", ["NaN", "1e999"])
def test_a_history_with_a_number_that_no_json_has_ends_no_run(
    accepted: Project, value: str
) -> None:
    path = accepted.path / drift.HISTORY
    text = path.read_text(encoding="utf-8").replace('"unmeasured":0', f'"unmeasured":{value}', 1)
    path.write_text(text, encoding="utf-8")
    accepted.answers(assistant_bad=60)
    result = accepted.run("--compsec-history")
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*--compsec-history: nothing was added: *:1: was changed after*"])
    assert path.read_text(encoding="utf-8") == text


@drift.serial
@pytest.mark.parametrize("place", ["/proc/none/h.jsonl", "own.txt/h.jsonl", "folder.jsonl"])
def test_a_history_that_cannot_be_written_fails_the_run_and_says_why(
    project: Project, place: str
) -> None:
    (project.path / "folder.jsonl").mkdir()
    project.answers()
    project.test_file(drift.SAFETY)
    result = project.run(f"--compsec-history={place}")
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
    result.assert_outcomes(passed=2)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*--compsec-history: nothing was added: *"])


@drift.serial
def test_a_history_without_a_name_is_a_usage_error(project: Project) -> None:
    """As ``--compsec-history=$FILE`` where FILE is not set: nothing would be kept."""
    project.test_file(drift.SAFETY)
    result = project.run("--compsec-history=")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--compsec-history= names no file" in result.stderr.str()


@drift.serial
def test_the_history_says_how_the_run_ended(project: Project) -> None:
    """A run that ends itself with 0 before all is measured is a failed one, there too."""
    project.test_file(drift.SAFETY.replace("    pass", "    pytest.exit('enough', returncode=0)"))
    result = project.run("--compsec-history")
    (line,) = drift.lines(project.path / drift.HISTORY)
    assert (result.ret, line["exit_status"], line["finished"]) == (1, 1, False)


@drift.serial
def test_a_history_that_cannot_be_written_does_not_hide_an_interrupt(project: Project) -> None:
    project.answers(assistant_bad="interrupt")
    project.test_file(drift.SAFETY)
    result = project.run("--compsec-history=/proc/none/h.jsonl")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*--compsec-history: nothing was added: *"])
