"""How well a score tells two kinds of samples apart, and whether another score does it better.

Area under the ROC curve (AUC): the probability that a positive has a higher score than a negative,
ties counting one half (Hanley & McNeil, Radiology 143 (1982) 29-36). True-positive rate at a low
false-positive rate: what an attack finds without crying wolf (Carlini et al., "Membership inference
attacks from first principles", IEEE S&P 2022, arXiv 2112.03570).

Two scores of the same samples are compared by a bootstrap over *groups* (persons, documents, whole
requests), not over samples: every resample draws groups with replacement, and both scores are taken
on the same draw. Positives and negatives keep their numbers of groups; groups that hold both kinds
are drawn as groups that hold both.

A bootstrap sees nothing but what was drawn. Where every group behaves alike its interval has no
width, however few they are. Therefore no bound is nearer to the change than the largest share of
groups that so many draws can miss altogether, 1 - alpha^(1/groups): 2 points need 149 groups of
each kind, as everywhere in this package.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pytest_compsec.statistics._validate import real_between, risk_of, whole_number
from pytest_compsec.statistics.grouped_resampling import Groups, draws, grouped

if TYPE_CHECKING:
    from pytest_compsec.statistics.score import Floats, Integers

#: With fewer groups of one kind than this a bootstrap says nothing.
LEAST_GROUPS = 8


class Interval(NamedTuple):
    """A change (second minus first) and its bounds, each one-sided at the confidence asked for;
    bounds are NaN where there are too few groups for any."""

    change: float
    lower: float
    upper: float


def auc(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """Probability that a positive's score is higher than a negative's, ties counting one half.

    Raises ValueError for an empty side, or a score that is no number.
    """
    import numpy as np

    first, second = _scores(positives, negatives)
    ones = np.ones((1, 1))
    return float(
        _weighted_auc(first, second)(
            np.broadcast_to(ones, (1, len(first))), np.broadcast_to(ones, (1, len(second)))
        )[0]
    )


def true_positive_rate(
    positives: Sequence[float], negatives: Sequence[float], false_positive_rate: float
) -> float:
    """The largest share of positives at or above a threshold that at most
    ``false_positive_rate`` of the negatives reach.

    Raises ValueError for an empty side, a score that is no number, or a rate outside [0, 1].
    """
    import numpy as np

    first, second = _scores(positives, negatives)
    rate = real_between(
        "false_positive_rate", false_positive_rate, 0.0, 1.0, with_low=True, with_high=True
    )
    return float(
        _weighted_rate(first, second, rate)(
            np.ones((1, len(first)), dtype=np.int64), np.ones((1, len(second)), dtype=np.int64)
        )[0]
    )


@dataclass(frozen=True, eq=False)
class Resampled:
    """A change and the same change in every resample, sorted; ``groups`` is the smaller number of
    groups of one kind."""

    change: float
    resampled: Floats
    groups: int

    def interval(self, confidence: float) -> Interval:
        """Percentile bounds, never nearer to the change than what ``groups`` draws can miss.

        Raises ValueError for a confidence outside (0.5, 1).
        """
        import numpy as np

        risk = risk_of(confidence)
        if self.groups < LEAST_GROUPS:
            return Interval(self.change, math.nan, math.nan)
        unseen = -math.expm1(math.log(risk) / self.groups)
        lower, upper = np.quantile(self.resampled, [risk, 1.0 - risk])
        return Interval(
            self.change,
            max(-1.0, min(float(lower), self.change - unseen)),
            min(1.0, max(float(upper), self.change + unseen)),
        )


def resampled_auc_difference(
    first_pos: Sequence[float],
    first_neg: Sequence[float],
    second_pos: Sequence[float],
    second_neg: Sequence[float],
    *,
    groups_pos: Groups | None = None,
    groups_neg: Groups | None = None,
    least_first: float = 0.0,
    resamples: int = 2000,
    seed: int = 0,
) -> Resampled:
    """AUC of the second score minus that of the first, in the sample and in every resample.

    ``first_pos[i]`` and ``second_pos[i]`` are both scores of one sample. Groups: one label for each
    sample (None: every sample is its own). ``least_first``: the first AUC counts as at least this
    (0.5, where a guess is open to everybody). Raises ValueError for sequences that are not aligned,
    empty, or hold something that is no number.
    """
    import numpy as np

    first = _weighted_auc(*_scores(first_pos, first_neg))
    second = _weighted_auc(*_scores(second_pos, second_neg))
    _require_aligned(first_pos, second_pos, first_neg, second_neg)
    return _resampled(
        lambda pos, neg: second(pos, neg) - np.maximum(first(pos, neg), least_first),
        grouped(groups_pos, len(first_pos), "positive"),
        grouped(groups_neg, len(first_neg), "negative"),
        resamples,
        seed,
    )


def resampled_rate_difference(
    first_pos: Sequence[float],
    first_neg: Sequence[float],
    second_pos: Sequence[float],
    second_neg: Sequence[float],
    false_positive_rate: float,
    *,
    groups_pos: Groups | None = None,
    groups_neg: Groups | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Resampled:
    """As :func:`resampled_auc_difference`, of the true-positive rate at a false-positive rate. Each
    score's threshold is found anew in every resample."""
    first = _weighted_rate(*_scores(first_pos, first_neg), false_positive_rate)
    second = _weighted_rate(*_scores(second_pos, second_neg), false_positive_rate)
    _require_aligned(first_pos, second_pos, first_neg, second_neg)
    return _resampled(
        lambda pos, neg: second(pos, neg) - first(pos, neg),
        grouped(groups_pos, len(first_pos), "positive"),
        grouped(groups_neg, len(first_neg), "negative"),
        resamples,
        seed,
    )


#: Of weights of the positives (rows, positives) and of the negatives (rows, negatives): one value
#: for each row.
_Statistic = Callable[["Floats | Integers", "Floats | Integers"], "Floats"]


def _weighted_auc(positives: Floats, negatives: Floats) -> _Statistic:
    """AUC of weighted samples. With the negatives sorted, the weight below a positive is a
    difference of cumulative sums, so that a row costs no more than its length."""
    import numpy as np

    order = np.argsort(negatives, kind="stable")
    below = np.searchsorted(negatives[order], positives, side="left")
    up_to = np.searchsorted(negatives[order], positives, side="right")

    def statistic(pos: Floats | Integers, neg: Floats | Integers) -> Floats:
        cumulated = np.zeros((len(neg), neg.shape[1] + 1))
        np.cumsum(neg[:, order], axis=1, out=cumulated[:, 1:])
        won = (cumulated[:, below] + cumulated[:, up_to]) / 2.0
        total = pos.sum(axis=1) * cumulated[:, -1]
        found: Floats = (pos * won).sum(axis=1) / total
        return found

    return statistic


def _weighted_rate(positives: Floats, negatives: Floats, rate: float) -> _Statistic:
    """True-positive rate of weighted samples: the share of positives above the highest negative
    with which more than ``rate`` of the negatives would be flagged."""
    import numpy as np

    order = np.argsort(-negatives, kind="stable")
    highest_first = negatives[order]
    ascending = np.sort(positives)
    positive_order = np.argsort(positives, kind="stable")

    def statistic(pos: Floats | Integers, neg: Floats | Integers) -> Floats:
        flagged = np.cumsum(neg[:, order], axis=1, dtype=np.float64)
        allowed = rate * flagged[:, -1] + 1e-9
        too_many = flagged > allowed[:, None]
        any_too_many = too_many[:, -1]
        at = np.argmax(too_many, axis=1)
        # Strictly above the negative at which it becomes too many.
        start = np.searchsorted(ascending, highest_first[at], side="right")
        cumulated = np.zeros((len(pos), pos.shape[1] + 1))
        np.cumsum(pos[:, positive_order], axis=1, out=cumulated[:, 1:])
        total = cumulated[:, -1]
        below = cumulated[np.arange(len(pos)), np.where(any_too_many, start, 0)]
        found: Floats = (total - below) / total
        return found

    return statistic


def _resampled(
    statistic: _Statistic,
    groups_pos: list[Hashable],
    groups_neg: list[Hashable],
    resamples: int,
    seed: int,
) -> Resampled:
    import numpy as np

    whole_number("resamples", resamples, least=1)
    change = statistic(
        np.ones((1, len(groups_pos)), dtype=np.int64), np.ones((1, len(groups_neg)), dtype=np.int64)
    )
    found = [statistic(pos, neg) for pos, neg in draws(groups_pos, groups_neg, resamples, seed)]
    return Resampled(
        change=float(change[0]),
        resampled=np.sort(np.concatenate(found)),
        groups=min(len(set(groups_pos)), len(set(groups_neg))),
    )


def _scores(positives: Sequence[float], negatives: Sequence[float]) -> tuple[Floats, Floats]:
    import numpy as np

    found = []
    for name, values in (("positives", positives), ("negatives", negatives)):
        array = np.asarray(values, dtype=np.float64)
        if array.ndim != 1 or not len(array):
            raise ValueError(f"{name}: needs at least one score")
        if np.isnan(array).any():
            raise ValueError(f"{name}: a score is not a number")
        found.append(array)
    return found[0], found[1]


def _require_aligned(
    first_pos: Sequence[float],
    second_pos: Sequence[float],
    first_neg: Sequence[float],
    second_neg: Sequence[float],
) -> None:
    for name, one, other in (
        ("positives", first_pos, second_pos),
        ("negatives", first_neg, second_neg),
    ):
        if len(one) != len(other):
            raise ValueError(f"{name}: {len(one)} first scores but {len(other)} second ones")
