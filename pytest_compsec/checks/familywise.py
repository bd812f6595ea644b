"""Several variants claimed safe at once: PRESERVED that survives the choice of whichever passed.

Whoever tests five variants and ships the one that came out PRESERVED has five chances to be wrong.
Holm (1979) keeps the chance of any false PRESERVED in the run at alpha, over the pairs of one
check. Different checks of one pair need no correction: shipping asks for all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pytest_compsec.checks.estimates import shared_confidence
from pytest_compsec.checks.next_steps import familywise_step
from pytest_compsec.checks.wording import NOT_SEEN
from pytest_compsec.findings import Familywise
from pytest_compsec.statistics.multiplicity import holm, holm_threshold
from pytest_compsec.verdict import CheckResult, Verdict


def holm_over(results: Sequence[CheckResult], count: int | None = None) -> list[CheckResult]:
    """All results of one check in a run, PRESERVED withheld where Holm does not confirm it.

    ``count`` is the size of the family, at least as many as there are results: a member without a
    p-value (left out, not measured, or stopped early as REGRESSED) counts as 1.
    """
    pvalues = [_pvalue(result) for result in results]
    size = max(len(results), count or 0)
    adjusted = holm([*pvalues, *[1.0] * (size - len(results))])
    return [
        _held_against(result, Familywise(size, "holm", pvalue=pvalue, adjusted_pvalue=after))
        for result, pvalue, after in zip(results, pvalues, adjusted, strict=False)
    ]


def bonferroni(result: CheckResult, count: int) -> CheckResult:
    """One result of ``count``, where the others are not known (each worker of pytest-xdist
    measures its own): Holm's first step, which is never more lenient than Holm."""
    risk = 1 - result.confidence
    pvalue = _pvalue(result)
    adjusted = min(1.0, pvalue * risk / holm_threshold(count, risk))
    return _held_against(
        result, Familywise(count, "bonferroni", pvalue=pvalue, adjusted_pvalue=adjusted)
    )


def shared_arguments(arguments: Any, count: int) -> Any:
    """The arguments of a check that decides by bounds, at its share of the risk of a family of
    ``count`` (Bonferroni)."""
    confidence = shared_confidence(arguments.confidence, count)
    return dataclasses.replace(arguments, confidence=confidence)


def at_shared_risk(result: CheckResult, count: int) -> CheckResult:
    """Say of a result that it was decided at its share of the risk."""
    note = (
        f"familywise: one of {count} pairs tested in this run, decided at its share of the risk "
        f"({100 * result.confidence:.5g} % confidence, Bonferroni)"
    )
    return dataclasses.replace(result, notes=(note, *result.notes))


def uncorrected(result: CheckResult, count: int) -> CheckResult:
    """A result by bounds that a test's body made at the whole risk: PRESERVED does not stand."""
    if result.verdict is not Verdict.PRESERVED or count <= 1:
        return result
    reason = (
        f"familywise: one of {count} pairs, and bounds that were made by hand at the whole risk "
        f"cannot be corrected; mark a test with @{result.check} instead"
    )
    return dataclasses.replace(
        result,
        verdict=Verdict.INCONCLUSIVE,
        summary=result.summary.replace(str(Verdict.PRESERVED), str(Verdict.INCONCLUSIVE), 1),
        withheld=(*result.withheld, reason),
        notes=(reason, *result.notes),
    )


def _pvalue(result: CheckResult) -> float:
    if result.verdict is not Verdict.PRESERVED:
        return 1.0
    if result.backdoor is not None:
        return result.backdoor.preserved_pvalue
    if result.measurement is None:
        return 1.0
    # per_category: PRESERVED asks for the worst category's test as well (intersection-union).
    worst = [result.measurement.preserved_pvalue]
    if result.arguments.get("per_category"):
        worst += [category.preserved_pvalue for category in result.categories]
    return max(worst)


def _held_against(result: CheckResult, family: Familywise) -> CheckResult:
    result = dataclasses.replace(result, familywise=family)
    risk = 1 - result.confidence
    if result.verdict is not Verdict.PRESERVED or family.adjusted_pvalue <= risk:
        return result
    reason = (
        f"familywise: one of {family.count} pairs tested in this run; its p-value "
        f"{family.pvalue:.2g} is {family.adjusted_pvalue:.2g} after {family.method.title()}'s "
        f"correction, above {risk:.2g}"
    )
    return dataclasses.replace(
        result,
        verdict=Verdict.INCONCLUSIVE,
        summary=result.summary.replace(str(Verdict.PRESERVED), str(Verdict.INCONCLUSIVE), 1),
        withheld=(*result.withheld, reason),
        # The sentence about what PRESERVED promises goes with it.
        notes=(reason, *(note for note in result.notes if not note.startswith(NOT_SEEN))),
        next_step=familywise_step(result),
    )
