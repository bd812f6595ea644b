"""What this run knows of the safety of a pair, for ``precision_policy``.

A check sees its own pair and not the run; other tests may come before it or after. So the policy
asks here, and here every collected test of the same pair with a safety check counts: one that has
finished with its result, another is measured now, as :mod:`pytest_compsec.family` measures the
members of a family, and its own test finds its result ready. One that then skips, or fails where
that is expected, and so ends without that result, fails: a policy relied on it. Under pytest-xdist
all tests of a pair are on one worker; where they are not, the worker measures what it lacks itself.

Results that a test's body makes by hand are not known before it ran, and are none of these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_compsec.checks.safety_evidence import SAFETY_CHECKS, SafetyEvidence, digest_in
from pytest_compsec.collection import pair_id, pair_parameter
from pytest_compsec.errors import IntegrityError
from pytest_compsec.markers import MarkedCheck
from pytest_compsec.run import CHECKS, RESULTS, Expected, PairParameter, Run, not_measured
from pytest_compsec.verdict import CheckResult, Verdict

if TYPE_CHECKING:
    from pytest_compsec.models.pair import ModelPair


def gather(run: Run, item: pytest.Function) -> SafetyEvidence:
    """The results of the safety checks of the pair of ``item``, measured now where need be.

    Raises IntegrityError when files turn out to be other ones.
    """
    results: list[CheckResult] = []
    barred: list[str] = []
    for other, check in _safety_tests(run, item):
        reason = _why_no_evidence(other)
        if reason is not None:
            barred.append(f"{other.nodeid} {reason}, so its {check.arguments.check} is no evidence")
            continue
        results.append(_result_of(run, item, other, check))
    return SafetyEvidence(tuple(results), tuple(barred))


def _safety_tests(run: Run, item: pytest.Function) -> Iterator[tuple[pytest.Function, MarkedCheck]]:
    """Every collected test on the same pair with a safety check; what ``-k`` left out is gone."""
    place = _place(run, item)
    for other in item.session.items:
        if not isinstance(other, pytest.Function) or _place(run, other) != place:
            continue
        for check in other.stash.get(CHECKS, []):
            if check.arguments.check in SAFETY_CHECKS:
                yield other, check


def _place(run: Run, item: pytest.Function) -> tuple[Path | None, str] | None:
    """The config and the id of a test's pair; None for a test without one. The user's own
    parametrization names a pair by its id alone."""
    parameter = pair_parameter(item)
    if parameter is None or isinstance(parameter, PairParameter):
        return None if parameter is None else (parameter.config, parameter.pair)
    suite = run.suite_of(item.path)
    return (None if suite is None else suite.path), pair_id(item)


def _result_of(
    run: Run, item: pytest.Function, other: pytest.Function, check: MarkedCheck
) -> CheckResult:
    from pytest_compsec.family import measure_ahead

    key = (other.nodeid, check.arguments.check)
    if key in run.finished_here:
        return _of_this_artefact(run.finished_here[key], item)
    if other is item:  # Two markers on one test: the first has its result already.
        for result in other.stash.get(RESULTS, []):
            if result.check == check.arguments.check:
                return _of_this_artefact(result, item)
    found = measure_ahead(run, other, check, _pair_of(item))
    if isinstance(found, IntegrityError):
        raise found
    if isinstance(found, CheckResult):
        if found.verdict is Verdict.PRESERVED:  # its test may still skip in its body
            run.relied_on[key] = item.nodeid
        return found
    arguments = check.arguments
    expected = Expected(
        other.nodeid, arguments.check, pair_id(other), arguments.margin, arguments.confidence
    )
    return _of_this_artefact(not_measured(expected, str(found)), item)


def _of_this_artefact(result: CheckResult, item: pytest.Function) -> CheckResult:
    """A measurement that failed, or never began, says of no weights that it is about them; it was
    of these, and is no less an objection for that."""
    if digest_in(result) is not None:
        return result
    digest = _pair_of(item).compressed_arm.weights_digest
    return dataclasses.replace(result, provenance={"compressed": {"weights_digest": digest}})


def _pair_of(item: pytest.Function) -> ModelPair:
    pair: Any = item.funcargs["model_pair"]
    asked: ModelPair = pair
    return asked


def _why_no_evidence(item: pytest.Item) -> str | None:
    """What keeps a test's result from counting, as its marks say; None where nothing does. A
    condition in a text is not evaluated, but taken to hold."""
    for mark in item.iter_markers():
        if mark.name == "skip":
            return "is skipped"
        if mark.name == "skipif" and _holds(mark, default=False):
            return "is skipped"
        expects = mark.name == "xfail" and not item.config.getoption("runxfail", False)
        if expects and _holds(mark, default=True):
            return "is expected to fail (xfail)"
    return None


def _holds(mark: pytest.Mark, *, default: bool) -> bool:
    conditions = mark.args or tuple(
        mark.kwargs[key] for key in ("condition",) if key in mark.kwargs
    )
    if not conditions:
        return default
    return any(not isinstance(one, bool) or one for one in conditions)
