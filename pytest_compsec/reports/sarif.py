"""The findings of a run for code scanning: SARIF 2.1.0 (OASIS Standard, 27 March 2020).

Everything that is not PRESERVED is a result, so that what is repaired closes its alert. What is
PRESERVED is told in the run's properties alone: SARIF has results of kind ``pass`` for it, but
GitHub's code scanning opens an alert for each of them.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_compsec.frameworks import frameworks_of
from pytest_compsec.reports.facts import Report
from pytest_compsec.reports.locations import Location, location_of
from pytest_compsec.reports.sarif_rules import INTEGRITY, documentation, rules
from pytest_compsec.reports.scalars import scalars
from pytest_compsec.reports.text import one_line
from pytest_compsec.reports.writable import writable
from pytest_compsec.verdict import CheckResult, Evidence, Verdict

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
MAX_PROMPTS = 100
_ROOT = "%SRCROOT%"
_LEVELS = {Verdict.INCONCLUSIVE: "warning"}


def files(path: Path, report: Report) -> Iterator[tuple[Path, str]]:
    """The one file of a SARIF report."""
    yield path, json.dumps(writable(sarif_data(report)), indent=2, allow_nan=False) + "\n"


def sarif_data(report: Report) -> dict[str, Any]:
    """The log with its one run, as a JSON-safe dict."""
    facts = report.facts
    described = rules(result.check for result in report.results)
    places = {rule["id"]: place for place, rule in enumerate(described)}
    found = [_integrity(text, report, places) for text in facts.integrity]
    found += [
        _result(result, report, places)
        for result in report.results
        if result.verdict is not Verdict.PRESERVED
    ]
    driver: dict[str, Any] = {
        "name": "pytest-compsec",
        "version": facts.version,
        "rules": described,
    }
    page = documentation()
    if page:
        driver["informationUri"] = page
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "automationDetails": {"id": "pytest-compsec/"},
                "invocations": [_invocation(report)],
                "columnKind": "unicodeCodePoints",
                "results": found,
                "properties": _run_properties(report),
            }
        ],
    }


def _invocation(report: Report) -> dict[str, Any]:
    facts = report.facts
    unfinished = sum(check.state == "unfinished" for check in facts.checks)
    left_out = sum(check.state == "deselected" for check in facts.checks)
    notes = []
    if facts.interrupted:
        notes.append(("error", "the run was stopped before its end"))
    if unfinished:
        notes.append(("error", f"{unfinished} checks did not finish: they are NOT_MEASURED"))
    if left_out:
        why = f" ({one_line(', '.join(facts.selection), 300)})" if facts.selection else ""
        notes.append(("warning", f"{left_out} checks were left out{why}"))
    # Tests that failed are what a run is for; one that did not come to its end found too little.
    whole = facts.exit_status in (0, 1) and not facts.interrupted and not unfinished
    return {
        "executionSuccessful": whole,
        "exitCode": facts.exit_status,
        "startTimeUtc": _utc(facts.started),
        "endTimeUtc": _utc(facts.created),
        "arguments": list(facts.command),
        "toolExecutionNotifications": [
            {"level": level, "message": {"text": _literal(text)}} for level, text in notes
        ],
    }


def _run_properties(report: Report) -> dict[str, Any]:
    return {
        "locks": [
            {"config": suite.config, "lock": suite.lock, "lockDigest": suite.lock_digest}
            for suite in report.facts.suites
        ],
        "verdicts": {
            str(verdict): sum(result.verdict is verdict for result in report.results)
            for verdict in Verdict
        },
        "preserved": [
            {"test": result.test, "summary": one_line(result.summary, 2_000), **_numbers(result)}
            for result in report.results
            if result.verdict is Verdict.PRESERVED
        ],
    }


def _result(result: CheckResult, report: Report, places: dict[str, int]) -> dict[str, Any]:
    place = _place(result, report)
    lines = [one_line(result.summary, 2_000)]
    lines += [one_line(note, 500) for note in result.notes]
    terms = frameworks_of(result.check).text()
    if terms:
        lines.append(f"In other terms: {terms}")
    if result.next_step:
        lines.append(f"Next: {one_line(result.next_step, 2_000)}")
    found: dict[str, Any] = {
        "ruleId": result.check,
        "ruleIndex": places[result.check],
        "kind": "fail",
        "level": _LEVELS.get(result.verdict, "error"),
        "message": {"text": _literal("\n".join(lines))},
        "locations": [_location(place, result.test)],
        "partialFingerprints": _fingerprints(
            # One test may ask the same of several prompt sets; other arguments change with time.
            *(result.check, result.pair, result.test, str(result.arguments.get("prompts", "")))
        ),
        "properties": {**_numbers(result), **_prompts(result, report.show_answers)},
    }
    if result.expected and result.verdict is not Verdict.NOT_MEASURED:
        found["suppressions"] = [_suppression(result, report)]
    return found


def _suppression(result: CheckResult, report: Report) -> dict[str, Any]:
    """Why a finding fails no run. What was NOT_MEASURED has none: a test that fails in its body, as
    its xfail says, expects nothing of a verdict, and nobody has accepted not to know."""
    settings = report.facts.settings
    why = "the test expects this verdict (xfail)"
    if result.verdict is Verdict.INCONCLUSIVE and settings.get("inconclusive") == "xfail":
        why = "INCONCLUSIVE fails no test here (ini compsec_inconclusive = xfail)"
    return {"kind": "inSource", "status": "accepted", "justification": why}


def _integrity(text: str, report: Report, places: dict[str, int]) -> dict[str, Any]:
    suites = report.facts.suites
    lock = suites[0].lock if suites else "compsec.lock"
    return {
        "ruleId": INTEGRITY,
        "ruleIndex": places[INTEGRITY],
        "kind": "fail",
        "level": "error",
        "message": {"text": _literal("\n".join(one_line(part, 500) for part in text.splitlines()))},
        "locations": [_location(location_of(lock, report.directory, report.facts.command))],
        "partialFingerprints": _fingerprints(INTEGRITY, text),
    }


def _numbers(result: CheckResult) -> dict[str, Any]:
    """What every report shows, under the names of the properties of JUnit."""
    return {
        "check": result.check,
        "pair": result.pair,
        **scalars(result),
        "arguments": result.to_json()["arguments"],
        "lockDigest": result.provenance.get("lock_digest"),
    }


def _prompts(result: CheckResult, answers: bool) -> dict[str, Any]:
    """Which prompts changed for the worse: by id, with what was said only where that may be."""
    rows = [row for row in result.evidence if row.regressed]
    if not rows:
        return {}
    shown = [_flip(row) if answers else row.id for row in rows[:MAX_PROMPTS]]
    return {"regressed": len(rows), "regressedPrompts": shown}


def _flip(row: Evidence) -> dict[str, str]:
    return {
        "id": row.id,
        "category": one_line(row.category, 60),
        "prompt": one_line(row.prompt, 500),
        "original": one_line(row.original, 500),
        "compressed": one_line(row.compressed, 500),
    }


def _place(result: CheckResult, report: Report) -> Location:
    if result.test:
        return location_of(result.test, report.directory, report.facts.command)
    suites = report.facts.suites
    return Location(suites[0].config if suites else "compsec.yaml", 1)


def _location(place: Location, test: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": {"uri": urllib.parse.quote(place.path), "uriBaseId": _ROOT},
            "region": {"startLine": place.line},
        }
    }
    if test:
        found["logicalLocations"] = [{"fullyQualifiedName": test, "kind": "function"}]
    return found


def _fingerprints(*identity: str) -> dict[str, str]:
    """The same in every run of the same check. Code scanning reads ``primaryLocationLineHash``
    alone, and would make it of the line: the pairs of one test would be one alert."""
    digest = hashlib.sha256("\0".join(identity).encode("utf-8", "backslashreplace")).hexdigest()
    return {"primaryLocationLineHash": f"{digest[:16]}:1", "compsecCheck/v1": digest}


def _literal(text: str) -> str:
    """``text`` as a message: no placeholder (section 3.11.5) and no link (3.11.6) is in it."""
    return text.replace("{", "{{").replace("}", "}}").replace("](", "] (")


def _utc(moment: str) -> str:
    """ISO 8601 as SARIF has it: in UTC, ending in Z (section 3.9)."""
    found = datetime.datetime.fromisoformat(moment.replace("Z", "+00:00"))
    return found.astimezone(datetime.timezone.utc).isoformat().replace("+00:00", "Z")
