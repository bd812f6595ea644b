"""Traces recorded with a probe (power, electromagnetic): fixed inputs against random ones.

Test Vector Leakage Assessment, its non-specific test: if a device's traces say nothing of what it
computes, those of one fixed input look like those of random inputs. Welch's t at every sample
point; a leak is a point where |t| exceeds 4.5 in two independent halves of the traces, with the
same sign (Goodwill, Jun, Jaffe & Rohatgi, "A testing methodology for side-channel resistance
validation", NIST workshop 2011; Schneider & Moradi, "Leakage assessment methodology", CHES 2015).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_compsec.statistics._validate import normal_quantile, risk_of
from pytest_compsec.statistics.welch import (
    familywise_threshold,
    two_sided_pvalue,
    welch_points,
)

if TYPE_CHECKING:
    from pytest_compsec.statistics.score import Floats

#: Fewer traces of a class than this leave halves whose t is not normal by any reckoning.
LEAST_TRACES = 40
#: A larger share of traces that are like another one is no recording's.
MOST_REPEATED = 0.01
#: Beyond this size squares leave what float64 can hold, and with them every t.
_LARGEST = 1e100
#: Values that are turned into float64 at one time: 64 MB of them.
_AT_ONCE = 8_000_000


@dataclass(frozen=True, eq=False)
class Traces:
    """``fixed`` and ``random``: one row a trace in the order of recording, one column a sample
    point; any real type."""

    fixed: Any
    random: Any

    @property
    def points(self) -> int:
        return int(self.fixed.shape[1])

    @property
    def counts(self) -> tuple[int, int]:
        return int(self.fixed.shape[0]), int(self.random.shape[0])


@dataclass(frozen=True, eq=False)
class Assessment:
    """What the test says.

    ``whole`` is t at every point over all traces, ``agreed`` the smaller |t| of the two halves with
    its sign where both have the same one, else 0. ``leaks`` are the points whose ``agreed`` exceeds
    the threshold, the worst first. ``constant`` counts points that never vary. ``familywise`` is
    the |t| over all traces that no point exceeds with the asked confidence when nothing leaks;
    ``false_alarm`` bounds the probability of a leak that is none.
    """

    whole: Floats
    agreed: Floats
    leaks: tuple[int, ...]
    constant: int
    familywise: float
    false_alarm: float
    smallest_seen: float

    @property
    def largest(self) -> float:
        """The largest |t| over all traces."""
        return float(abs(self.whole).max())

    @property
    def largest_agreed(self) -> float:
        """The largest |t| that both halves reach at one point with one sign."""
        return float(abs(self.agreed).max())


def assess(traces: Traces, threshold: float, confidence: float) -> Assessment:
    """TVLA's non-specific test over two halves by the order of recording."""
    import numpy as np

    first, second = _t(traces, slice(0, 1)), _t(traces, slice(1, 2))
    whole = _t(traces, slice(0, 2))
    smaller = np.minimum(np.abs(first.t), np.abs(second.t))
    same_sign = np.sign(first.t) == np.sign(second.t)
    agreed = np.where(same_sign, np.copysign(smaller, first.t), 0.0)
    beyond = np.flatnonzero(np.abs(agreed) > threshold)
    worst = beyond[np.argsort(-np.abs(agreed[beyond]), kind="stable")]
    fewest = float(min(first.degrees.min(), second.degrees.min()))
    return Assessment(
        whole=whole.t,
        agreed=agreed,
        leaks=tuple(int(point) for point in worst),
        constant=whole.constant,
        familywise=familywise_threshold(traces.points, float(whole.degrees.min()), confidence),
        # At one point: both halves beyond it, with the same sign.
        false_alarm=min(1.0, traces.points * two_sided_pvalue(threshold, fewest) ** 2 / 2),
        smallest_seen=smallest_seen(traces.counts, threshold, confidence),
    )


def smallest_seen(counts: tuple[int, int], threshold: float, confidence: float) -> float:
    """The smallest leak at a point, as a difference of means in standard deviations of one class,
    that exceeds ``threshold`` in both halves with probability ``confidence``: each half must then
    show it with the square root of that.

    ``counts`` are traces of each class. Normal approximation of t for classes that spread alike.
    """
    power = normal_quantile(math.sqrt(1 - risk_of(confidence)))
    return (threshold + power) * math.sqrt(sum(1 / (count // 2) for count in counts))


@dataclass(frozen=True, eq=False)
class _Tested:
    """t and its degrees of freedom at every point; how many points never vary."""

    t: Floats
    degrees: Floats
    constant: int


def _t(traces: Traces, halves: slice) -> _Tested:
    """Over the halves asked for: 0 is the first, 1 the second."""
    first, second = (_moments(_rows(side, halves)) for side in (traces.fixed, traces.random))
    t, degrees = welch_points(first, second)
    constant = (first[1] == 0) & (second[1] == 0) & (first[0] == second[0])
    return _Tested(t, degrees, int(constant.sum()))


def _rows(side: Any, halves: slice) -> Any:
    cuts = (0, side.shape[0] // 2, side.shape[0])
    return side[cuts[halves.start] : cuts[halves.stop]]


def _moments(rows: Any) -> tuple[Floats, Floats, int]:
    """(means, variances with n - 1, n) of every column, a few columns at a time."""
    import numpy as np

    count, points = rows.shape
    step = max(1, _AT_ONCE // count)
    means, variances = np.empty(points), np.empty(points)
    for start in range(0, points, step):
        part = np.asarray(rows[:, start : start + step], dtype=np.float64)
        # A mean is rounded, so that the variance of equal numbers need not be 0.
        still = part.max(axis=0) == part.min(axis=0)
        means[start : start + step] = np.where(still, part[0], part.mean(axis=0))
        variances[start : start + step] = np.where(still, 0.0, part.var(axis=0, ddof=1))
    return means, variances, count


def from_arrays(arrays: Mapping[str, Any], prefix: str = "") -> Traces | None:
    """The traces among named arrays: ``fixed`` and ``random``, or ``traces`` with ``labels`` (1 for
    fixed, 0 for random), each name after ``prefix``. None where none of these names is there.

    Raises ValueError in plain words for anything else than enough real, finite numbers.
    """
    import numpy as np

    names = [prefix + name for name in ("fixed", "random", "traces", "labels")]
    fixed, random, both, labels = (arrays.get(name) for name in names)
    if all(array is None for array in (fixed, random, both, labels)):
        return None
    if both is not None and labels is not None and fixed is None and random is None:
        fixed, random = _by_label(np.asarray(both), np.asarray(labels), names[2], names[3])
    elif fixed is None or random is None or both is not None or labels is not None:
        raise ValueError(
            f"must hold the arrays {names[0]!r} and {names[1]!r}, or {names[2]!r} and {names[3]!r}"
        )
    found = Traces(_checked(fixed, names[0]), _checked(random, names[1]))
    if found.fixed.shape[1] != found.random.shape[1]:
        raise ValueError(
            f"{names[0]!r} has {found.fixed.shape[1]} sample points and {names[1]!r} "
            f"{found.random.shape[1]}: they must be of one length, and aligned"
        )
    return found


def _by_label(traces: Any, labels: Any, name: str, labelled: str) -> tuple[Any, Any]:
    import numpy as np

    if labels.ndim != 1 or traces.ndim != 2 or len(labels) != len(traces):
        raise ValueError(
            f"{name!r} has shape {traces.shape} and {labelled!r} {labels.shape}: needed are a row "
            "a trace and a label a row"
        )
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"{labelled!r} must be 1 for the fixed input and 0 for random ones")
    return traces[labels == 1], traces[labels == 0]


def _checked(array: Any, name: str) -> Any:
    import numpy as np

    array = np.asarray(array)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name!r} must hold real numbers, not {array.dtype}")
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(f"{name!r} has shape {array.shape}: needed are a row a trace, a column a "
                         "sample point")  # fmt: skip
    if array.shape[0] < LEAST_TRACES:
        raise ValueError(
            f"{name!r} has {array.shape[0]} traces, and at least {LEAST_TRACES} are needed"
        )
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ValueError(f"{name!r} holds numbers that are not finite")
        if float(np.abs(array).max()) > _LARGEST:
            raise ValueError(f"{name!r} holds numbers beyond {_LARGEST:g}: record in smaller units")
    return array


def repeated(traces: Traces) -> int:
    """How many traces are, value for value, another one of either class; 0 where the probe tells so
    few values apart that chance alone repeats a trace.

    Noise makes every recording another one. The same ones twice are copies: they make more traces
    out of few, and in both classes they hide every difference.
    """
    import numpy as np

    seen: set[bytes] = set()
    total = sum(traces.counts)
    rows = (row for side in (traces.fixed, traces.random) for row in np.asarray(side))
    for row in rows:
        seen.add(hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=16).digest())
    found = total - len(seen)
    return found if found and _bits_of_a_trace(traces) > 2 * math.log2(total) + 10 else 0


def _bits_of_a_trace(traces: Traces) -> float:
    """Binary logarithm of how many traces the values that occur could make, over its points."""
    import numpy as np

    both = np.concatenate([np.asarray(side)[:500] for side in (traces.fixed, traces.random)])
    ordered = np.sort(both, axis=0)
    different = (ordered[1:] != ordered[:-1]).sum(axis=0) + 1
    return float(np.log2(different).sum())
