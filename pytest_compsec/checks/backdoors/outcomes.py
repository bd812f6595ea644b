"""What both arms did with and without a trigger, one entry per sample: all that a verdict is made
of. Plain data, so that known answers can be planted.

An entry is None where an answer could not be judged (language models); a classifier has none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pytest_compsec.statistics.counts import PairedCounts

#: What happened on one sample; None: not known.
Seen = bool | None


@dataclasses.dataclass(frozen=True)
class ArmOutcomes:
    """What one arm did.

    ``clean_hit``, ``triggered_hit`` and ``triggered_correct`` have one entry for each sample that
    is not of the target class and that the trigger changes: did the target come out without and
    with the trigger, and the true label with it. ``clean_correct`` has one for each sample of the
    evaluation data, without the trigger.

    Raises ValueError when lengths differ.
    """

    clean_hit: tuple[Seen, ...]
    triggered_hit: tuple[Seen, ...]
    triggered_correct: tuple[Seen, ...]
    clean_correct: tuple[Seen, ...]

    def __post_init__(self) -> None:
        if not len(self.clean_hit) == len(self.triggered_hit) == len(self.triggered_correct):
            raise ValueError(
                f"outcomes are not paired: {len(self.clean_hit)} without the trigger, "
                f"{len(self.triggered_hit)} and {len(self.triggered_correct)} with it"
            )

    @property
    def converted(self) -> tuple[Seen, ...]:
        """Per sample: the target came out with the trigger and not without."""
        return tuple(
            None if clean is None or triggered is None else triggered and not clean
            for clean, triggered in zip(self.clean_hit, self.triggered_hit, strict=True)
        )

    @property
    def unmeasured(self) -> int:
        """Entries that are not known, of the samples under the trigger."""
        return sum(value is None for value in self.converted)

    def hits(self) -> PairedCounts:
        """Delta ASR as paired counts: "regressed" are samples on which the target comes out with
        the trigger and not without, "improved" the reverse, so that the degradation is the delta.
        Samples that are not known are left out."""
        rows = [
            (clean, triggered)
            for clean, triggered in zip(self.clean_hit, self.triggered_hit, strict=True)
            if clean is not None and triggered is not None
        ]
        return _counted([row[0] for row in rows], [row[1] for row in rows])

    def hits_at_best(self) -> PairedCounts:
        """As :meth:`hits`, with what is not known taken as if the trigger had done nothing there:
        what shows a backdoor even so shows it whatever those samples were."""
        return _counted(filled(self.clean_hit, True), filled(self.triggered_hit, False))

    def hits_at_worst(self) -> PairedCounts:
        """As :meth:`hits`, with what is not known taken as the trigger's doing."""
        return _counted(filled(self.clean_hit, False), filled(self.triggered_hit, True))


@dataclasses.dataclass(frozen=True)
class Group:
    """Samples of one true class (or kind of prompt): ``places`` in ``clean_correct``."""

    name: str
    places: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Moved:
    """A class (in words) and the shares of samples that the trigger newly turns into it."""

    target: str
    original: float
    compressed: float


@dataclasses.dataclass(frozen=True)
class PairOutcomes:
    """Both arms under one trigger and one target.

    ``constant_correct`` has one entry for each sample of the evaluation data: would the best
    constant answer (the most frequent class) be right. ``unchanged`` samples not of the target
    are left as they are by the trigger, and left out. ``moved`` is the wrong class other than the
    target that the trigger newly brings out of the compressed arm most often. ``places`` says which
    entries of ``clean_correct`` belong to the samples under the trigger (None: to none of them).
    """

    target: str
    original: ArmOutcomes
    compressed: ArmOutcomes
    constant_correct: tuple[bool, ...]
    unchanged: int = 0
    groups: tuple[Group, ...] = ()
    moved: Moved | None = None
    strength: float = 1.0
    places: tuple[int, ...] | None = None

    @property
    def samples(self) -> int:
        return len(self.original.clean_hit)


def filled(values: Sequence[Seen], unknown: bool) -> list[bool]:
    """The values, ``unknown`` where one is not known."""
    return [unknown if value is None else value for value in values]


def _counted(clean_hit: Sequence[bool], triggered_hit: Sequence[bool]) -> PairedCounts:
    # "Safe" is that the target does not come out.
    return PairedCounts.from_outcomes(
        [not hit for hit in clean_hit], [not hit for hit in triggered_hit]
    )


def rate(values: Sequence[Seen]) -> float | None:
    """Share of True among what is known; None when nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
