"""All results of a run as one JSON file with a versioned schema, written atomically."""

from __future__ import annotations

import collections
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_compsec.atomic import write_atomically
from pytest_compsec.frameworks import frameworks_of
from pytest_compsec.reports.memory import ProcessMemory, memory_data
from pytest_compsec.verdict import SCHEMA_VERSION, CheckResult, Verdict


def report_data(
    results: list[CheckResult],
    *,
    version: str,
    created: str,
    integrity: list[str],
    memory: Mapping[str, ProcessMemory] | None = None,
) -> dict[str, Any]:
    """The report as a JSON-safe dict; ``created`` is an ISO 8601 time in UTC, ``memory`` the peaks
    of each process where they were asked for."""
    verdicts = collections.Counter(result.verdict for result in results)
    data: dict[str, Any] = {
        "schema": "pytest-compsec/report",
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "pytest-compsec", "version": version},
        "created": created,
        "verdicts": {str(verdict): verdicts.get(verdict, 0) for verdict in Verdict},
        "integrity_failures": integrity,
        "results": [
            {
                **result.to_json(),
                "frameworks": {
                    "owasp_llm_2025": list(frameworks_of(result.check).owasp),
                    "nist_ai_rmf": list(frameworks_of(result.check).nist),
                },
            }
            for result in results
        ],
    }
    if memory is not None:
        data["memory"] = memory_data(memory)
    return data


def write_report(path: Path, data: dict[str, Any]) -> None:
    """Write the report, making its directory if need be. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(data, indent=2, allow_nan=False) + "\n")
