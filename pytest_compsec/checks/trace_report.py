"""From an assessment of traces to the estimates and notes of ``trace_leakage``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_compsec.findings_estimates import Estimate
from pytest_compsec.verdict import Verdict

if TYPE_CHECKING:
    from pytest_compsec.checks.trace_leakage import TraceArguments
    from pytest_compsec.side_channels.traces import Assessment, Traces
    from pytest_compsec.side_channels.traces_file import TraceFile

#: Leaking sample points that are named.
SHOWN = 5
_TVLA = (
    "Welch's t at every sample point, fixed against random, in two halves by the order of "
    "recording (Goodwill et al. 2011; Schneider & Moradi 2015)"
)


def trace_estimates(
    traces: Traces, assessed: Assessment, arguments: TraceArguments
) -> list[Estimate]:
    leaks = bool(assessed.leaks)
    seen = assessed.smallest_seen <= arguments.margin
    # Beyond what chance explains over all traces, but not in both halves: not a leak, and no peace.
    alarming = max(arguments.threshold, assessed.familywise)
    suspicious = not leaks and assessed.largest > alarming
    total = sum(traces.counts)
    rows: list[tuple[str, str, str, str, float, float | None, Verdict]] = [
        ("largest |t| in both halves",
         "the largest |t| that both halves of the traces reach at one sample point with one sign",
         "t", _TVLA, assessed.largest_agreed, arguments.threshold,
         Verdict.REGRESSED if leaks else Verdict.PRESERVED),
        ("smallest leak that would have been seen",
         "the smallest difference of means at a sample point that both halves show with "
         f"probability {arguments.confidence:g}", "standard deviations",
         "(threshold + z) sqrt(2/n + 2/m), normal approximation; both halves",
         assessed.smallest_seen, None if leaks else arguments.margin,
         Verdict.PRESERVED if seen else Verdict.INCONCLUSIVE),
        ("largest |t| over all traces", "the largest |t| of any sample point, halves together",
         "t", "Welch (1947); limit: Sidak's, as Ding et al. (2017) use it",
         assessed.largest, alarming if suspicious else None, Verdict.INCONCLUSIVE),
    ]  # fmt: skip
    return [
        Estimate(
            name=name,
            estimand=estimand,
            unit=unit,
            sample="trace",
            samples=total,
            method=method,
            change=value,
            limit=limit,
            verdict="" if limit is None else str(verdict),
        )
        for name, estimand, unit, method, value, limit, verdict in rows
    ]


def original_estimate(traces: Traces, assessed: Assessment) -> Estimate:
    return Estimate(
        name="largest |t| in both halves, the original's traces",
        estimand="the same of the original's traces; it decides nothing",
        unit="t",
        sample="trace",
        samples=sum(traces.counts),
        method=_TVLA,
        change=assessed.largest_agreed,
    )


def trace_notes(found: TraceFile, assessed: Assessment, arguments: TraceArguments) -> list[str]:
    traces = found.compressed
    fixed, random = traces.counts
    notes = [
        f"at sample point {point}: |t| {abs(assessed.agreed[point]):.1f} or more in both halves, "
        f"{assessed.whole[point]:+.1f} over all traces"
        for point in assessed.leaks[:SHOWN]
    ]
    left = len(assessed.leaks) - SHOWN
    if left > 0:
        notes.append(f"and at {left} more sample points")
    alone = "no proof" if assessed.familywise > arguments.threshold else "beyond that"
    notes.append(
        f"{fixed} fixed and {random} random traces of {traces.points} sample points. When nothing "
        f"leaks, so many points reach |t| {assessed.familywise:.2f} somewhere with probability "
        f"{1 - arguments.confidence:.2g} (Sidak; less where points move together): "
        f"{arguments.threshold:g} over all traces alone is {alone}. In both halves at one point "
        f"with one sign it is chance with probability {assessed.false_alarm:.1g} at most"
    )
    if assessed.constant:
        notes.append(f"{assessed.constant} sample points never vary: no leak could show there")
    if found.weights_digest is None:
        notes.append(
            "nothing in the file says which weights the traces are of: that is the user's word "
            "(an .npz file may hold it as the array 'weights_digest')"
        )
    return notes


def beside(after: Assessment, before: Assessment) -> str:
    both = len(set(after.leaks) & set(before.leaks))
    if not before.leaks:
        return "the original's traces show no leak"
    return (
        f"the original's traces leak at {len(before.leaks)} sample points, {both} of them points "
        "at which the compressed model's leak: those compression did not bring"
    )
