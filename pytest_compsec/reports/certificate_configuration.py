"""What a certificate says of the circumstances: the suite first, then everything that the results
were measured with, each by its sha256."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_compsec.reports.certificate_circumstances import (
    measured_with,
    not_run,
    original_files,
    run_with,
)
from pytest_compsec.reports.certificate_objections import Artefact, Checked
from pytest_compsec.reports.facts import Report, SuiteFacts
from pytest_compsec.verdict import CheckResult

#: Of a result all that decides what it is worth, and no text of a prompt or a model.
_KEPT = (
    "check", "pair", "test", "verdict", "summary", "next_step", "limit", "confidence", "arguments",
    "measurement", "unmeasured", "answers", "answers_cached", "expected",
)  # fmt: skip
_ARTEFACT = (
    "name", "source", "weights_digest", "asked_with", "dtype", "dtype_asked", "runtime", "device",
)  # fmt: skip
_ORIGINAL = ("name", "source", "weights_digest", "asked_with", "dtype", "dtype_asked", "device")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def suite_entry(
    report: Report,
    artefact: Artefact,
    suite: SuiteFacts,
    results: Sequence[CheckResult],
    compressed: Mapping[str, Any],
    checks: Sequence[Checked],
    objections: Sequence[str],
) -> dict[str, Any]:
    """The suite: its compsec.yaml by digest, and in the annotations the run, the artefact, every
    check with its numbers, and why the result is not PASSED."""
    facts = report.facts
    return {
        "name": artefact.config,
        "digest": {"sha256": suite.config_digest},
        "annotations": {
            "tool": {"name": "pytest-compsec", "version": facts.version},
            "pair": artefact.pair,
            "started": facts.started,
            "created": facts.created,
            "command": list(facts.command),
            "selection": list(facts.selection),
            "settings": dict(facts.settings),
            "artefact": {key: compressed.get(key) for key in _ARTEFACT},
            "original": _original(results),
            "run_with": run_with(results),
            "checks": [_check(one) for one in checks],
            "not_run": not_run(checks),
            "objections": list(objections),
        },
    }


def _original(results: Sequence[CheckResult]) -> dict[str, Any]:
    arms = [result.provenance.get("original") for result in results]
    found = next((arm for arm in arms if isinstance(arm, Mapping)), {})
    return {
        **{key: found.get(key) for key in _ORIGINAL},
        "served": bool(found.get("served")),
        "files": original_files(found),
    }


def _check(one: Checked) -> dict[str, Any]:
    data = one.result.to_json() if one.result is not None else {}
    return {
        "name": one.name,
        "test": one.test,
        "check": one.check,
        "state": one.collected.state if one.collected is not None else "made by hand",
        "outcome": one.collected.outcome if one.collected is not None else None,
        "objections": list(one.objections),
        "measured_with": measured_with(one.result),
        "result": {key: data[key] for key in _KEPT} if data else None,
    }


def used_entries(suite: SuiteFacts, results: Sequence[CheckResult]) -> Iterator[dict[str, Any]]:
    """The lock, prompts, data, judges, calibrations and code of the results, each once."""
    yield {"name": suite.lock, "digest": {"sha256": suite.lock_digest}}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for result in results:
        for name, sha256 in _used(result.provenance):
            found[name, sha256] = {"name": name, "digest": {"sha256": sha256}}
    yield from (found[key] for key in sorted(found))


def _used(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and digests in a provenance. Checks write prompts and data as one entry with a digest,
    or as several by name."""
    for part in ("prompts", "data", "judge", "evaluation_data", "baseline", "accuracy_prompts"):
        entry = provenance.get(part)
        if not isinstance(entry, Mapping):
            continue
        own = _digest(entry)
        if own is not None:
            yield f"{part}/{entry.get('name') or entry.get('source') or 'unnamed'}", own
            calibration = entry.get("calibration")
            if isinstance(calibration, str) and _SHA256.fullmatch(calibration):
                yield "calibration", calibration
            continue
        for name, value in entry.items():
            digest = _digest(value)
            if digest is not None:
                yield f"{part}/{name}", digest
    earlier = provenance.get("certificate")  # that a policy let pass by
    if isinstance(earlier, Mapping) and (digest := _digest(earlier)) is not None:
        yield f"certificate/{earlier.get('file') or 'unnamed'}", digest
    arm = provenance.get("compressed")
    if isinstance(arm, Mapping) and isinstance(arm.get("code"), str):
        yield "code", arm["code"]


def _digest(value: object) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("sha256") or value.get("digest")
    return value if isinstance(value, str) and _SHA256.fullmatch(value) else None
