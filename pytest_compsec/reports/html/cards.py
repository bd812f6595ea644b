"""One card for each result: what was found, what to do, with which arguments, all its numbers."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from pytest_compsec.checks.estimates import change_text, level, number
from pytest_compsec.findings_estimates import Difference, Estimate
from pytest_compsec.frameworks import NIST, OWASP, frameworks_of
from pytest_compsec.reports.facts import Report
from pytest_compsec.reports.html.evidence_rows import kind_of_row
from pytest_compsec.reports.html.provenance import Pairs, flat
from pytest_compsec.reports.html.words import CLASSES, anchor, check_title
from pytest_compsec.reports.terminal import HEAD, cells
from pytest_compsec.verdict import CheckResult, Verdict

#: Records beside a verdict, by the name of their field.
_FINDINGS = {
    "clustering": "When the prompts of a category resemble each other",
    "noise_floor": "Noise floor",
    "judge_correction": "Corrected for the judge's errors",
    "familywise": "Corrected for the number of variants",
    "texts": "Broken text",
    "signal": "Refusal log-odds at the first token",
    "stopping": "Stopped early",
    "bypasses": "Bypasses",
    "backdoor": "Backdoor",
    "robustness": "Robustness",
}


@dataclasses.dataclass(frozen=True)
class EstimateRow:
    """An estimate in words, and the pair and check that it belongs to."""

    pair: str
    check: str
    anchor: str
    name: str
    estimand: str
    original: str
    compressed: str
    change: str
    limit: str
    samples: str
    verdict: str
    style: str
    method: str


@dataclasses.dataclass(frozen=True)
class Card:
    """Everything that the page says of one result."""

    anchor: str
    title: str
    result: CheckResult
    style: str
    row: Mapping[str, str]
    arguments: Pairs
    counts: Pairs
    findings: tuple[tuple[str, Pairs], ...]
    estimates: tuple[EstimateRow, ...]
    differences: tuple[Difference, ...]
    owasp: tuple[str, ...]
    nist: tuple[str, ...]
    provenance: Pairs
    outcome: str
    kinds: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class FrameworkRow:
    """A check and the entries that it gives evidence for, each an identifier and its name."""

    check: str
    owasp: tuple[tuple[str, str], ...]
    nist: tuple[tuple[str, str], ...]


def cards_of(report: Report) -> tuple[Card, ...]:
    """In the order of the results."""
    outcomes = {(one.test, one.check): one.outcome or "" for one in report.facts.checks}
    return tuple(
        _card(result, place, outcomes.get((result.test, result.check), ""))
        for place, result in enumerate(report.results)
    )


def _card(result: CheckResult, place: int, outcome: str) -> Card:
    terms = frameworks_of(result.check)
    return Card(
        anchor(place),
        check_title(result),
        result,
        CLASSES[result.verdict],
        dict(zip(HEAD, cells(result), strict=True)),
        tuple((str(name), repr(value)) for name, value in result.arguments.items()),
        _counts(result),
        _findings(result),
        tuple(_estimate(one, result, place) for one in result.estimates),
        result.differences,
        terms.owasp,
        terms.nist,
        flat(result.provenance),
        outcome,
        collections.Counter(kind_of_row(row) for row in result.evidence),
    )


def _counts(result: CheckResult) -> Pairs:
    """The paired table and its tests."""
    measured = result.measurement
    if measured is None:
        return ()
    return (
        ("prompts or samples", f"{measured.n:,}"),
        ("safe in both", f"{measured.both:,}"),
        ("regressed", f"{measured.regressed:,}"),
        ("improved", f"{measured.improved:,}"),
        ("safe in neither", f"{measured.neither:,}"),
        ("not judged", f"{result.unmeasured:,}"),
        ("p-value of a degradation of the limit or more", f"{measured.preserved_pvalue:.3g}"),
        ("p-value of a degradation of the limit or less", f"{measured.regressed_pvalue:.3g}"),
    )


def _findings(result: CheckResult) -> tuple[tuple[str, Pairs], ...]:
    found = []
    for field, title in _FINDINGS.items():
        record = getattr(result, field)
        if record is not None:
            found.append((title, flat(dataclasses.asdict(record))))
    return tuple(found)


def _estimate(one: Estimate, result: CheckResult, place: int) -> EstimateRow:
    def shown(value: float | None) -> str:
        return "–" if value is None else level(value, one.unit)

    return EstimateRow(
        result.pair,
        check_title(result),
        anchor(place),
        one.name,
        one.estimand,
        shown(one.original),
        shown(one.compressed),
        "–" if one.change is None else change_text(one),
        "shown only" if one.limit is None else number(one.limit, one.unit),
        f"{one.samples:,} × {one.sample}",
        one.verdict,
        CLASSES[Verdict(one.verdict)] if one.verdict else "absent",
        one.method,
    )


def framework_rows(results: Sequence[CheckResult]) -> tuple[FrameworkRow, ...]:
    """One row for each kind of check in the run."""
    rows = []
    for check in sorted({result.check for result in results}):
        terms = frameworks_of(check)
        rows.append(
            FrameworkRow(
                check,
                tuple((name, OWASP.get(name, "")) for name in terms.owasp),
                tuple((name, NIST.get(name, "")) for name in terms.nist),
            )
        )
    return tuple(rows)
