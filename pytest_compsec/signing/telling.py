"""What a verified certificate says, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pytest_compsec.reports.text import one_line
from pytest_compsec.signing.certificates import Certificate
from pytest_compsec.signing.circumstances import (
    checks_of,
    mapping,
    not_shown,
    number_line,
    original_lines,
    run_lines,
)
from pytest_compsec.signing.report_of_certificate import REPORT

_WIDTH = 11


def told_of(certificate: Certificate) -> dict[str, Any]:
    """JSON-safe; all that :func:`told_lines` has, and more."""
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
        "artefact": told.get("artefact"),
        "original": told.get("original"),
        "run_with": told.get("run_with"),
        "command": told.get("command"),
        "settings": told.get("settings"),
        "configuration": [
            {"name": one.name, "sha256": one.sha256} for one in statement.configuration
        ],
        "checks": checks_of(statement),
        "passed": list(statement.passed),
        "warned": list(statement.warned),
        "failed": list(statement.failed),
        "not_run": told.get("not_run"),
        "not_shown": list(not_shown(statement)),
        "objections": told.get("objections", []),
    }


def told_lines(certificate: Certificate) -> Iterator[str]:
    """The same as lines; signed text too is made safe to print."""
    statement, told = certificate.statement, certificate.statement.told
    tool = mapping(told.get("tool"))
    made = f" by {_text(tool, 'name')} {_text(tool, 'version')}" if tool else ""
    created = one_line(str(told.get("created", "at no known time")))
    yield from _under("result", [f"{statement.result}, {created}{made}"])
    yield from _under("signed by", _signer(certificate))
    yield from _under(
        "artefact",
        [
            one_line(str(told.get("pair", "without a name"))),
            *(f"sha256 {one.sha256}  {one_line(one.name)}" for one in statement.subjects),
        ],
    )
    yield from _under("original", original_lines(statement))
    yield from _under("run with", run_lines(statement))
    yield "tested with"
    for entry in statement.configuration:
        yield f"{'':<{_WIDTH}}sha256 {entry.sha256 or '-' * 64}  {_entry_name(entry.name)}"
    checks = {str(check["name"]): check for check in checks_of(statement)}
    for title, names in (
        ("passed", statement.passed),
        ("warned", statement.warned),
        ("failed", statement.failed),
    ):
        lines = (line for name in names for line in _check_lines(name, checks.get(name, {})))
        yield from _under(title, lines)
    yield from _under("not shown", not_shown(statement))


def _under(title: str, lines: Iterable[str]) -> Iterator[str]:
    for at, line in enumerate(lines):
        yield f"{title if at == 0 else '':<{_WIDTH}}{line}"


def _signer(certificate: Certificate) -> Iterator[str]:
    yield one_line(certificate.signer, 300)
    if certificate.signer.startswith("key "):
        yield "`sha256sum` of the public key's PEM file; compare it with what the signer told you"


def _entry_name(name: str) -> str:
    shown = one_line(name)
    if name == REPORT:  # the one entry whose file has another name on every disk
        return f"{shown} (what --compsec-report=NAME.json of that run wrote)"
    return shown


def _check_lines(name: str, check: Mapping[str, Any]) -> Iterator[str]:
    summary = check.get("summary")
    yield one_line(name, 300) + (f": {one_line(str(summary), 300)}" if summary else "")
    numbers = number_line(check)
    if numbers:
        yield f"  {numbers}"


def _text(value: Mapping[str, Any], key: str) -> str:
    return one_line(str(value.get(key, "")), 60)
