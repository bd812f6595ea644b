"""All results of a run, and what the run was, as one JSON file with a versioned schema."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_compsec.frameworks import frameworks_of
from pytest_compsec.reports.facts import Report
from pytest_compsec.reports.memory import memory_data
from pytest_compsec.reports.writable import writable
from pytest_compsec.verdict import SCHEMA_VERSION, Verdict


def report_data(report: Report) -> dict[str, Any]:
    """The report as a JSON-safe dict."""
    verdicts = collections.Counter(result.verdict for result in report.results)
    facts = writable(dataclasses.asdict(report.facts))
    version, created = facts.pop("version"), facts.pop("created")
    integrity = facts.pop("integrity")
    data: dict[str, Any] = {
        "schema": "pytest-compsec/report",
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "pytest-compsec", "version": version},
        "created": created,
        "verdicts": {str(verdict): verdicts.get(verdict, 0) for verdict in Verdict},
        "integrity_failures": list(integrity),
        "run": facts,
        "results": [
            {
                **result.to_json(),
                "frameworks": {
                    "owasp_llm_2025": list(frameworks_of(result.check).owasp),
                    "nist_ai_rmf": list(frameworks_of(result.check).nist),
                },
            }
            for result in report.results
        ],
    }
    if report.memory is not None:
        data["memory"] = memory_data(report.memory)
    return data


def files(path: Path, report: Report) -> Iterator[tuple[Path, str]]:
    """The one file of a JSON report."""
    yield path, json.dumps(report_data(report), indent=2, allow_nan=False) + "\n"
