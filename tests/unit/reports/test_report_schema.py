"""The published schema describes every report that is written, and refuses what is none."""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_compsec.reports.json_report import report_data
from pytest_compsec.reports.schema import SCHEMA_FILE, SCHEMA_ID, report_schema
from pytest_compsec.reports.schema import __main__ as command
from pytest_compsec.reports.schema.generating import made_schema, schema_text
from pytest_compsec.verdict import CheckResult, Verdict
from tests.unit.reports.json_reports import MEMORY, facts, filled, report
from tests.unit.test_verdict import result

OPTIONAL = [
    field.name
    for field in dataclasses.fields(CheckResult)
    if field.default is None or field.default == ()
]
PROVENANCE = {
    "lock_digest": "b" * 64,
    "original": {"name": "m", "tree": None, "weights_digest": "c" * 64, "served": {"url": "u"}},
    "compressed": {"name": "m-v", "tree": "d" * 64, "device": "cpu", "dtype": "float32"},
    "prompts": {"name": "own", "version": "1", "digest": "e" * 64, "count": 2},
    "judge": {"name": "refusal", "version": "1", "digest": "f" * 64, "threshold": 0.5},
    "data": {"set": {"source": "s", "version": "1", "sha256": "0" * 64}},
    "libraries": {"torch": "2.13.0", "gguf": None},
    "machine": {"processor": "x86_64", "cores": 2},
    "of_a_plugin": [1],
}


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = report_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def everything() -> dict[str, Any]:
    full = dataclasses.replace(filled(CheckResult), provenance=PROVENANCE)
    bare = CheckResult("c", "m-v", "t", Verdict.NOT_MEASURED, "s", "", 0.0, 1.0)
    made = report(full, bare, result(), memory=MEMORY, integrity=("x changed",))
    return json.loads(json.dumps(report_data(made)))  # type: ignore[no-any-return]


def test_a_report_of_every_kind_of_result_is_valid(
    validator: jsonschema.Draft202012Validator,
) -> None:
    data = everything()
    validator.validate(data)
    # Nothing was left out of it: every field of every record is there and filled.
    assert all(data["results"][0][name] not in (None, []) for name in OPTIONAL)


@pytest.mark.parametrize("name", OPTIONAL)
def test_each_kind_of_finding_alone_is_valid(
    validator: jsonschema.Draft202012Validator, name: str
) -> None:
    full, none = filled(CheckResult), result(measurement=None, evidence=(), notes=())
    one = dataclasses.replace(none, **{name: getattr(full, name)})
    validator.validate(json.loads(json.dumps(report_data(report(one)))))


def test_numbers_that_are_not_finite_are_valid(
    validator: jsonschema.Draft202012Validator,
) -> None:
    stopping = dataclasses.replace(filled(CheckResult).stopping, evalue=float("inf"))
    data = report_data(report(result(stopping=stopping)))
    assert data["results"][0]["stopping"]["evalue"] is None
    validator.validate(json.loads(json.dumps(data)))


def test_nothing_is_written_that_the_schema_does_not_describe() -> None:
    schema = report_schema()
    problems = list(undescribed(schema, schema, everything(), "report"))
    assert problems == []
    planted = everything()
    planted["results"][0]["backdoor"]["original"]["unheard_of"] = 1
    found = list(undescribed(schema, schema, planted, "report"))
    assert found == ["report.results.backdoor.original.unheard_of"]


def undescribed(schema: Any, here: Any, value: Any, place: str) -> Any:
    """Keys of objects that the schema has no words for. What a check or plugin may fill as it
    likes (arguments, settings, provenance and what is below it) is free."""
    if place.rpartition(".")[2] in ("provenance", "arguments", "settings", "processes"):
        return
    while "$ref" in here:
        here = schema["$defs"][here["$ref"].rpartition("/")[2]]
    for part in here.get("anyOf", ()):
        if "$ref" in part and value is not None:
            yield from undescribed(schema, part, value, place)
    if isinstance(value, dict) and "anyOf" not in here:
        for key, item in value.items():
            known = here.get("properties", {}).get(key)
            if known is None or not known.get("description"):
                yield f"{place}.{key}"
            else:
                yield from undescribed(schema, known, item, f"{place}.{key}")
    if isinstance(value, list):
        for item in value:
            yield from undescribed(schema, here.get("items", {}), item, place)


def drop(*path: Any) -> Callable[[dict[str, Any]], None]:
    def plant(data: Any) -> None:
        for part in path[:-1]:
            data = data[part]
        del data[path[-1]]

    return plant


def put(value: Any, *path: Any) -> Callable[[dict[str, Any]], None]:
    def plant(data: Any) -> None:
        for part in path[:-1]:
            data = data[part]
        data[path[-1]] = value

    return plant


@pytest.mark.parametrize(
    "plant",
    [
        drop("run", "suites", 0, "lock_digest"),
        put("b" * 63, "run", "suites", 0, "lock_digest"),
        put("not hexadecimal", "results", 0, "provenance", "lock_digest"),
        drop("results", 0, "arguments"),
        drop("results", 0, "answers_cached"),
        put("1", "results", 0, "answers_cached"),
        put(-1, "results", 0, "answers"),
        put("GREEN", "results", 0, "verdict"),
        put(None, "results", 0, "limit"),
        put([0.1], "results", 0, "measurement", "interval"),
        put("soon", "results", 0, "measurement", "n"),
        put({}, "results", 0, "evidence"),
        drop("results", 0, "backdoor", "trigger"),
        put("skipped", "run", "checks", 0, "state"),
        put(2, "schema_version"),
        put(True, "verdicts", "PRESERVED"),
        drop("verdicts", "REGRESSED"),
        drop("run"),
        drop("memory", "processes", "main", "arms", 0, "weights"),
    ],
)
def test_a_report_with_a_fault_is_refused(
    validator: jsonschema.Draft202012Validator, plant: Callable[[dict[str, Any]], None]
) -> None:
    data = everything()
    plant(data)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(data)


def test_fields_of_a_later_version_are_allowed_everywhere(
    validator: jsonschema.Draft202012Validator,
) -> None:
    data = everything()
    places = (data, data["run"], data["results"][0], data["results"][0]["measurement"])
    for place in (*places, data["run"]["checks"][0], data["run"]["suites"][0]):
        place["added_later"] = 1
    validator.validate(data)


def test_the_file_is_what_the_records_make() -> None:
    text = schema_text(made_schema(report_schema()))
    assert SCHEMA_FILE.read_text(encoding="utf-8") == text, (
        "run: python -m pytest_compsec.reports.schema"
    )
    schema = report_schema()
    assert schema["$id"] == SCHEMA_ID == "urn:pytest-compsec:report:1"
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert '"additionalProperties": false' not in text


def test_a_new_field_needs_words_and_is_required_of_no_report(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pydantic import TypeAdapter

    from pytest_compsec.reports.schema import descriptions, generating, records

    whole = records.result_adapter()
    longer: TypeAdapter[Any] = TypeAdapter(
        dataclasses.make_dataclass("CheckResult", [("unheard_of", int)])
    )

    class Both:
        def json_schema(self, **options: Any) -> Any:
            schema, more = whole.json_schema(**options), longer.json_schema(**options)
            schema["properties"].update(more["properties"])
            return schema

    monkeypatch.setattr(generating, "result_adapter", Both)
    with pytest.raises(LookupError, match=r"CheckResult\.unheard_of: say what it means"):
        made_schema(report_schema())
    words = {**descriptions.OWN["CheckResult"], "unheard_of": "What it means."}
    monkeypatch.setattr(descriptions, "OWN", {**descriptions.OWN, "CheckResult": words})
    made = made_schema(report_schema())
    assert made != report_schema()
    found = made["$defs"]["CheckResult"]
    assert found["properties"]["unheard_of"]["description"] == "What it means."
    assert "unheard_of" not in found["required"]
    # Before anyone has the schema it is required like the others.
    assert "unheard_of" in made_schema(None)["$defs"]["CheckResult"]["required"]


@pytest.mark.parametrize("gone", [True, False])
def test_a_field_that_readers_know_may_not_go_or_change(gone: bool) -> None:
    published = copy.deepcopy(report_schema())
    fields = published["$defs"]["NoiseFloor"]["properties"]
    fields["removed" if gone else "n"] = {"type": "string"}
    with pytest.raises(ValueError, match="raise SCHEMA_VERSION"):
        made_schema(published)


def test_the_command_writes_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "report-1.schema.json"
    target.write_text("{}", encoding="utf-8")
    monkeypatch.setattr(command, "SCHEMA_FILE", target)
    assert command.main([]) == 0
    assert target.read_text(encoding="utf-8") == SCHEMA_FILE.read_text(encoding="utf-8")
    assert command.main(["--wrong"]) == 2
    assert "--unpublished" in capsys.readouterr().err


def test_making_the_schema_loads_no_torch() -> None:
    code = (
        "import sys; from pytest_compsec.reports.schema.generating import made_schema; "
        "made_schema(None); assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_facts_say_no_less_than_the_schema_asks() -> None:
    run = report_data(report())["run"]
    assert set(run) == set(report_schema()["$defs"]["RunFacts"]["required"])
    assert {field.name for field in dataclasses.fields(facts())} >= set(run)
