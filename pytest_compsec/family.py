"""The pairs of a run as one family of hypotheses, for ``--compsec-familywise``.

Holm needs the p-values of all pairs before the first test may pass. In one process the first test
of a family therefore measures them all, and the others find their result ready. A worker of
pytest-xdist knows only its own tests: there each is held against Holm's first step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_compsec.collection import pair_parameter
from pytest_compsec.givens import given_to
from pytest_compsec.run import CHECKS, PairParameter, Run
from pytest_compsec.verdict import CheckResult

if TYPE_CHECKING:
    from pytest_compsec.markers import MarkedCheck
    from pytest_compsec.models.pair import ModelPair

Member = tuple[pytest.Item, "MarkedCheck"]


def measure(run: Run, item: pytest.Function, check: MarkedCheck) -> CheckResult:
    """Measure one check of one test, corrected for its family where that was asked for."""
    ready = run.ahead.pop((item.nodeid, check.arguments.check), None)
    if isinstance(ready, Exception):
        raise ready
    if ready is not None:
        return ready
    asked: Any = item.funcargs["model_pair"]
    return _measured(run, item, check, given_to(item, check, asked))


def measure_ahead(
    run: Run, item: pytest.Function, check: MarkedCheck, pair: ModelPair
) -> CheckResult | Exception:
    """What :func:`measure` will find for a test that has not run, measured now on ``pair``, which
    is its own; an error is found, too. For checks that take nothing from fixtures."""
    key = (item.nodeid, check.arguments.check)
    if key not in run.ahead:
        try:
            run.ahead[key] = _measured(run, item, check, pair)
        except Exception as error:  # raised again by the test whose measurement it is
            run.ahead[key] = error
    return run.ahead[key]


def _measured(run: Run, item: pytest.Function, check: MarkedCheck, pair: ModelPair) -> CheckResult:
    from pytest_compsec.evidence import gather

    asking: Any = check.arguments
    if hasattr(asking, "with_evidence"):
        # What else this run knows of the pair; the check asks for it only where it needs it.
        asking = asking.with_evidence(lambda: gather(run, item))
        return check.marker.measure(pair, asking, test=item.nodeid)
    # A check that is certain by itself is never wrong by chance, however many pairs there are.
    if not run.settings.familywise or check.arguments.confidence >= 1:
        return check.marker.measure(pair, check.arguments, test=item.nodeid)
    from pytest_compsec.checks.familywise import at_shared_risk, bonferroni, shared_arguments

    members = family_of(item, check)
    if check.marker.by_estimates:
        size = size_of(run, check.arguments.check, len(members))
        asking = shared_arguments(check.arguments, size)
        return at_shared_risk(check.marker.measure(pair, asking, test=item.nodeid), size)
    # What other tests' fixtures will give is not known before they run.
    if run.is_worker or check.marker.fixtures:
        result = check.marker.measure(pair, check.arguments, test=item.nodeid)
        return bonferroni(result, size_of(run, check.arguments.check, len(members)))
    key = (item.nodeid, check.arguments.check)
    if key not in run.family:
        _measure_all(run, members, size_of(run, check.arguments.check, len(members)))
    found = run.family.get(key)
    if isinstance(found, Exception):
        raise found
    if found is None:  # A test that another plugin added after collection: not in the family.
        result = check.marker.measure(pair, check.arguments, test=item.nodeid)
        return bonferroni(result, size_of(run, check.arguments.check, len(members)) + 1)
    return found


def by_hand(run: Run, result: CheckResult, pairs: int) -> CheckResult:
    """A check that a test's body made: how many more it will make is not known, so it is held
    against the marked tests of the run or the ``pairs`` of its suite, whichever are more."""
    if not run.settings.familywise or result.confidence >= 1:
        return result
    from pytest_compsec.checks.familywise import bonferroni, uncorrected

    if result.estimates:
        return uncorrected(result, size_of(run, result.check, pairs))
    return bonferroni(result, size_of(run, result.check, pairs))


def size_of(run: Run, check: str, least: int) -> int:
    """The size of a family: what ``-k`` or a node id left out counts too."""
    return max(least, run.collected[check], run.parametrized[check])


def family_of(item: pytest.Item, check: MarkedCheck) -> list[Member]:
    """Every collected test and marker of the same check."""
    return [
        (other, mark)
        for other in item.session.items
        for mark in other.stash.get(CHECKS, [])
        if mark.arguments.check == check.arguments.check
    ]


def _measure_all(run: Run, members: list[Member], size: int) -> None:
    from pytest_compsec.checks.familywise import holm_over

    done: dict[tuple[str, str], CheckResult] = {}
    for item, check in members:
        key = (item.nodeid, check.arguments.check)
        parameter = pair_parameter(item)
        suite = run.suite_at(parameter.config) if isinstance(parameter, PairParameter) else None
        if suite is None:
            continue
        try:
            done[key] = check.marker.measure(
                suite.pair(parameter.pair), check.arguments, test=item.nodeid
            )
        except Exception as error:  # raised again by the test whose measurement it is
            run.family[key] = error
    # What could not be measured has no p-value, but it is a member of the family.
    run.family.update(zip(done, holm_over(list(done.values()), size), strict=True))
