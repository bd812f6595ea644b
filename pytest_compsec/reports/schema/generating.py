"""Makes the schema: the records' own type hints through pydantic, words from ``descriptions``, and
by hand what no record describes (the top of the report, provenance)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from pytest_compsec import (
    findings,
    findings_backdoors,
    findings_estimates,
    findings_robustness,
    findings_scan,
    verdict,
)
from pytest_compsec.models import memory_report
from pytest_compsec.reports import facts
from pytest_compsec.reports.schema import SCHEMA_ID
from pytest_compsec.reports.schema.descriptions import description
from pytest_compsec.reports.schema.frame import Schema, of, provenance, record, text, top
from pytest_compsec.reports.schema.records import facts_adapter, result_adapter

#: Where the records are.
_ROOMS = (
    *(verdict, findings, findings_backdoors, findings_estimates, findings_robustness),
    *(findings_scan, facts, memory_report),
)
#: Numbers that are finite whatever was measured; any other is null where it is not.
_ALWAYS_FINITE = {"limit", "confidence"}
#: Fields of RunFacts that stand at the top of the report instead.
_AT_THE_TOP = ("version", "created", "integrity")


class _Numbers(GenerateJsonSchema):
    """As :meth:`CheckResult.to_json` writes them."""

    def float_schema(self, schema: Any) -> Schema:
        return {"type": ["number", "null"]}

    def int_schema(self, schema: Any) -> Schema:
        return {"type": "integer", "minimum": 0}


def made_schema(published: Mapping[str, Any] | None) -> Schema:
    """The schema of the reports that are written now. ``published`` is the one that readers may
    have: what it does not know is required of no report.

    Raises LookupError for a field without words, ValueError where the number must be raised.
    """
    made = top(_definitions())
    if published is not None and published.get("$id") == SCHEMA_ID:
        _require_compatible("report", published, made)
        for name, known in published["$defs"].items():
            if name not in made["$defs"]:
                raise ValueError(f"{name} is gone: {_RAISE}")
            _require_compatible(name, known, made["$defs"][name])
    return made


def schema_text(schema: Mapping[str, Any]) -> str:
    """As the file has it."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


_RAISE = "readers of reports may need it; raise SCHEMA_VERSION (pytest_compsec.verdict)"


def _require_compatible(name: str, known: Mapping[str, Any], made: Schema) -> None:
    """Under the same number fields are only added, and never required."""
    for field, schema in known.get("properties", {}).items():
        now = made.get("properties", {}).get(field)
        if now is None:
            raise ValueError(f"{name}.{field} is gone: {_RAISE}")
        if _meaning(now) != _meaning(schema):
            raise ValueError(f"{name}.{field} is {_meaning(now)} now: {_RAISE}")
    if "required" in made:
        made["required"] = [field for field in made["required"] if field in known["required"]]


def _meaning(schema: Mapping[str, Any]) -> Schema:
    return _tidy({key: value for key, value in schema.items() if key != "description"})


def _definitions() -> Schema:
    found: Schema = {}
    for adapter in (result_adapter(), facts_adapter(), TypeAdapter(memory_report.ArmPeak)):
        schema = adapter.json_schema(schema_generator=_Numbers)
        found.update(schema.pop("$defs", {}))
        found[schema["title"]] = schema
    for name, schema in found.items():
        if "properties" in schema:
            _describe(name, schema)
        else:
            schema.pop("title", None)
    verdicts = found["Verdict"]
    verdicts["description"] = "What a check says of one pair. Only PRESERVED is green."
    _add_by_hand(found)
    return dict(sorted(found.items()))


def _describe(name: str, schema: Schema) -> None:
    """Words for the record and each field; every field is written, and so required."""
    fields = {field: _tidy(one) for field, one in schema["properties"].items()}
    if name == "ArmPeak":
        fields["rest"] = dict(fields["resident"])
    for field in _AT_THE_TOP if name == "RunFacts" else ():
        del fields[field]
    for field, one in fields.items():
        if field in _ALWAYS_FINITE and name == "CheckResult":
            one["type"] = "number"
        one["description"] = description(name, field)
    # Not every version of pydantic takes them over.
    kind = next(vars(room)[name] for room in _ROOMS if name in vars(room))
    words = " ".join(str(kind.__doc__).split("\n\n")[0].split())
    schema.clear()
    schema.update(
        type="object",
        description=words.replace("``", "`").replace(":class:", ""),
        properties=fields,
        required=list(fields),
    )


def _tidy(schema: Schema) -> Schema:
    """Without titles and defaults; ``anyOf`` of simple types as one list of types; the same from
    every version of pydantic."""
    tidy: Schema = {}
    for key, value in schema.items():
        if key in ("title", "default") or (key, value) == ("additionalProperties", True):
            continue
        if isinstance(value, dict):
            value = _tidy(value)
        elif isinstance(value, list):
            value = [_tidy(item) if isinstance(item, dict) else item for item in value]
        tidy[key] = value
    parts = tidy.get("anyOf")
    if parts and all("type" in part for part in parts):
        types: list[str] = []
        for part in parts:
            named = part["type"]
            types += [named] if isinstance(named, str) else named
        merged = {key: value for part in parts for key, value in part.items()}
        return {**merged, "type": list(dict.fromkeys(types))}
    return tidy


def _add_by_hand(found: Schema) -> None:
    found["Sha256"] = {
        "type": "string",
        "pattern": "^[0-9a-f]{64}$",
        "description": "A sha256 in 64 hexadecimal digits.",
    }
    for field in ("config_digest", "lock_digest"):
        found["SuiteFacts"]["properties"][field] = of(
            "Sha256", found["SuiteFacts"]["properties"][field]["description"]
        )
    result, run = found["CheckResult"], found["RunFacts"]
    result["properties"]["provenance"] = of(
        "Provenance", result["properties"]["provenance"]["description"]
    )
    run["properties"]["started"]["format"] = "date-time"
    del run["properties"]["exit_status"]["minimum"]  # pytest.exit takes any number
    identifiers = {"type": "array", "items": {"type": "string"}}
    result["properties"]["frameworks"] = record(
        "What a check gives evidence for, in the terms of a security team.",
        {
            "owasp_llm_2025": {**identifiers, "description": "OWASP Top 10 for LLMs 2025."},
            "nist_ai_rmf": {**identifiers, "description": "NIST AI RMF 1.0 subcategories."},
        },
    )
    result["required"].append("frameworks")
    found["Provenance"] = provenance()
    found["Arm"] = record(
        "Which weights a model has, and where it ran.",
        {
            "name": text("The model's name: MODEL, or MODEL-VARIANT."),
            "tree": text("Digest of its files as the lock has it.", null=True),
            "weights_digest": text("Digest of all that makes its weights.", null=True),
            "dtype": text("The type that it was computed in.", null=True),
            "device": text("Where it ran.", null=True),
        },
        required=(),
    )
    found["ProcessMemory"] = record(
        "What one process measured.",
        {
            "how": text("How peaks were measured."),
            "arms": {
                "type": "array",
                "items": of("ArmPeak"),
                "description": "One entry for each time a model was in use; sizes in bytes.",
            },
        },
    )
