"""The parts of the schema that no record describes: the top of a report, and provenance."""

from __future__ import annotations

from typing import Any, TypeAlias

from pytest_compsec.reports.schema import SCHEMA_ID
from pytest_compsec.verdict import SCHEMA_VERSION, Verdict

Schema: TypeAlias = dict[str, Any]


def of(name: str, words: str = "") -> Schema:
    return {"$ref": f"#/$defs/{name}", **({"description": words} if words else {})}


def record(words: str, properties: Schema, required: tuple[str, ...] | None = None) -> Schema:
    """An object of which every field is required unless said otherwise."""
    return {
        "type": "object",
        "description": words,
        "properties": properties,
        "required": list(properties if required is None else required),
    }


def text(words: str, *, null: bool = False) -> Schema:
    return {"type": ["string", "null"] if null else "string", "description": words}


def provenance() -> Schema:
    versions = {"type": "object", "additionalProperties": {"type": ["string", "null"]}}
    named = {
        "name": text("Its name."),
        "version": text("Its version."),
        "digest": text("Its sha256."),
    }
    return record(
        "What was measured with what. Checks add fields of their own.",
        {
            "lock_digest": of("Sha256", "sha256 of the lock that all bytes were held to."),
            "original": of("Arm", "The original model."),
            "compressed": of("Arm", "The compressed model."),
            "prompts": record(
                "The prompt set, by name, version, digest and count.",
                {
                    **named,
                    "count": {"type": "integer", "minimum": 0, "description": "Its prompts."},
                },
                required=(),
            ),
            "judge": record("What judged the answers.", named, required=()),
            "generation": {"type": "object", "description": "How answers were made."},
            "data": {"type": "object", "description": "Data files, by name."},
            "libraries": {**versions, "description": "Versions; null: not installed."},
            "machine": {"type": "object", "description": "Processor, GPUs and Python."},
        },
        required=(),
    )


def top(definitions: Schema) -> Schema:
    counts = {
        str(one): {"type": "integer", "minimum": 0, "description": f"Results {one}."}
        for one in Verdict
    }
    properties = {
        "schema": {"const": "pytest-compsec/report", "description": "What this file is."},
        "schema_version": {
            "const": SCHEMA_VERSION,
            "description": "Raised when the meaning of a field changes.",
        },
        "tool": record(
            "What wrote it.", {"name": text("pytest-compsec"), "version": text("Its version.")}
        ),
        "created": {**text("When it was written, ISO 8601 in UTC."), "format": "date-time"},
        "verdicts": record("How many results there are of each verdict.", counts),
        "integrity_failures": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Bytes that are not what the lock says; any of them failed the run.",
        },
        "run": of("RunFacts", "What the run was, beside its results."),
        "results": {
            "type": "array",
            "items": of("CheckResult"),
            "description": "One for each check, pair and test; failures first.",
        },
        "memory": record(
            "Peaks of memory; only with --compsec-memory.",
            {
                "one_arm_at_a_time": {
                    "type": "boolean",
                    "description": "No peak holds the weights of another model.",
                },
                "processes": {
                    "type": "object",
                    "additionalProperties": of("ProcessMemory"),
                    "description": "By worker of pytest-xdist; main without any.",
                },
            },
        ),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": f"JSON report of pytest-compsec, version {SCHEMA_VERSION}",
        "description": "Fields may be added under the same number: ignore what you do not know.",
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name != "memory"],
        "$defs": definitions,
    }
