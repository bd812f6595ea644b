"""A certificate says PASSED only where nothing speaks against it: each reason planted, alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from pytest_compsec.reports.certificate import statement_for
from pytest_compsec.reports.certificate_objections import Artefact, artefacts_of, objections
from pytest_compsec.reports.facts import Report, SuiteFacts
from pytest_compsec.verdict import Verdict
from tests.unit.reports.certified_run import (
    ARTEFACT,
    CONFIG,
    LOCK,
    SECOND,
    WEIGHTS,
    collected,
    passed,
    provenance,
    report,
)


def result_of(run: Report) -> Any:
    return statement_for(run, ARTEFACT)["predicate"]


def test_a_run_in_which_everything_passed_has_no_objection() -> None:
    run = report()
    assert objections(run, ARTEFACT) == []
    predicate = result_of(run)
    assert predicate["result"] == "PASSED"
    assert predicate["passedTests"] == [
        f"{SECOND} over_refusal_preserved",
        "suite/test_a.py::test_refuses[tiny-files] safety_preserved",
    ]
    assert predicate["failedTests"] == predicate["warnedTests"] == []


def second(**fields: Any) -> Any:
    return passed(**{"test": SECOND, "check": "over_refusal_preserved", **fields})


def with_second(**fields: Any) -> Report:
    return report((passed(), second(**fields)))


def with_check(**fields: Any) -> Report:
    other = second()
    return report((passed(), other), (collected(passed()), collected(other, **fields)))


def without_result(**fields: Any) -> Report:
    return report((passed(),), (collected(passed()), collected(second(), **fields)))


#: Of one check: the other one still counts as passed.
OF_ONE_CHECK: dict[str, tuple[Callable[[], Report], str]] = {
    "regressed": (lambda: with_second(verdict=Verdict.REGRESSED), "is REGRESSED"),
    "inconclusive": (
        # As compsec_inconclusive = warn lets it pass.
        lambda: with_second(verdict=Verdict.INCONCLUSIVE),
        "is INCONCLUSIVE",
    ),
    "not measured": (lambda: with_second(verdict=Verdict.NOT_MEASURED), "is NOT_MEASURED"),
    "expected": (lambda: with_second(expected=True), "was expected (xfail)"),
    "cached answers": (lambda: with_second(answers_cached=1), "1 of 400 answers came from"),
    "cached judge": (
        lambda: with_second(provenance={**provenance(), "judge": {"cached": 3}}),
        "3 outcomes of its judge came from the cache",
    ),
    "unknown check cannot tell": (
        lambda: report((passed(), passed(SECOND, check="my_own_check", answers=0))),
        "does not say how many answers came from the cache",
    ),
    "no weights named": (
        lambda: with_second(provenance={"lock_digest": LOCK}),
        "does not say which weights it is about",
    ),
    "no lock named": (
        lambda: with_second(provenance={**provenance(), "lock_digest": None}),
        "does not say under which lock",
    ),
    "run again": (
        lambda: with_second(provenance={**provenance(), "attempt": 2}),
        "is what attempt 2 of its test found",
    ),
    "another lock": (
        lambda: with_second(provenance={**provenance(), "lock_digest": "9" * 64}),
        "was measured under another lock than the run's",
    ),
    "test failed": (lambda: with_check(outcome="failed"), "its test failed"),
    "test skipped": (lambda: with_check(outcome="skipped"), "its test was skipped"),
    "test xfailed": (lambda: with_check(outcome="xfailed"), "failed as expected (xfail)"),
    "test xpassed": (lambda: with_check(outcome="xpassed"), "was expected to fail (xfail)"),
    "test in error": (lambda: with_check(outcome="error"), "ended in an error"),
    "no outcome": (lambda: with_check(outcome=None), "has no known outcome"),
    "deselected": (lambda: without_result(state="deselected"), "was left out of the run"),
    "unfinished": (lambda: without_result(state="unfinished"), "did not finish"),
    "no result": (lambda: without_result(), "it has no result"),
    "by hand, test failed": (
        lambda: report(
            (passed(), second(check="layers_within")),
            (collected(passed()), collected(second(), outcome="failed")),
        ),
        "its test did not pass",
    ),
    "by hand, unmarked test": (
        lambda: report((passed(), second()), (collected(passed()),)),
        "what became of its test is not known",
    ),
    "of no pair": (
        lambda: report(
            (passed(), second(pair="", verdict=Verdict.NOT_MEASURED)),
            (collected(passed()), collected(second(pair=""), outcome="error")),
        ),
        "is NOT_MEASURED",
    ),
}
#: Of the whole run: nothing counts as passed.
OF_THE_RUN: dict[str, tuple[dict[str, Any], str]] = {
    "integrity": ({"integrity": ("x: was changed\nmore",)}, "an integrity check failed: x: was"),
    "-k": ({"selection": ("-k safety",)}, "tests may have been left out (-k safety)"),
    "a node id": ({"selection": ("a.py::test_b",)}, "left out (a.py::test_b)"),
    "a test file": ({"command": ("suite/test_a.py",)}, "left out (suite/test_a.py)"),
    "a test file of the ini": (
        {"selection": ("suite/test_a.py",), "command": ("suite/test_a.py",)},
        "tests may have been left out (suite/test_a.py)",
    ),
    "interrupted": ({"interrupted": True}, "was stopped before its end"),
    "exit status": ({"exit_status": 3}, "ended with exit status 3"),
    "another test": ({"exit_status": 1}, "a test without a check failed"),
    "suite unknown": ({"suites": ()}, "the digests of suite/compsec.yaml are not known"),
}


@pytest.mark.parametrize("name", OF_ONE_CHECK)
def test_what_speaks_against_one_check_fails_the_certificate(name: str) -> None:
    make, reason = OF_ONE_CHECK[name]
    run = make()
    found = objections(run, ARTEFACT)
    assert any(reason in text and SECOND in text for text in found), found
    predicate = result_of(run)
    assert predicate["result"] == "FAILED"
    assert predicate["passedTests"] == [f"{passed().test} safety_preserved"]
    assert [SECOND in text for text in predicate["failedTests"]] == [True] * len(
        predicate["failedTests"]
    )
    assert predicate["configuration"][0]["annotations"]["objections"] == found


@pytest.mark.parametrize("name", OF_THE_RUN)
def test_what_speaks_against_the_run_leaves_no_check_passed(name: str) -> None:
    changes, reason = OF_THE_RUN[name]
    run = report(**changes)
    found = objections(run, ARTEFACT)
    assert len(found) == 1
    assert reason in found[0]
    if name == "suite unknown":
        return  # there is no statement then
    predicate = result_of(run)
    assert predicate["result"] == "FAILED"
    assert predicate["passedTests"] == []
    assert len(predicate["failedTests"]) == 2


def test_results_about_other_weights_of_the_same_files_are_refused() -> None:
    run = with_second(provenance=provenance(weights_digest="8" * 64))
    assert objections(run, ARTEFACT) == ["its results are about different weights"]
    assert result_of(run)["result"] == "FAILED"


def test_no_marked_test_is_no_proof() -> None:
    run = report((passed(),), ())
    assert "no test with a marker was collected for it" in objections(run, ARTEFACT)


def test_without_a_cache_a_foreign_check_can_tell() -> None:
    results = (passed(), passed(SECOND, check="my_own_check", answers=0))
    assert objections(report(results, settings={"use_cache": False}), ARTEFACT) == []


def test_a_check_of_ours_that_asks_nothing_has_nothing_to_tell() -> None:
    results = (passed(), passed(SECOND, check="layers_within", answers=0))
    assert objections(report(results), ARTEFACT) == []


def of_other_files() -> dict[str, Any]:
    files = [{**WEIGHTS, "sha256": "9" * 64}]
    return provenance(files=files, weights_digest="8" * 64)


#: Under another name, in another runtime, or asked with another system prompt: still these files.
OTHER_NAMES: tuple[dict[str, Any], ...] = ({}, {"weights_digest": "8" * 64}, {"asked_with": "9"})


@pytest.mark.parametrize("changes", OTHER_NAMES)
def test_what_fails_under_another_name_fails_the_same_files(changes: dict[str, Any]) -> None:
    found = provenance(**changes)
    other = second(pair="tiny-twin", verdict=Verdict.REGRESSED, provenance=found)
    checks = (collected(passed()), collected(other, outcome="failed"))
    run = report((passed(), other), checks, exit_status=1)
    of_twin = f"of tiny-twin ({CONFIG}), which is the same files of weights: {SECOND}"
    assert objections(run, ARTEFACT) == [
        f"{of_twin} over_refusal_preserved: its test failed",
        f"{of_twin} over_refusal_preserved: is REGRESSED",
    ]
    assert result_of(run)["result"] == "FAILED"
    left_out = (*checks[:1], collected(other, state="deselected"))
    assert objections(report((passed(), other), left_out), ARTEFACT) != []


def test_a_green_check_under_another_name_says_nothing_against_it() -> None:
    other = second(pair="tiny-twin")
    assert objections(report((passed(), other)), ARTEFACT) == []


def test_the_failure_of_another_artefact_is_its_own() -> None:
    other = second(pair="tiny-other", verdict=Verdict.REGRESSED, provenance=of_other_files())
    checks = (collected(passed()), collected(other, outcome="failed"))
    run = report((passed(), other), checks, exit_status=1)
    assert objections(run, ARTEFACT) == []
    assert objections(run, Artefact("tiny-other", CONFIG)) != []


def test_pairs_of_the_same_name_in_two_suites_are_two_artefacts() -> None:
    lock, elsewhere = "7" * 64, "other/compsec.yaml"
    other = second(
        test="other/test_a.py::test_x[tiny-files]",
        verdict=Verdict.REGRESSED,
        provenance={**of_other_files(), "lock_digest": lock},
    )
    checks = (collected(passed()), collected(other, config=elsewhere, outcome="failed"))
    run = report((passed(), other), checks)
    suites = (*run.facts.suites, SuiteFacts(elsewhere, "5" * 64, "other/compsec.lock", lock))
    run = dataclasses.replace(run, facts=dataclasses.replace(run.facts, suites=suites))
    assert artefacts_of(run) == (ARTEFACT, Artefact("tiny-files", elsewhere))
    assert objections(run, ARTEFACT) == []
    assert [text.split(" ")[-1] for text in objections(run, Artefact("tiny-files", elsewhere))] == [
        "failed",
        "REGRESSED",
    ]


def test_what_was_left_out_whole_is_no_artefact() -> None:
    other = second(pair="tiny-other")
    run = report((passed(),), (collected(passed()), collected(other, state="deselected")))
    assert artefacts_of(run) == (ARTEFACT,)
