"""How much more a signal says, whichever way it points.

A signal a (an AUC less one half, a difference of mean times) tells two classes apart by its size,
not by its sign: an observer reads refusals that became slower as well as those that became faster.
What grew is ``|compressed| - |original|``, and because an absolute value is the larger of a number
and its negative,

    |c| - |o|  =  max over d of (min over s of (d c - s o)),   d, s in {+1, -1}.

So an upper bound for every d and one s, fixed beforehand, bounds it from above, and a lower bound
for one d and every s from below. Which s and d are taken is read from the same data: each bound is
made at the risk divided by the number of choices (Bonferroni). Without that, an original that shows
nothing would be credited with whatever sign its noise has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

#: Directions (d of the compressed model, s of the original); s = 0 gives the original no credit.
Directions = tuple[int, int]
#: (value, lower, upper) of d c - s o with bounds each one-sided at the risk.
Bounds = Callable[[float], tuple[float, float, float]]


@dataclass(frozen=True)
class Increase:
    """Growth of the size of a signal, with bounds each one-sided at the risk asked for."""

    change: float
    lower: float
    upper: float


def folded_increase(signals: Mapping[Directions, Bounds], risk: float) -> Increase:
    """``|c| - |o|`` out of the bounds of ``d c - s o`` for d, s in {+1, -1}; where s = 0 is there
    too, the upper bound may rest on ``|c|`` alone.

    Bounds that are no numbers give bounds that are none.
    """
    choices = sorted({s for _, s in signals})
    above = {pair: signals[pair](risk / len(choices))[2] for pair in signals}
    below = {(d, s): signals[d, s](risk / 2)[1] for d in (1, -1) for s in (1, -1)}
    change = max(min(signals[d, s](risk)[0] for s in (1, -1)) for d in (1, -1))
    if any(math.isnan(value) for value in (*above.values(), *below.values())):
        return Increase(change, math.nan, math.nan)
    return Increase(
        change,
        lower=max(min(below[d, s] for s in (1, -1)) for d in (1, -1)),
        upper=min(max(above[d, s] for d in (1, -1)) for s in choices),
    )
