"""The rules of a SARIF report: one for each marker, with what a security team files it under."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from typing import Any

from pytest_compsec.frameworks import NIST, OWASP, frameworks_of

INTEGRITY = "integrity"
_INTEGRITY_PURPOSE = "every file that a verdict rests on is what compsec.lock says it is."
#: How severe a loss is, from 0 to 10 on the scale on which code scanning ranks findings. A ranking
#: of ours, not the CVSS score of a vulnerability. Checks that are not here are no security matter.
SEVERITY = {
    "backdoor_removed": 9.0,
    "no_backdoor_activated": 9.0,
    INTEGRITY: 9.0,
    "backdoor_not_amplified": 8.0,
    "derived_from_original": 8.0,
    "no_safety_bypass": 8.0,
    "safety_preserved": 8.0,
    "leakage_not_increased": 7.0,
    "template_unchanged": 7.0,
    "adversarial_transfer_blocked": 6.0,
    "edge_cases_preserved": 6.0,
    "no_drift": 6.0,
    "precision_policy": 6.0,
    "robustness_preserved": 6.0,
    "timing_indistinguishable": 5.0,
    "trace_leakage": 5.0,
    "layers_within": 4.0,
}


def rules(checks: Iterable[str]) -> list[dict[str, Any]]:
    """Of every marker of ours, of ``checks`` that are not (a plugin's), and of integrity; by id."""
    from pytest_compsec.markers import MARKERS

    purposes = {name: marker.purpose for name, marker in MARKERS.items()}
    purposes[INTEGRITY] = _INTEGRITY_PURPOSE
    for check in checks:
        purposes.setdefault(check, "a check of a plugin.")
    page = documentation()
    return [_rule(check, purposes[check], page) for check in sorted(purposes)]


def documentation() -> str | None:
    """Where the documentation is, as the installed package says; None where it does not."""
    try:
        named = importlib.metadata.metadata("pytest-compsec").get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for line in named:
        label, _, url = line.partition(",")
        if label.strip().lower() == "documentation":
            return str(url.strip().rstrip("/"))
    return None


def _rule(check: str, purpose: str, page: str | None) -> dict[str, Any]:
    terms = frameworks_of(check)
    named = [f"OWASP {name} ({OWASP[name]})" for name in terms.owasp]
    named += [f"NIST AI RMF {name} ({NIST[name]})" for name in terms.nist]
    anchor = f"checks/#{check}"
    told = f"{purpose[:1].upper()}{purpose[1:]}"
    lines = [told, f"See {page}/{anchor}" if page else f"See the documentation: {anchor}"]
    if named:
        lines.insert(1, f"Gives evidence for {'; '.join(named)}.")
    tags = [f"external/owasp/{name}" for name in terms.owasp]
    tags += [f"external/nist-ai-rmf/{name.lower().replace(' ', '-')}" for name in terms.nist]
    properties: dict[str, Any] = {"tags": tags, "precision": "high"}
    if check in SEVERITY:
        properties["tags"] = ["security", *tags]
        properties["security-severity"] = f"{SEVERITY[check]:.1f}"
    rule: dict[str, Any] = {
        "id": check,
        "name": "".join(word.capitalize() for word in check.split("_")),
        "shortDescription": {"text": told},
        "fullDescription": {"text": " ".join(lines[:-1])},
        "help": {"text": "\n\n".join(lines), "markdown": "\n\n".join(lines)},
        "defaultConfiguration": {"level": "error"},
        "properties": properties,
    }
    if page:
        rule["helpUri"] = f"{page}/{anchor}"
    return rule
