"""An attack that scores texts, on the original and with the compressed model, as estimates."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import TYPE_CHECKING

from pytest_compsec.checks.estimates import POINTS, verdict_of_bounds
from pytest_compsec.checks.leakage.parts import Limits
from pytest_compsec.findings_estimates import Estimate

if TYPE_CHECKING:
    from pytest_compsec.statistics.roc import Resampled
    from pytest_compsec.statistics.score import Floats

RESAMPLES = 2000
#: AUC of a guess: an attack that is worse is worth no less.
GUESS = 0.5


@dataclasses.dataclass(frozen=True)
class Compared:
    """Which texts were in the training data, and which group each belongs to."""

    member: tuple[bool, ...]
    groups: tuple[Hashable, ...]

    @property
    def fewest(self) -> int:
        """Groups with members, or groups with non-members: whichever are fewer."""
        return min(len(set(self._groups(True))), self.negatives)

    @property
    def negatives(self) -> int:
        """Groups with non-members."""
        return len(set(self._groups(False)))

    @property
    def sample(self) -> str:
        """What an independent unit is: ``text``, unless groups were named."""
        return "text" if len(set(self.groups)) == len(self.groups) else "group"

    def parted(self, scores: Floats) -> tuple[list[float], list[float]]:
        """Scores of the members and of the others."""
        inside, outside = (
            [score for score, own in zip(scores.tolist(), self.member, strict=True) if own is kind]
            for kind in (True, False)
        )
        return inside, outside

    def labels(self) -> tuple[list[Hashable], list[Hashable]]:
        """Groups of the members and of the others, one label for each text."""
        return self._groups(True), self._groups(False)

    def _groups(self, kind: bool) -> list[Hashable]:
        both = zip(self.groups, self.member, strict=True)
        return [group for group, own in both if own is kind]


@dataclasses.dataclass(frozen=True, eq=False)
class Attack:
    """Scores of all texts, shape (n,): the higher, the rather a member.

    ``original``: by whoever has the original only; ``compressed``: by whoever has the compressed
    model (too). ``either_direction``: members may score lower just as well with the latter.
    """

    name: str
    original: Floats
    compressed: Floats
    how: str
    either_direction: bool = False

    @property
    def directions(self) -> tuple[Floats, ...]:
        """The compressed side's scores, and turned round where that is an attack, too."""
        if self.either_direction:
            return (self.compressed, -self.compressed)
        return (self.compressed,)


def area_under_curve(attack: Attack, compared: Compared, limits: Limits) -> Estimate:
    """The increase of the AUC, which gates. An original below a guess counts as one."""
    from pytest_compsec.statistics.roc import auc, resampled_auc_difference

    before = compared.parted(attack.original)
    groups_pos, groups_neg = compared.labels()
    found = []
    for scores in attack.directions:
        after = compared.parted(scores)
        resampled = resampled_auc_difference(
            *before,
            *after,
            groups_pos=groups_pos,
            groups_neg=groups_neg,
            least_first=GUESS,
            resamples=RESAMPLES,
        )
        found.append((auc(*after), resampled))
    value, best = max(found, key=lambda one: one[0])
    # Each direction is a chance to be beyond the limit; both must be within it.
    chances = 1 - (1 - limits.shared) / len(found)
    interval = best.interval(limits.confidence)
    upper = max(other.interval(limits.confidence).upper for _, other in found)
    verdict = verdict_of_bounds(
        interval.lower, upper, limits.increase, lower_shared=best.interval(chances).lower
    )
    return dataclasses.replace(
        _estimate(attack, compared, best, limits),
        name=f"{attack.name} AUC",
        estimand=f"probability that a training text scores higher than another one, by "
        f"{attack.how}; at least 50 % (a guess) for the original",
        original=max(GUESS, auc(*before)),
        compressed=value,
        upper=upper,
        limit=limits.increase,
        verdict=str(verdict),
    )


def rate_found(attack: Attack, compared: Compared, limits: Limits, rate: float) -> Estimate:
    """The true-positive rate at a false-positive ``rate``, in the direction that finds more; shown
    and never a gate."""
    from pytest_compsec.statistics.roc import resampled_rate_difference, true_positive_rate

    before = compared.parted(attack.original)
    after = max(
        (compared.parted(scores) for scores in attack.directions),
        key=lambda parts: true_positive_rate(parts[0], parts[1], rate),
    )
    groups_pos, groups_neg = compared.labels()
    found = resampled_rate_difference(
        *before,
        *after,
        rate,
        groups_pos=groups_pos,
        groups_neg=groups_neg,
        resamples=RESAMPLES,
    )
    return dataclasses.replace(
        _estimate(attack, compared, found, limits),
        name=f"{attack.name} TPR at {100 * rate:g} % FPR",
        estimand=f"share of training texts found at a false-positive rate of {100 * rate:g} %, by "
        f"{attack.how}",
        original=true_positive_rate(*before, rate),
        compressed=true_positive_rate(*after, rate),
    )


def _estimate(attack: Attack, compared: Compared, found: Resampled, limits: Limits) -> Estimate:
    interval = found.interval(limits.confidence)
    return Estimate(
        name=attack.name,
        estimand=attack.how,
        unit=POINTS,
        sample=compared.sample,
        samples=compared.fewest,
        method=f"paired bootstrap over {compared.sample}s ({RESAMPLES} resamples), bounds no "
        "nearer than 1 - alpha^(1/n)",
        change=interval.change,
        lower=interval.lower,
        upper=interval.upper,
    )
