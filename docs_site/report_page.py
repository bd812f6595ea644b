"""The page of the JSON report, from its published schema."""

from __future__ import annotations

from typing import Any

from docs_site.config_page import type_of
from docs_site.text import code, prose, table
from pytest_compsec.reports.schema import SCHEMA_FILE, report_schema

SCHEMA_NAME = SCHEMA_FILE.name


def schema_text() -> str:
    """The schema as it is published."""
    return SCHEMA_FILE.read_text(encoding="utf-8")


def report_page() -> str:
    """The page as Markdown."""
    schema = report_schema()
    parts = [
        "# JSON report",
        f"`pytest --compsec-report=report.json` writes it, [`{SCHEMA_NAME}`]({SCHEMA_NAME}) (JSON "
        "Schema 2020-12) is its schema, and is shipped in the package. Fields may be added under "
        "the same number; what a field means never changes under it. A reader "
        "ignores what it does not know.",
        _properties(schema),
    ]
    for name, entry in schema.get("$defs", {}).items():
        parts.append(f"## {name} {{ #{name.lower()} }}")
        if entry.get("description"):
            parts.append(prose(entry["description"]))
        parts.append(_properties(entry) if "properties" in entry else f"Is {_type(entry)}.")
    return "\n\n".join(parts)


def _properties(entry: dict[str, Any]) -> str:
    required = set(entry.get("required", ()))
    rows = [
        (
            code(name),
            _type(value),
            "yes" if name in required else "",
            prose(value.get("description", "")),
        )
        for name, value in entry["properties"].items()
    ]
    return table(["field", "type", "always there", "meaning"], rows)


def _type(entry: dict[str, Any]) -> str:
    kind = entry.get("type")
    if isinstance(kind, list):
        return " or ".join(kind)
    return type_of(entry)
