"""From several estimates to one verdict, one sentence and one result.

PRESERVED asks that every estimate with a limit is within it (intersection-union test: each at
``confidence``, no correction needed; Berger 1982). REGRESSED asks that one of them is beyond it at
``1 - alpha / k`` for k estimates (Bonferroni), which its caller sees to with
:func:`shared_confidence`. Anything that was not measured forbids PRESERVED.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.checks.plain_result import plain_result
from pytest_compsec.verdict import CheckResult, Verdict

if TYPE_CHECKING:
    from pytest_compsec.checks.selection import SampledArguments
    from pytest_compsec.findings_estimates import Estimate
    from pytest_compsec.models.pair import ModelPair

#: Units that are shares and are shown as percentage points.
POINTS = "points"
#: Questions that anybody writes: a loss that more would be needed for is about at the limit.
MOST_QUESTIONS = 20_000


def shared_confidence(confidence: float, claims: int) -> float:
    """The confidence of each of ``claims`` tests, one of which may be wrong at ``1 - confidence``.

    Raises ValueError for fewer than one claim.
    """
    if claims < 1:
        raise ValueError(f"claims must be at least 1, not {claims}")
    return 1 - (1 - confidence) / claims


def verdict_of_bounds(
    lower: float | None, upper: float | None, limit: float, *, lower_shared: float | None = None
) -> Verdict:
    """PRESERVED where the upper bound of a change is within ``limit``, REGRESSED where the lower
    bound (``lower_shared`` where several estimates share one risk) is beyond it, NOT_MEASURED where
    a bound is missing or no number, else INCONCLUSIVE."""
    beyond = lower if lower_shared is None else lower_shared
    known = [value for value in (lower, upper, beyond) if value is not None]
    if len(known) < 3 or any(math.isnan(value) for value in known):
        return Verdict.NOT_MEASURED
    assert upper is not None
    assert beyond is not None
    if beyond > limit:
        return Verdict.REGRESSED
    return Verdict.PRESERVED if upper <= limit else Verdict.INCONCLUSIVE


def verdict_of_all(estimates: Sequence[Estimate]) -> Verdict:
    """The verdict of the whole: the worst of those that decide; NOT_MEASURED when none does."""
    verdicts = {Verdict(estimate.verdict) for estimate in estimates if estimate.decides}
    for verdict in (
        Verdict.REGRESSED,
        Verdict.NOT_MEASURED,
        Verdict.INCONCLUSIVE,
        Verdict.PRESERVED,
    ):
        if verdict in verdicts:
            return verdict
    return Verdict.NOT_MEASURED


def estimates_result(
    pair: ModelPair,
    arguments: SampledArguments,
    test: str,
    estimates: Sequence[Estimate],
    *,
    verdict: Verdict | None = None,
    missing: Sequence[str] = (),
    after: str = "",
    notes: Sequence[str] = (),
    provenance: Mapping[str, Any] | None = None,
) -> CheckResult:
    """One result out of ``estimates``. ``missing`` says what could not be measured, one text each:
    with any of them nothing is PRESERVED. ``verdict`` replaces that of the estimates
    (:func:`verdict_of_all`), REGRESSED too where they are of no worth; it cannot be PRESERVED where
    they are not (theirs stands then), nor where a bound contradicts it or is no number."""
    found = verdict_of_all(estimates)
    if verdict is not None and verdict is not Verdict.PRESERVED:
        found = verdict
    if found is Verdict.PRESERVED and any(map(_contradicted, estimates)):
        found = Verdict.NOT_MEASURED
    if missing and found is not Verdict.REGRESSED:
        found = Verdict.NOT_MEASURED
    what = "; ".join([*missing, *(sentence(one) for one in estimates if one.decides)])
    result = plain_result(pair, arguments, test, found, what or "nothing was measured", after=after)
    shown = tuple(sentence(one) for one in estimates if not one.decides)
    return dataclasses.replace(
        result,
        estimates=tuple(estimates),
        notes=(*shown, *notes),
        provenance=dict(provenance or {}),
    )


def _contradicted(estimate: Estimate) -> bool:
    """Whether the bounds forbid that an estimate is within its limit. Whether the upper one is
    within it is the business of the test that decides: the interval shown may be another one's."""
    if estimate.limit is None:
        return False
    bounds = [bound for bound in (estimate.lower, estimate.upper) if bound is not None]
    beyond = estimate.lower is not None and estimate.lower > estimate.limit
    return beyond or any(map(math.isnan, bounds))


def sentence(estimate: Estimate) -> str:
    """``perplexity 11.2 -> 12, +7.1 % [+5.0, +9.4], limit 10 % (120 documents)``."""
    unit = estimate.unit
    parts = [estimate.name]
    if estimate.original is not None and estimate.compressed is not None:
        parts.append(f"{level(estimate.original, unit)} -> {level(estimate.compressed, unit)}")
    if estimate.change is not None:
        parts[-1] += "," if len(parts) > 1 else ""
        parts.append(change_text(estimate))
    if estimate.limit is not None:
        parts[-1] = parts[-1].rstrip(",") + ","
        parts.append(f"limit {number(estimate.limit, unit)}")
    parts.append(f"({estimate.samples} {estimate.sample}{'' if estimate.samples == 1 else 's'})")
    return " ".join(parts)


def change_text(estimate: Estimate) -> str:
    """``+7.1 % [+5.0, +9.4]``: the change with its bounds."""
    assert estimate.change is not None
    text = signed(estimate.change, estimate.unit)
    if estimate.lower is None or estimate.upper is None:
        return text
    bare = POINTS if estimate.unit in (POINTS, "relative") else ""
    lower, upper = signed(estimate.lower, bare), signed(estimate.upper, bare)
    return f"{text} [{lower}, {upper}]"


def level(value: float, unit: str) -> str:
    """A value of one model: as :func:`number`, but where only the *change* is relative."""
    return f"{value:.4g}" if unit == "relative" else number(value, unit)


def number(value: float, unit: str) -> str:
    """A value with its unit; shares and relative changes times 100."""
    if unit in (POINTS, "relative"):
        return f"{100 * value:.3g} %"
    return f"{value:.4g} {unit}".rstrip()


def signed(value: float, unit: str) -> str:
    """As :func:`number`, with its sign."""
    if unit == POINTS:
        return f"{100 * value:+.1f}"
    if unit == "relative":
        return f"{100 * value:+.1f} %"
    return f"{value:+.3g} {unit}".rstrip()
