"""What a verified certificate says, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_compsec.reports.text import one_line
from pytest_compsec.signing.certificates import Certificate


def told_of(certificate: Certificate) -> dict[str, Any]:
    """JSON-safe."""
    statement = certificate.statement
    told = statement.told
    return {
        "sha256": certificate.sha256,
        "signed_by": certificate.signer,
        "result": statement.result,
        "suite": statement.suite,
        "pair": told.get("pair"),
        "created": told.get("created"),
        "tool": told.get("tool"),
        "subjects": [{"name": one.name, "sha256": one.sha256} for one in statement.subjects],
        "configuration": [
            {"name": one.name, "sha256": one.sha256} for one in statement.configuration
        ],
        "passed": list(statement.passed),
        "warned": list(statement.warned),
        "failed": list(statement.failed),
        "objections": told.get("objections", []),
    }


def told_lines(certificate: Certificate) -> Iterator[str]:
    """The same as lines; signed text too is made safe to print."""
    statement, told = certificate.statement, certificate.statement.told
    tool = told.get("tool")
    made = (
        f" by {_text(tool, 'name')} {_text(tool, 'version')}" if isinstance(tool, Mapping) else ""
    )
    created = one_line(str(told.get("created", "at no known time")))
    yield f"result     {statement.result}, {created}{made}"
    yield f"signed by  {one_line(certificate.signer, 300)}"
    yield f"artefact   {one_line(str(told.get('pair', 'without a name')))}"
    for subject in statement.subjects:
        yield f"           sha256 {subject.sha256}  {one_line(subject.name)}"
    yield "tested with"
    for entry in statement.configuration:
        yield f"           sha256 {entry.sha256 or '-' * 64}  {one_line(entry.name)}"
    for title, names in (
        ("passed", statement.passed),
        ("warned", statement.warned),
        ("failed", statement.failed),
    ):
        for at, name in enumerate(names):
            yield f"{title if at == 0 else '':<10} {one_line(name, 300)}{_numbers(told, name)}"


def _numbers(told: Mapping[str, Any], name: str) -> str:
    checks = told.get("checks")
    for check in checks if isinstance(checks, list) else ():
        result = check.get("result") if isinstance(check, Mapping) else None
        if isinstance(result, Mapping) and check.get("name") == name:
            return f": {one_line(str(result.get('summary', '')), 300)}"
    return ""


def _text(value: Any, key: str) -> str:
    return one_line(str(value.get(key, "")), 60)
