"""Several claims at once: Holm's correction over the pairs of a run.

Needed when one ships whichever variant passed: the more variants are tried, the likelier one of
them passes by luck. Not needed when every one of several claims must hold (see ``categories``).
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_compsec.statistics._validate import real_between, whole_number


def holm(pvalues: Sequence[float]) -> tuple[float, ...]:
    """Holm's adjusted p-values, in the order of the input; an empty input gives an empty tuple.

    Rejecting every hypothesis whose adjusted p-value is at most α wrongly rejects any true one
    with probability at most α, however the tests depend on each other: the k-th smallest of m is
    multiplied by m − k + 1, then made monotone and capped at 1 (Holm, Scandinavian Journal of
    Statistics 6 (1979) 65-70). Raises ValueError for a p-value outside [0, 1], NaN included.
    """
    checked = [
        real_between(f"p-value {position}", value, 0.0, 1.0, with_low=True, with_high=True)
        for position, value in enumerate(pvalues)
    ]
    adjusted = [0.0] * len(checked)
    largest = 0.0
    for rank, position in enumerate(sorted(range(len(checked)), key=checked.__getitem__)):
        largest = max(largest, min(1.0, (len(checked) - rank) * checked[position]))
        adjusted[position] = largest
    return tuple(adjusted)


def holm_threshold(count: int, risk: float) -> float:
    """What the smallest of ``count`` p-values must not exceed: ``risk / count``, Holm's first step.

    Before anything is measured this is the risk that each pair can count on, the one to plan
    prompt numbers with. Raises ValueError unless count >= 1 and risk lies in (0, 1).
    """
    return real_between("risk", risk, 0.0, 1.0) / whole_number("count", count, least=1)
