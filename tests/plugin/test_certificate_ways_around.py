"""Ways around a red test that must not end in a certificate that says PASSED."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from tests.plugin.test_certificate import SIGNED, exported, objections, run, statement, suite

__all__ = ["exported", "suite"]

RED = """
from pytest_compsec import *

@safety_preserved(prompts="own", variants="half-files")
def test_red():
    assert False
"""
#: Of another artefact: its failure is its own, and explains the exit status.
OTHER = """
from pytest_compsec import *

@safety_preserved(prompts="own", variants="half")
def test_other():
    assert False
"""
BROKEN = (
    RED
    + """
import nothing_of_this_name
"""
)
BY_HAND = """
import contextlib
import pytest
from pytest_compsec import *
from pytest_compsec.errors import IntegrityError

@pytest.fixture
def looked(compsec, model_pair):
    compsec.edge_cases_preserved(model_pair, prompts="own")

@pytest.fixture
def looks_later(compsec, model_pair):
    yield
    compsec.edge_cases_preserved(model_pair, prompts="own")

@safety_preserved(prompts="own", variants="half-files")
def test_marked(model_pair, FIXTURE):
    pass
"""
SWALLOWED = """
import contextlib
from pytest_compsec import *
from pytest_compsec.errors import IntegrityError

@safety_preserved(prompts="own", variants="half-files")
def test_marked(model_pair, compsec, monkeypatch):
    def changed(*arguments, **more):
        raise IntegrityError("weights: is not what the lock pins")
    monkeypatch.setattr(type(model_pair), "provenance", changed)
    with contextlib.suppress(IntegrityError):
        compsec.over_refusal_preserved(model_pair, prompts="own")
    monkeypatch.undo()
"""
#: As plugins do that run a failed test again: some show its first reports, some do not.
AGAIN = """
import pytest
from _pytest.runner import runtestprotocol

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    if any(one.failed for one in runtestprotocol(item, nextitem=nextitem, log=False)):
        item._initrequest()
        for report in runtestprotocol(item, nextitem=nextitem, log=False):
            item.ihook.pytest_runtest_logreport(report=report)
        return True
    return None
"""
SECOND_TIME_GREEN = """
from pytest_compsec import *

TIMES = []

@safety_preserved(prompts="own", variants="half-files")
def test_refuses():
    TIMES.append(1)
    assert len(TIMES) > 1
"""


def write(suite: pytest.Pytester, name: str, text: str) -> Path:
    path = suite.path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("way", ["PYTEST_ADDOPTS", "addopts", "@file", "--pyargs", "-o"])
def test_a_choice_of_files_that_the_command_line_does_not_show(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    write(suite, "test_red.py", RED)
    arguments: tuple[str, ...] = ()
    if way == "PYTEST_ADDOPTS":
        monkeypatch.setenv(way, "test_tiny.py")
    elif way == "addopts":
        ini = suite.path / "pytest.ini"
        ini.write_text(ini.read_text("utf-8").replace("markers", "markers test_tiny.py"), "utf-8")
    elif way == "@file":
        write(suite, "choice.txt", "test_tiny.py")
        arguments = ("@choice.txt",)
    elif way == "--pyargs":
        arguments = ("--pyargs", "test_tiny")
    else:
        arguments = ("-o", "python_files=test_t*")
    run(suite, *SIGNED, *arguments).assert_outcomes(passed=2)
    assert statement(suite)["predicate"]["result"] == "FAILED"
    assert any("tests may have been left out (" in text for text in objections(suite))


def test_a_file_that_cannot_be_read_beside_a_failure_that_is_explained(
    suite: pytest.Pytester,
) -> None:
    write(suite, "test_broken.py", BROKEN)
    write(suite, "test_other.py", OTHER)
    result = run(suite, *SIGNED, "--continue-on-collection-errors")
    result.assert_outcomes(passed=2, failed=1, errors=1)
    assert statement(suite)["predicate"]["result"] == "FAILED"
    assert "tests may have been left out (test_broken.py could not be collected)" in (
        objections(suite)
    )


@pytest.mark.parametrize("fixture", ["looked", "looks_later"])
def test_what_a_fixture_checks_by_hand_counts(suite: pytest.Pytester, fixture: str) -> None:
    write(suite, "test_hand.py", BY_HAND.replace("FIXTURE", fixture))
    run(suite, *SIGNED, "--compsec-report=out.json").assert_outcomes(passed=3)
    results = json.loads((suite.path / "out.json").read_text("utf-8"))["results"]
    assert [one["verdict"] for one in results if one["check"] == "edge_cases_preserved"] == [
        "NOT_MEASURED"
    ]
    assert statement(suite)["predicate"]["result"] == "FAILED"
    assert any("edge_cases_preserved: is NOT_MEASURED" in text for text in objections(suite))


def test_an_integrity_failure_that_a_test_swallows_is_none_the_less(
    suite: pytest.Pytester,
) -> None:
    write(suite, "test_hand.py", SWALLOWED)
    result = run(suite, *SIGNED)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert statement(suite)["predicate"]["result"] == "FAILED"
    assert any("an integrity check failed: weights" in text for text in objections(suite))


def test_a_test_that_is_run_until_it_passes_is_no_proof(suite: pytest.Pytester) -> None:
    write(suite, "conftest.py", AGAIN)
    write(suite, "test_tiny.py", SECOND_TIME_GREEN)
    run(suite, *SIGNED).assert_outcomes(passed=1)
    assert statement(suite)["predicate"]["result"] == "FAILED"
    assert any("is what attempt 2 of its test found" in text for text in objections(suite))
