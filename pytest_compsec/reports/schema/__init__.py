"""The JSON Schema of the JSON report: published, versioned, and made from the records themselves.

``report-1.schema.json`` (JSON Schema 2020-12) is shipped beside this file. It says what a report
holds at least: fields may be added under the same number, so a reader ignores what it does not
know, and a field that was added later is required of no report. What a field means never changes
under the same number.

``python -m pytest_compsec.reports.schema`` writes it anew after a record got a field.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pytest_compsec.verdict import SCHEMA_VERSION

SCHEMA_FILE = Path(__file__).with_name(f"report-{SCHEMA_VERSION}.schema.json")
#: It names the schema; it is no place to fetch it from.
SCHEMA_ID = f"urn:pytest-compsec:report:{SCHEMA_VERSION}"


def report_schema() -> dict[str, Any]:
    """The schema as it is published."""
    found: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return found
