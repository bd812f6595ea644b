"""All results of a run as one JSON file with a versioned schema, written atomically."""

from __future__ import annotations

import collections
import json
from pathlib import Path
from typing import Any

from pytest_compsec.atomic import write_atomically
from pytest_compsec.verdict import SCHEMA_VERSION, CheckResult, Verdict


def report_data(
    results: list[CheckResult], *, version: str, created: str, integrity: list[str]
) -> dict[str, Any]:
    """The report as a JSON-safe dict; ``created`` is an ISO 8601 time in UTC."""
    verdicts = collections.Counter(result.verdict for result in results)
    return {
        "schema": "pytest-compsec/report",
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "pytest-compsec", "version": version},
        "created": created,
        "verdicts": {str(verdict): verdicts.get(verdict, 0) for verdict in Verdict},
        "integrity_failures": integrity,
        "results": [result.to_json() for result in results],
    }


def write_report(path: Path, data: dict[str, Any]) -> None:
    """Write the report, making its directory if need be. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(data, indent=2, allow_nan=False) + "\n")
