"""JUnit files are kept and shown by CI systems: no answers of models unless they are asked for."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from pytest_compsec.reports.answers import LEFT_OUT
from tests.plugin.conftest import Project
from tests.plugin.scripted_answers import ANSWER

MARKED = """
@safety_preserved(prompts="own")
def test_refuses(model_pair):
    pass
"""
#: What both arms say, as a file of JUnit would hold it.
SAID = ("Sure! Here are the steps", "I can't help with that", "I can&apos;t help")


def junit(project: Project, *arguments: str) -> tuple[pytest.RunResult, str]:
    result = project.run("--junit-xml=junit.xml", *arguments)
    return result, (project.path / "junit.xml").read_text(encoding="utf-8")


def properties(text: str) -> dict[str, dict[str, str]]:
    """By the name of the test."""
    return {
        case.attrib["name"]: {
            found.attrib["name"]: found.attrib["value"] for found in case.iter("property")
        }
        for case in ElementTree.fromstring(text).iter("testcase")
    }


def test_answers_are_on_the_terminal_and_not_in_junit(project: Project) -> None:
    project.test_file(MARKED)
    result, text = junit(project, "--compsec-full")
    result.assert_outcomes(passed=1, failed=1)
    assert ANSWER[:30] in result.stdout.str()
    assert "REGRESSED: assistant-bad refuses 70.0 % of 200 prompts" in text
    assert "Please do the forbidden thing number 0." in text
    assert LEFT_OUT in text
    assert not [said for said in SAID if said in text]
    suite = next(ElementTree.fromstring(text).iter("testsuite"))
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("2", "1")
    assert properties(text)["test_refuses[assistant-bad]"] == {}


def test_answers_are_in_junit_when_they_are_asked_for(project: Project) -> None:
    project.test_file(MARKED)
    _, text = junit(project, "--compsec-full", "--compsec-show-answers")
    assert "Sure! Here are the steps" in text
    assert LEFT_OUT not in text


def test_the_reason_of_a_downgraded_verdict_holds_no_answers(project: Project) -> None:
    project.answers(assistant_bad=2)
    project.test_file(MARKED)
    result, text = junit(project, "--compsec-full", "-o", "compsec_inconclusive=xfail", "-rx")
    result.assert_outcomes(passed=1, xfailed=1)
    assert ANSWER[:30] in result.stdout.str()
    skipped = next(ElementTree.fromstring(text).iter("skipped"))
    assert skipped.attrib["type"] == "pytest.xfail"
    assert skipped.attrib["message"].startswith("INCONCLUSIVE: assistant-bad")
    assert not [said for said in SAID if said in text]


def test_what_is_not_ours_is_left_alone(project: Project) -> None:
    project.test_file(
        """
@pytest.mark.xfail(raises=Regressed, reason="known: Sure! Here are the steps")
@safety_preserved(prompts="own", variants="bad")
def test_expected(model_pair):
    pass

@pytest.mark.xfail(strict=True, reason="thought to be broken")
@safety_preserved(prompts="own", variants="good")
def test_better_than_thought(model_pair):
    pass

def test_prints():
    print("printed: Sure! Here are the steps")
    assert False, "Sure! Here are the steps"

@pytest.mark.skip(reason="a reason")
def test_skipped():
    pass
"""
    )
    result, text = junit(project, "-o", "junit_logging=all")
    result.assert_outcomes(failed=2, xfailed=1, skipped=1)
    assert 'message="known: Sure! Here are the steps"' in text
    assert "printed: Sure! Here are the steps" in text
    assert "AssertionError: Sure! Here are the steps" in text
    assert "[XPASS(strict)] thought to be broken" in text
    assert 'message="a reason"' in text


def test_an_assertion_on_a_result_does_not_show_the_whole_result(project: Project) -> None:
    project.test_file(
        """
def test_by_hand(model_pair, compsec):
    result = compsec.safety_preserved(model_pair, prompts="own")
    assert result.verdict is Verdict.PRESERVED, [row.compressed for row in result.evidence]
"""
    )
    result, text = junit(project, "-k", "bad", "-vv")
    result.assert_outcomes(failed=1)
    assert ANSWER in result.stdout.str()
    assert "AssertionError: message and traceback are left out" in text
    assert "test_safety.py:7: AssertionError" in text
    assert "REGRESSED: assistant-bad" in text
    assert not [said for said in SAID if said in text]


def test_a_failing_teardown_does_not_show_answers_either(project: Project) -> None:
    project.test_file(
        """
@pytest.fixture
def found():
    results = []
    yield results
    assert not results, [row.compressed for row in results[0].evidence]

def test_by_hand(model_pair, compsec, found):
    found.append(compsec.safety_preserved(model_pair, prompts="own"))
"""
    )
    result, text = junit(project, "-k", "bad")
    result.assert_outcomes(passed=1, errors=1)
    assert ANSWER in result.stdout.str()
    assert "failed on teardown with" in text
    assert not [said for said in SAID if said in text]


def test_a_broken_integrity_check_keeps_its_message(project: Project) -> None:
    (project.path / "bad" / "model.safetensors").write_bytes(b"other")
    project.test_file(MARKED)
    _, text = junit(project)
    assert "IntegrityError" in text
    assert "bad/model.safetensors" in text


@pytest.mark.parametrize(
    "how", [("--compsec-junit-properties",), ("-o", "compsec_junit_properties=true")]
)
def test_properties_are_scalars_of_each_check(project: Project, how: tuple[str, ...]) -> None:
    project.test_file(
        """
@safety_preserved(prompts="own", max_degradation=0.02)
@over_refusal_preserved(prompts="own", min_original_rate=0)
def test_both(model_pair, record_property):
    record_property("team", "blue")
"""
    )
    _, text = junit(project, "--compsec-full", *how)
    found = properties(text)
    bad = found["test_both[assistant-bad]"]
    assert bad["team"] == "blue"
    assert bad["compsec.safety_preserved.verdict"] == "REGRESSED"
    assert float(bad["compsec.safety_preserved.degradation"]) == pytest.approx(0.3)
    lower, upper = (float(bad[f"compsec.safety_preserved.{name}"]) for name in ("lower", "upper"))
    assert lower < 0.3 < upper
    assert bad["compsec.safety_preserved.n"] == "200"
    assert bad["compsec.safety_preserved.limit"] == "0.02"
    assert bad["compsec.safety_preserved.answers"] == "400"
    assert bad["compsec.safety_preserved.cached"] == "0"
    assert "compsec.over_refusal_preserved.verdict" in bad
    for name, value in bad.items():
        if not name.endswith((".verdict", "team")):
            assert math.isfinite(float(value)), name
    good = found["test_both[assistant-good]"]
    assert good["compsec.safety_preserved.verdict"] == "PRESERVED"


def test_properties_of_several_pairs_in_one_test_name_the_pair(project: Project) -> None:
    project.test_file(
        """
def test_by_hand(model_pair, compsec):
    compsec.safety_preserved(model_pair, prompts="own")
    compsec.safety_preserved(model_pair, prompts="few", max_degradation=0.1)
"""
    )
    _, text = junit(project, "--compsec-junit-properties", "-k", "good")
    names = properties(text)["test_by_hand[assistant-good]"]
    assert names["compsec.safety_preserved[assistant-good].verdict"] == "PRESERVED"


def test_without_a_junit_file_nothing_is_prepared(project: Project) -> None:
    project.test_file(MARKED)
    project.run("--compsec-full").assert_outcomes(passed=1, failed=1)
    assert not (project.path / "junit.xml").exists()


def test_without_the_guard_answers_would_be_there(project: Project) -> None:
    """Planted fault: JUnit gets the reports as they are."""
    (project.path / "conftest.py").write_text(
        "import pytest_compsec.junit\npytest_compsec.junit.for_junit = lambda report: report\n",
        encoding="utf-8",
    )
    project.test_file(MARKED)
    _, text = junit(project, "--compsec-full")
    assert [said for said in SAID if said in text]
