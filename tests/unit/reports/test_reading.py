"""A report is read as it was written, and a file that is none is refused in one message."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.errors import ConfigError
from pytest_compsec.reports.reading import read_report
from pytest_compsec.verdict import CheckResult
from tests.unit.reports.json_reports import MEMORY, facts, filled, written
from tests.unit.test_verdict import result


def test_all_of_it_comes_back(tmp_path: Path) -> None:
    results = (filled(CheckResult), result())
    path = written(tmp_path / "a.json", *results, memory=MEMORY, integrity=("x",))
    read = read_report(path)
    assert read.results == results
    assert read.facts == facts(integrity=("x",))
    assert read.memory == MEMORY
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read.data["results"][1]["frameworks"]["owasp_llm_2025"] == ["LLM01", "LLM09"]


def test_a_number_that_was_not_finite_is_not_a_number_again(tmp_path: Path) -> None:
    full: CheckResult = filled(CheckResult)
    assert full.stopping is not None
    stopping = dataclasses.replace(full.stopping, evalue=math.inf)
    path = written(tmp_path / "a.json", dataclasses.replace(full, stopping=stopping))
    read = read_report(path)
    assert read.results[0].stopping is not None
    assert math.isnan(read.results[0].stopping.evalue)
    assert read.data["results"][0]["stopping"]["evalue"] is None


def test_fields_of_a_later_version_are_no_obstacle(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", result())
    data = json.loads(path.read_text(encoding="utf-8"))
    for place in (data, data["run"], data["results"][0], data["run"]["suites"][0]):
        place["added_later"] = {"x": 1}
    path.write_text(json.dumps(data), encoding="utf-8")
    assert read_report(path).results == (result(),)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is no JSON report"),
        (b"\x80\x00PK", "is no JSON report"),
        (b'{"schema": "pytest-compsec/report", "x": NaN}', "NaN is no JSON"),
        (b"[" * 100_000, "is no JSON report"),
        (b"[]", "is JSON, but no JSON report of pytest-compsec"),
        (b'{"version": "2.1.0", "runs": []}', "is JSON, but no JSON report of pytest-compsec"),
        (b'{"schema": "pytest-compsec/report"}', "schema_version null, and this version"),
        (b'{"schema": "pytest-compsec/report", "schema_version": 2}', "schema_version 2, and"),
        (b'{"schema": "pytest-compsec/report", "schema_version": true}', "schema_version true"),
        (b'{"results": [1], "schema": "x", "results": []}', "'results' stands in it twice"),
        (b'{"schema": "pytest-compsec/report", "limit": 1e999}', "1e999 is too large"),
        (b'{"schema": "pytest-compsec/report", "schema_version": 1}', "its results is not as"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_report(path)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_report(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_report(tmp_path)


def at(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def plant(data: Any) -> None:
        for part in path[:-1]:
            data = data[part]
        data[path[-1]] = value

    return plant


@pytest.mark.parametrize(
    ("plant", "named"),
    [
        (at("results", 0, "verdict", value="GREEN"), r"results\[0\].verdict"),
        (at("results", 0, "limit", value="0.02"), r"results\[0\].limit"),
        (at("results", 0, "evidence", 0, "prompt", value=3), r"results\[0\].evidence.0.prompt"),
        (at("results", 0, "measurement", value=[]), r"results\[0\].measurement"),
        (at("results", 0, "estimates", 0, "verdict", value="?"), r"results\[0\].estimates"),
        (at("results", 0, value=7), r"results\[0\]"),
        (at("run", "suites", 0, value={}), "run.suites.0"),
        (at("run", "checks", 0, "state", value="lost"), "run.checks.0.state"),
        (at("run", value=None), "run"),
        (at("tool", value=None), "run.version"),
        (at("memory", value=3), "memory"),
        (
            at("memory", "processes", "main", "arms", 0, "weights", value="1"),
            r"memory\.processes\.main\.arms\.weights",
        ),
    ],
)
def test_a_report_that_was_edited_is_refused_by_field(
    tmp_path: Path, plant: Callable[[dict[str, Any]], None], named: str
) -> None:
    path = written(tmp_path / "a.json", filled(CheckResult), memory=MEMORY)
    data = json.loads(path.read_text(encoding="utf-8"))
    plant(data)
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ConfigError, match=f"its {named}.* is not as reports have it"):
        read_report(path)
