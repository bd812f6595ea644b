"""The scalars that a test's properties in JUnit hold."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

from pytest_compsec import junit
from pytest_compsec.findings_backdoors import ArmBackdoor, BackdoorFinding
from pytest_compsec.findings_estimates import Estimate
from pytest_compsec.reports.scalars import scalars
from pytest_compsec.verdict import CheckResult
from tests.unit.test_verdict import result


def test_the_numbers_of_a_paired_check() -> None:
    assert scalars(result(answers=4, answers_cached=1, expected=True)) == {
        "verdict": "REGRESSED",
        "limit": 0.02,
        "degradation": 0.5,
        "lower": 0.1,
        "upper": 0.9,
        "n": 2,
        "answers": 4,
        "cached": 1,
        "expected": 1,
    }


def test_of_several_estimates_the_one_that_decided() -> None:
    fine = Estimate("recall", "x", "points", "text", 9, "m", change=0.0, limit=0.1, verdict="")
    worst = dataclasses.replace(
        fine, name="perplexity", unit="nats", change=2.0, lower=1.0, upper=3.0, verdict="REGRESSED"
    )
    found = scalars(result(measurement=None, estimates=(fine, worst)))
    assert (found["estimate"], found["degradation"], found["n"]) == ("perplexity", 2.0, 9)
    assert (found["lower"], found["upper"], found["limit"]) == (1.0, 3.0, 0.1)


def test_of_a_backdoor_what_the_trigger_adds() -> None:
    arm = ArmBackdoor(100, 0.9, 0.1, 0.8, 0.7, 0.9, 1.0, 0.0, 0.95, 0.1)
    finding = BackdoorFinding("t", "d", "9", 1, 100, 0, compressed=arm)
    found = scalars(result(measurement=None, backdoor=finding))
    assert (found["degradation"], found["lower"], found["upper"], found["n"]) == (
        0.8,
        0.7,
        0.9,
        100,
    )


def test_what_was_not_measured_has_no_numbers() -> None:
    assert set(scalars(result(measurement=None))) == {"verdict", "limit", "answers", "cached"}


def prepared(item: Any, *results: CheckResult) -> list[tuple[str, Any]]:
    settings = SimpleNamespace(junit_properties=True, show_answers=True)
    report: Any = SimpleNamespace(user_properties=[])
    run: Any = SimpleNamespace(settings=settings)
    junit.prepare(run, item, report, list(results), None)
    found: list[tuple[str, Any]] = report.user_properties
    assert found == item.user_properties
    return found


def test_a_rerun_replaces_its_own_properties_and_no_others() -> None:
    item: Any = SimpleNamespace(user_properties=[("team", "blue")], stash={})
    first = prepared(item, result(measurement=None))
    second = prepared(item, result())
    assert ("team", "blue") in first
    assert ("team", "blue") in second
    names = [name for name, _ in second]
    assert len(names) == len(set(names))
    assert ("compsec.safety_preserved.n", 2) in second


def test_a_check_on_several_pairs_names_them() -> None:
    found = dict(junit.properties([result(pair="a"), result(pair="b"), result(check="other")]))
    assert found["compsec.safety_preserved[a].n"] == 2
    assert found["compsec.safety_preserved[b].n"] == 2
    assert found["compsec.other.n"] == 2
