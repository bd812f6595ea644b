"""Why a run is no proof that an artefact passed: every reason, each in one sentence.

A certificate says PASSED only where there is none. What cannot be told counts as a reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from pytest_compsec.models.artefact_facts import weights_in
from pytest_compsec.reports.facts import CollectedCheck, Report, RunFacts, SuiteFacts
from pytest_compsec.verdict import CheckResult, Verdict

ASK_ANEW = "ask anew with --compsec-no-cache"


@dataclasses.dataclass(frozen=True)
class Artefact:
    """The compressed model of one pair of one suite; ``config`` is the path of its compsec.yaml,
    from the root of the run."""

    pair: str
    config: str


@dataclasses.dataclass(frozen=True)
class Checked:
    """One check of an artefact: as collected (None: a test's body made it by hand), its result
    (None: there is none), and what speaks against it."""

    test: str
    check: str
    collected: CollectedCheck | None
    result: CheckResult | None
    objections: tuple[str, ...]

    @property
    def name(self) -> str:
        """The test and the check, as the certificate lists them."""
        return f"{self.test} {self.check}"


def artefacts_of(report: Report) -> tuple[Artefact, ...]:
    """Every compressed model of which something was to be measured, in the order of collection."""
    found = [
        Artefact(check.pair, check.config)
        for check in report.facts.checks
        if check.pair and check.state != "deselected"
    ]
    by_test = {check.test: check.config for check in report.facts.checks}
    for result in report.results:
        config = by_test.get(result.test) or _config_by_lock(result, report.facts)
        if result.pair and config is not None:
            found.append(Artefact(result.pair, config))
    return tuple(dict.fromkeys(found))


def objections(report: Report, artefact: Artefact) -> list[str]:
    """Every reason why this run does not prove that ``artefact`` passed; none: it does."""
    return list(
        dict.fromkeys(
            [
                *run_objections(report, artefact),
                *_of_checks(report, artefact),
                *(
                    f"of {other.pair} ({other.config}), which is the same files of weights: {text}"
                    for other in _same_files(report, artefact)
                    for text in _of_checks(report, other)
                ),
            ]
        )
    )


def _of_checks(report: Report, artefact: Artefact) -> list[str]:
    return [f"{one.name}: {text}" for one in checks_of(report, artefact) for text in one.objections]


def _same_files(report: Report, artefact: Artefact) -> list[Artefact]:
    """Other pairs that name the same files. A certificate is about the files: under which names
    and system prompts a run tested them makes two of them no two artefacts."""
    own = _weight_files(report, artefact)
    return [
        other
        for other in artefacts_of(report)
        if other != artefact and own & _weight_files(report, other)
    ]


def _weight_files(report: Report, artefact: Artefact) -> set[frozenset[str]]:
    found = {
        weights_in(result.provenance.get("compressed")) for result in results_of(report, artefact)
    }
    return found - {frozenset()}


def checks_of(report: Report, artefact: Artefact) -> tuple[Checked, ...]:
    """All checks of the artefact: those collected, and those that tests made by hand."""
    collected = {
        (check.test, check.check): check
        for check in report.facts.checks
        if _concerns(check.pair, check.config, artefact)
    }
    suite = suite_of(report, artefact)
    results = results_of(report, artefact)
    seen: set[tuple[str, str]] = set()
    found = []
    for result in results:
        key = (result.test, result.check)
        seen.add(key)
        texts = [
            *_of_collected(collected.get(key), report, result.test),
            *_of_result(result, report.facts.settings, suite),
        ]
        found.append(Checked(*key, collected.get(key), result, tuple(texts)))
    for key, check in collected.items():
        if key not in seen:
            texts = [*_of_collected(check, report, check.test)]
            found.append(Checked(*key, check, None, tuple(texts or ["it has no result"])))
    return tuple(sorted(found, key=lambda one: one.name))


def results_of(report: Report, artefact: Artefact) -> tuple[CheckResult, ...]:
    """The results about the artefact. One of which it cannot be told whose pair of this name it is
    about counts for each of them."""
    by_test = {check.test: check.config for check in report.facts.checks}
    return tuple(
        result
        for result in report.results
        if _concerns(
            result.pair,
            by_test.get(result.test) or _config_by_lock(result, report.facts) or "",
            artefact,
        )
    )


def suite_of(report: Report, artefact: Artefact) -> SuiteFacts | None:
    """What the run knows of the artefact's config and lock."""
    return next((one for one in report.facts.suites if one.config == artefact.config), None)


def run_objections(report: Report, artefact: Artefact) -> list[str]:
    """What speaks against the whole run, whichever check one asks for."""
    facts = report.facts
    found = [f"an integrity check failed: {text.splitlines()[0]}" for text in facts.integrity]
    found += [f"tests may have been left out ({text})" for text in facts.selection]
    found += [
        f"tests of other files may have been left out ({text}): name their folder, or nothing"
        for text in facts.command
        if text.endswith(".py") and not text.startswith("-") and text not in facts.selection
    ]
    if facts.interrupted:
        found.append("the run was stopped before its end")
    if facts.exit_status not in (0, 1):
        found.append(f"the run ended with exit status {facts.exit_status}")
    elif facts.exit_status == 1 and not _failure_explained(report):
        found.append(
            "the run failed, and none of its checks says why: a test without a check failed, or a "
            "test file could not be read"
        )
    if not checks_of_pair(facts, artefact):
        found.append("no test with a marker was collected for it")
    if suite_of(report, artefact) is None:
        found.append(f"the digests of {artefact.config or 'its compsec.yaml'} are not known")
    digests = {_weights_digest(result) for result in results_of(report, artefact)} - {None}
    if len(digests) > 1:
        found.append("its results are about different weights")
    return found


def checks_of_pair(facts: RunFacts, artefact: Artefact) -> tuple[CollectedCheck, ...]:
    """What was collected for exactly this pair."""
    return tuple(
        check
        for check in facts.checks
        if (check.pair, check.config) == (artefact.pair, artefact.config)
    )


def _concerns(pair: str, config: str, artefact: Artefact) -> bool:
    # Without a pair, or a config, it may be about this artefact as about any other.
    return pair in (artefact.pair, "") and config in (artefact.config, "")


def _config_by_lock(result: CheckResult, facts: RunFacts) -> str | None:
    digest = result.provenance.get("lock_digest")
    found = [suite.config for suite in facts.suites if suite.lock_digest == digest]
    return found[0] if len(found) == 1 else None


def _failure_explained(report: Report) -> bool:
    checks, results = report.facts.checks, report.results
    return any(
        check.outcome in ("failed", "error") or check.state == "unfinished" for check in checks
    ) or any(result.verdict is not Verdict.PRESERVED for result in results)


def _of_collected(check: CollectedCheck | None, report: Report, test: str) -> Iterator[str]:
    if check is None:  # made by hand: what became of the test is known where it has a marker, too
        others = {one.outcome for one in report.facts.checks if one.test == test}
        if others != {"passed"}:
            yield "its test did not pass" if others else "what became of its test is not known"
        return
    if check.state == "deselected":
        yield "was left out of the run"
    elif check.state == "unfinished":
        yield "did not finish"
    elif check.outcome != "passed":
        yield f"its test {_BECAME.get(check.outcome or '', 'has no known outcome')}"


_BECAME = {
    "failed": "failed",
    "skipped": "was skipped",
    "xfailed": "failed as expected (xfail)",
    "xpassed": "was expected to fail (xfail)",
    "error": "ended in an error",
}


def _of_result(
    result: CheckResult, settings: Mapping[str, Any], suite: SuiteFacts | None
) -> Iterator[str]:
    if result.verdict is not Verdict.PRESERVED:
        yield f"is {result.verdict}"
    if result.expected:
        yield "its verdict was expected (xfail)"
    attempt = result.provenance.get("attempt")
    if attempt is not None:
        yield f"is what attempt {attempt} of its test found, after others that did not pass"
    yield from _of_cache(result, settings)
    if _weights_digest(result) is None:
        yield "does not say which weights it is about"
    lock = result.provenance.get("lock_digest")
    if suite is not None and lock != suite.lock_digest:
        yield (
            "does not say under which lock it was measured"
            if lock is None
            else "was measured under another lock than the run's"
        )


def _of_cache(result: CheckResult, settings: Mapping[str, Any]) -> Iterator[str]:
    if result.answers_cached:
        yield (
            f"{result.answers_cached} of {result.answers} answers came from the cache of earlier "
            f"runs; {ASK_ANEW}"
        )
    judge = result.provenance.get("judge")
    cached = judge.get("cached") if isinstance(judge, Mapping) else 0
    if cached:
        yield f"{cached} outcomes of its judge came from the cache; {ASK_ANEW}"
    if settings.get("use_cache", True) and not result.answers and not _counts(result.check):
        yield f"does not say how many answers came from the cache of earlier runs; {ASK_ANEW}"


def _counts(check: str) -> bool:
    """Checks of this package count answers of the cache, or take none; another's may not."""
    from pytest_compsec.markers import MARKERS

    return check in MARKERS


def _weights_digest(result: CheckResult) -> str | None:
    arm = result.provenance.get("compressed")
    found = arm.get("weights_digest") if isinstance(arm, Mapping) else None
    return found if isinstance(found, str) else None
