"""SARIF: valid against the official schema, one rule per marker, one finding per loss."""

from __future__ import annotations

import copy
import datetime
import json
import re
import urllib.parse
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_compsec.markers import MARKERS
from pytest_compsec.reports import sarif_rules
from pytest_compsec.reports.kinds import write
from pytest_compsec.reports.sarif import sarif_data
from pytest_compsec.verdict import Verdict
from tests.unit.reports.hostile_reports import (
    HOSTILE,
    SECRET_ANSWER,
    collected,
    hostile,
    preserved,
    report,
    rows,
)
from tests.unit.test_verdict import result

SCHEMA = Path(__file__).parents[2] / "data" / "schemas" / "sarif" / "sarif-schema-2.1.0.json"
FORMATS = jsonschema.FormatChecker()


@FORMATS.checks("date-time", raises=ValueError)
def _is_date_time(value: object) -> bool:
    datetime.datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    return re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", str(value)) is not None


@FORMATS.checks("uri", raises=ValueError)
def _is_uri(value: object) -> bool:
    return bool(urllib.parse.urlsplit(str(value)).scheme) and _is_reference(value)


@FORMATS.checks("uri-reference", raises=ValueError)
def _is_reference(value: object) -> bool:
    allowed = r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*"
    return re.fullmatch(allowed, str(value)) is not None


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema, format_checker=FORMATS)


def run_of(*results: Any, **changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = sarif_data(report(*results, **changes))["runs"][0]
    return data


def everything() -> dict[str, Any]:
    """A log with something in every place."""
    return sarif_data(
        report(
            hostile(),
            hostile(verdict=Verdict.NOT_MEASURED, measurement=None, check="of_a_plugin"),
            result(
                verdict=Verdict.INCONCLUSIVE, expected=True, test="ordner/test ä.py::test_x[m-v]"
            ),
            preserved(),
            result(test=""),
            integrity=(f"file x changed {HOSTILE}\nexpected: a",),
            interrupted=True,
            selection=("-k x",),
            checks=(collected("unfinished"), collected("deselected")),
            show_answers=True,
        )
    )


def test_it_is_valid_against_the_schema_of_the_standard(validator: Any) -> None:
    assert list(validator.iter_errors(everything())) == []
    assert list(validator.iter_errors(sarif_data(report()))) == []


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        (("results", 0, "level"), "fatal"),
        (("results", 0, "kind"), "lost"),
        (("results", 0, "locations", 0, "physicalLocation", "artifactLocation", "uri"), "a b"),
        (("invocations", 0, "startTimeUtc"), "yesterday"),
        (("invocations", 0, "exitCode"), "1"),
        (("tool", "driver", "rules", 0, "helpUri"), "checks.md"),
        (("results", 0, "partialFingerprints"), ["x"]),
        (("results", 0, "message"), {}),
    ],
)
def test_the_schema_and_its_formats_catch_faults(
    validator: Any, path: tuple[Any, ...], fault: object
) -> None:
    data = copy.deepcopy(everything())
    place: Any = data["runs"][0]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = fault
    assert list(validator.iter_errors(data))


def test_levels_follow_the_verdicts_and_what_is_preserved_is_no_finding() -> None:
    run = run_of(*(result(verdict=verdict, pair=verdict.value) for verdict in Verdict))
    levels = {one["properties"]["verdict"]: (one["kind"], one["level"]) for one in run["results"]}
    assert levels == {
        "REGRESSED": ("fail", "error"),
        "NOT_MEASURED": ("fail", "error"),
        "INCONCLUSIVE": ("fail", "warning"),
    }
    assert [one["pair"] for one in run["properties"]["preserved"]] == ["PRESERVED"]
    assert run["properties"]["verdicts"]["PRESERVED"] == 1


def test_one_rule_for_each_marker_and_for_integrity() -> None:
    rules = {rule["id"]: rule for rule in run_of()["tool"]["driver"]["rules"]}
    assert set(rules) == {*MARKERS, "integrity"}
    safety = rules["safety_preserved"]
    assert {"security", "external/owasp/LLM09", "external/nist-ai-rmf/measure-2.6"} <= set(
        safety["properties"]["tags"]
    )
    assert safety["properties"]["security-severity"] == "8.0"
    assert "OWASP LLM09 (Misinformation)" in safety["help"]["text"]
    # A model that refuses too much is no security matter.
    assert "security-severity" not in rules["over_refusal_preserved"]["properties"]
    assert set(sarif_rules.SEVERITY) <= set(rules)


def test_findings_point_at_their_rules_also_those_of_plugins() -> None:
    run = run_of(result(check="of_a_plugin"), result(), integrity=("x",))
    rules = run["tool"]["driver"]["rules"]
    for found in run["results"]:
        assert rules[found["ruleIndex"]]["id"] == found["ruleId"]
    assert {one["ruleId"] for one in run["results"]} == {
        "of_a_plugin",
        "safety_preserved",
        "integrity",
    }


def test_help_leads_to_the_page_that_the_package_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        all("helpUri" not in rule for rule in sarif_rules.rules([])) or sarif_rules.documentation()
    )
    monkeypatch.setattr(sarif_rules, "documentation", lambda: "https://docs.example/latest")
    rule = next(one for one in sarif_rules.rules([]) if one["id"] == "no_drift")
    assert rule["helpUri"] == "https://docs.example/latest/checks/#no_drift"


def test_pairs_of_one_test_are_findings_of_their_own_and_the_same_in_every_run() -> None:
    first = run_of(result(pair="a", test="t.py::x[a]"), result(pair="b", test="t.py::x[b]"))
    again = run_of(
        result(pair="b", test="t.py::x[b]", summary="other numbers"),
        result(pair="a", test="t.py::x[a]", limit=0.3),
    )
    prints = [
        {one["properties"]["pair"]: one["partialFingerprints"] for one in run["results"]}
        for run in (first, again)
    ]
    assert prints[0] == prints[1]
    assert prints[0]["a"]["primaryLocationLineHash"] != prints[0]["b"]["primaryLocationLineHash"]


def test_two_prompt_sets_in_one_test_are_two_findings() -> None:
    results = (result(arguments={"prompts": name}) for name in ("own", "harmful"))
    prints = {
        found["partialFingerprints"]["primaryLocationLineHash"]
        for found in run_of(*results)["results"]
    }
    assert len(prints) == 2


def test_answers_are_left_out_unless_they_may_be_shown() -> None:
    lost = result(evidence=rows(3))
    without = json.dumps(sarif_data(report(lost)))
    assert SECRET_ANSWER not in without
    assert '"regressedPrompts": ["p-0", "p-1", "p-2"]' in without
    assert SECRET_ANSWER in json.dumps(sarif_data(report(lost, show_answers=True)))


def test_numbers_arguments_lock_and_cache_are_there() -> None:
    run = run_of(
        result(
            arguments={"max_degradation": 0.02},
            provenance={"lock_digest": "e" * 64},
            answers=10,
            answers_cached=4,
        )
    )
    found = run["results"][0]["properties"]
    assert found["arguments"] == {"max_degradation": 0.02}
    assert (found["degradation"], found["n"], found["limit"]) == (0.5, 2, 0.02)
    assert (found["answers"], found["cached"], found["lockDigest"]) == (10, 4, "e" * 64)
    assert run["properties"]["locks"][0]["lockDigest"] == "d" * 64


def test_text_makes_no_placeholder_and_no_link() -> None:
    text = run_of(hostile())["results"][0]["message"]["text"]
    assert "{0}" not in text.replace("{{0}}", "")
    assert "](" not in text
    assert "\u202e" not in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("changes", "whole"),
    [
        ({"exit_status": 0}, True),
        ({"exit_status": 1}, True),
        ({"exit_status": 2, "interrupted": True}, False),
        ({"exit_status": 3}, False),
        ({"exit_status": 1, "checks": (collected("unfinished"),)}, False),
    ],
)
def test_the_invocation_says_whether_the_run_came_to_its_end(
    changes: dict[str, Any], whole: bool
) -> None:
    invocation = run_of(**changes)["invocations"][0]
    assert invocation["executionSuccessful"] is whole
    assert invocation["exitCode"] == changes["exit_status"]
    assert invocation["endTimeUtc"] == "2026-01-02T03:14:05Z"


def test_what_was_left_out_is_told() -> None:
    run = run_of(checks=(collected("deselected"),), selection=("-k good",))
    told = run["invocations"][0]["toolExecutionNotifications"]
    assert [one["message"]["text"] for one in told] == ["1 checks were left out (-k good)"]


def test_an_expected_finding_is_suppressed_and_still_there() -> None:
    found = run_of(result(expected=True))["results"][0]
    assert found["level"] == "error"
    assert found["suppressions"][0]["kind"] == "inSource"


SOURCE = """\
import pytest


class Base:
    def test_inherited(self): ...


@pytest.mark.slow
class TestIt(Base):
    @pytest.mark.parametrize("x", [1])
    def test_method(self, x): ...


async def test_later(): ...
"""


@pytest.mark.parametrize(
    ("test", "line"),
    [
        ("tests/test_a.py::TestIt::test_method[1-m::v]", 11),
        ("tests/test_a.py::TestIt::test_inherited", 9),
        ("tests/test_a.py::test_later[a]", 14),
        ("tests/test_a.py::test_nowhere", 1),
    ],
)
def test_a_finding_is_where_its_test_is_written(tmp_path: Path, test: str, line: int) -> None:
    (tmp_path / ".git").mkdir()
    folder = tmp_path / "part" / "tests"
    folder.mkdir(parents=True)
    (folder / "test_a.py").write_text(SOURCE, encoding="utf-8")
    for directory, command in ((folder.parent, ()), (folder, ()), (tmp_path, ("-q", "part"))):
        run = run_of(result(test=test), directory=directory, command=command)
        place = run["results"][0]["locations"][0]
        assert place["physicalLocation"]["artifactLocation"]["uri"] == "part/tests/test_a.py"
        assert place["physicalLocation"]["region"] == {"startLine": line}
        assert place["logicalLocations"][0]["fullyQualifiedName"] == test


@pytest.mark.parametrize("text", ["def broken(:\n", "\x00", ""])
def test_a_file_that_cannot_be_read_is_still_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "test_b.py").write_text(text, encoding="utf-8")
    run = run_of(result(test="test_b.py::test_x"), directory=tmp_path)
    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "test_b.py"
    assert place["region"] == {"startLine": 1}


def test_it_is_written_by_its_suffix(tmp_path: Path, validator: Any) -> None:
    path = tmp_path / "out.sarif"
    assert write(path, report(hostile())) == [path]
    assert not list(validator.iter_errors(json.loads(path.read_text(encoding="utf-8"))))
