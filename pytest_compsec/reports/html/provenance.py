"""What was measured with what: artefacts, inputs, machines, and the run itself, as tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_compsec.reports.facts import Report
from pytest_compsec.reports.html.decision import left_out, reason
from pytest_compsec.reports.html.words import check_title
from pytest_compsec.reports.memory import memory_lines
from pytest_compsec.verdict import CheckResult

Pairs = tuple[tuple[str, str], ...]
_ARMS = ("original", "compressed")


@dataclasses.dataclass(frozen=True)
class Artefact:
    """One model as it was tested; ``facts`` are all else that is known of it."""

    role: str
    name: str
    weights_digest: str
    facts: Pairs


@dataclasses.dataclass(frozen=True)
class Provenance:
    """``settings`` of the run, ``artefacts`` tested, ``inputs`` (prompts, judges, generation, ...)
    each with the checks that used it, and checks that did not run."""

    settings: Pairs
    lock_digests: tuple[str, ...]
    artefacts: tuple[Artefact, ...]
    inputs: tuple[tuple[str, str, Pairs], ...]
    absent: tuple[tuple[str, str, str, str], ...]
    memory: tuple[str, ...]


def provenance_of(report: Report) -> Provenance:
    """The tables of the section."""
    digests = [suite.lock_digest for suite in report.facts.suites]
    digests += [str(result.provenance.get("lock_digest") or "") for result in report.results]
    return Provenance(
        _settings(report),
        tuple(dict.fromkeys(digest for digest in digests if digest)),
        _artefacts(report.results),
        _inputs(report.results),
        tuple((one.test, one.check, one.pair, reason(one)) for one in left_out(report)),
        tuple(memory_lines(report.memory)) if report.memory is not None else (),
    )


def _settings(report: Report) -> Pairs:
    facts = report.facts
    return (
        ("pytest-compsec", facts.version),
        ("started", facts.started),
        ("report made", facts.created),
        ("exit status of pytest", str(facts.exit_status)),
        ("finished", "no" if facts.interrupted else "yes"),
        ("arguments of pytest", " ".join(facts.command) or "none"),
        ("tests left out by", "; ".join(facts.selection) or "nothing on the command line"),
        *flat(facts.settings),
    )


def _artefacts(results: Sequence[CheckResult]) -> tuple[Artefact, ...]:
    found: dict[tuple[str, str, Pairs], Artefact] = {}
    for result in results:
        for role in _ARMS:
            arm = result.provenance.get(role)
            if isinstance(arm, Mapping):
                rest = {k: v for k, v in arm.items() if k not in ("name", "weights_digest")}
                name = str(arm.get("name") or result.pair)
                digest = str(arm.get("weights_digest") or "")
                one = Artefact(role, name, digest, flat(rest))
                found.setdefault((name, digest, one.facts), one)
    return tuple(sorted(found.values(), key=lambda one: (one.role != "original", one.name)))


def _inputs(results: Sequence[CheckResult]) -> tuple[tuple[str, str, Pairs], ...]:
    """Everything else in the results' provenance: what it is, which checks used it, its facts."""
    users: dict[tuple[str, Pairs], dict[str, None]] = {}
    for result in results:
        for key, value in result.provenance.items():
            if key not in (*_ARMS, "lock_digest"):
                users.setdefault((str(key), flat(value)), {}).setdefault(check_title(result))
    everywhere = {check_title(result) for result in results}
    return tuple(
        (key, "all checks" if set(checks) == everywhere else ", ".join(sorted(checks)), facts)
        for (key, facts), checks in sorted(users.items())
    )


def flat(value: Any, name: str = "") -> Pairs:
    """Nested data as pairs of a dotted name and a text."""
    if isinstance(value, Mapping):
        return tuple(
            pair
            for key, item in value.items()
            for pair in flat(item, f"{name}.{key}" if name else str(key))
        )
    if isinstance(value, (list, tuple)):
        if any(isinstance(item, (Mapping, list, tuple)) for item in value):
            return tuple(
                pair for at, item in enumerate(value) for pair in flat(item, f"{name}[{at}]")
            )
        return ((name, ", ".join(map(text_of, value)) or "none"),)
    return ((name, text_of(value)),)


def text_of(value: Any) -> str:
    """A plain value as a reader expects it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
