"""The numbers of one result as plain scalars, under the same names in every format."""

from __future__ import annotations

from pytest_compsec.reports.terminal import decisive
from pytest_compsec.verdict import CheckResult

Scalar = str | int | float


def scalars(result: CheckResult) -> dict[str, Scalar]:
    """The numbers of a result that a system of test results can draw over time: what there is of
    ``verdict``, ``degradation``, ``lower``, ``upper``, ``limit``, ``n``, ``answers``, ``cached``,
    and ``expected`` (1: an xfail names it)."""
    found: dict[str, Scalar | None] = {"verdict": str(result.verdict), "limit": result.limit}
    measured = result.measurement
    if measured is not None:
        found |= {
            "degradation": measured.degradation,
            "lower": measured.interval[0],
            "upper": measured.interval[1],
            "n": measured.n,
        }
    elif result.estimates:
        one = decisive(result.estimates)
        found |= {
            "estimate": one.name,
            "degradation": one.change,
            "lower": one.lower,
            "upper": one.upper,
            "limit": one.limit,
            "n": one.samples,
        }
    elif result.backdoor is not None and result.backdoor.compressed is not None:
        arm = result.backdoor.compressed
        found |= {
            "degradation": arm.delta_asr,
            "lower": arm.lower,
            "upper": arm.upper,
            "n": arm.samples,
        }
    found |= {"answers": result.answers, "cached": result.answers_cached}
    if result.expected:
        found["expected"] = 1
    return {key: value for key, value in found.items() if value is not None}
