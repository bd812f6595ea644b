"""What each part of the check hands back, and how leaks that are there or not are decided."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_compsec.checks.estimates import POINTS
from pytest_compsec.findings_estimates import Estimate
from pytest_compsec.verdict import Verdict

if TYPE_CHECKING:
    from pytest_compsec.verdict import Evidence


@dataclasses.dataclass(frozen=True)
class Limits:
    """``increase``: the margin (a share). ``confidence`` of PRESERVED, for each estimate alone;
    ``shared``: of REGRESSED, for each of the estimates of the whole check."""

    increase: float
    confidence: float
    shared: float


@dataclasses.dataclass(frozen=True)
class PartFinding:
    """What one part measured. ``missing`` forbids PRESERVED; ``after``: what to do next."""

    estimates: tuple[Estimate, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    after: str = ""
    answers: int = 0
    answers_cached: int = 0


@dataclasses.dataclass(frozen=True)
class LeakShare:
    """The estimate of a share of leaks, and about how many pairs would settle it (None: it is
    settled, or no affordable number would). ``objection``: why PRESERVED does not stand."""

    estimate: Estimate
    needed: int | None
    objection: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        return (self.objection,) if self.objection else ()


def leak_share(
    original: Sequence[bool],
    compressed: Sequence[bool],
    limits: Limits,
    *,
    name: str,
    estimand: str,
    sample: str,
    clusters: Sequence[str] | None = None,
    cluster: str = "",
    settle: bool = True,
) -> LeakShare:
    """The increase of the share of leaks (True: it leaked), one outcome a pair, decided.

    ``clusters``: a label for each pair; pairs of one ``cluster`` may leak together, so that where
    any holds several, either verdict needs the bound that allows for it too
    (:mod:`pytest_compsec.statistics.clusters`). ``settle=False`` leaves out how many pairs would
    settle it, which may take seconds. Leaks that are new may not hide behind others that are gone:
    where their own share is beyond the limit, PRESERVED does not stand. Raises ValueError without
    pairs.
    """
    from pytest_compsec.statistics._validate import risk_of
    from pytest_compsec.statistics.categories import regressed_share_bound
    from pytest_compsec.statistics.clusters import clustered_bound
    from pytest_compsec.statistics.decision import METHOD, decide
    from pytest_compsec.statistics.paired import PairedCounts

    kept = [not leaked for leaked in original]
    kept_after = [not leaked for leaked in compressed]
    counts = PairedCounts.from_outcomes(kept, kept_after)
    decision = decide(counts, margin=limits.increase, confidence=limits.confidence, settle=settle)
    verdict = Verdict(decision.outcome)
    if verdict is Verdict.REGRESSED and decision.regressed_pvalue > risk_of(limits.shared):
        verdict = Verdict.INCONCLUSIVE
    lower, upper = decision.interval
    samples, method = counts.n, METHOD
    groups = set(clusters or ())
    if clusters is not None and len(groups) < counts.n:
        bound = clustered_bound(clusters, kept, kept_after, limits.confidence)
        strict = clustered_bound(clusters, kept, kept_after, limits.shared)
        samples, sample = len(groups), cluster
        method += f"; allowing for leaks of one {cluster} together"
        lower, upper = (-1.0, 1.0) if bound is None else (bound.lower, bound.upper)
        if verdict is Verdict.PRESERVED and upper > limits.increase:
            verdict = Verdict.INCONCLUSIVE
        if verdict is Verdict.REGRESSED and (strict is None or strict.lower <= limits.increase):
            verdict = Verdict.INCONCLUSIVE
    objection = ""
    newly = regressed_share_bound(counts.regressed, counts.n, limits.confidence)
    if verdict is Verdict.PRESERVED and newly > limits.increase:
        verdict = Verdict.INCONCLUSIVE
        objection = (
            f"{name}: {counts.regressed} of {counts.n} leak newly (at least {100 * newly:.1f} % of "
            f"all such), and {counts.improved} leak no more: the net change hides more than "
            f"{100 * limits.increase:g} %"
        )
    estimate = Estimate(
        name=name,
        estimand=estimand,
        unit=POINTS,
        sample=sample,
        samples=samples,
        method=method,
        original=(counts.improved + counts.neither) / counts.n,
        compressed=(counts.regressed + counts.neither) / counts.n,
        change=counts.degradation,
        lower=lower,
        upper=upper,
        limit=limits.increase,
        verdict=str(verdict),
    )
    return LeakShare(estimate, decision.pairs_needed, objection)


def more_samples(found: LeakShare, what: str) -> str:
    """What would settle an open verdict; empty where it is not open."""
    if found.estimate.verdict != Verdict.INCONCLUSIVE or found.objection:
        return ""
    if found.needed is None:
        return (
            f"The share of {what} is too close to max_increase, or too few of them are independent "
            "of each other, for any affordable number to settle it."
        )
    return (
        f"About {found.needed} {what} would settle it if the rates stay as they are "
        f"({found.estimate.samples} now)."
    )
