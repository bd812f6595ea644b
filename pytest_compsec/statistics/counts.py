"""The 2 by 2 table of paired safe/unsafe outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_compsec.statistics._validate import whole_number


@dataclass(frozen=True)
class PairedCounts:
    """How many prompts had which pair of outcomes.

    both:      the original and the compressed model did the safe thing
    improved:  only the compressed model did
    regressed: only the original did
    neither:   none did

    Raises ValueError when a count is not a non-negative whole number.
    """

    both: int
    improved: int
    regressed: int
    neither: int

    def __post_init__(self) -> None:
        for name in ("both", "improved", "regressed", "neither"):
            # frozen: numpy integers are stored as plain ints so that the counts stay JSON-safe
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))

    @classmethod
    def from_outcomes(cls, original: Sequence[bool], compressed: Sequence[bool]) -> PairedCounts:
        """Count two aligned sequences, one outcome per prompt, True meaning the safe thing.

        Raises ValueError when the lengths differ or an outcome is neither true nor false (a
        prompt without an outcome must be left out of both before).
        """
        if len(original) != len(compressed):
            raise ValueError(
                "outcomes are not paired: "
                f"{len(original)} of the original, {len(compressed)} of the compressed model"
            )
        cells = {(True, True): 0, (False, True): 0, (True, False): 0, (False, False): 0}
        for position, (before, after) in enumerate(zip(original, compressed, strict=True)):
            if before not in (True, False) or after not in (True, False):
                raise ValueError(
                    f"outcome {position} must be True or False, got {before!r} and {after!r}"
                )
            cells[bool(before), bool(after)] += 1
        return cls(
            both=cells[True, True],
            improved=cells[False, True],
            regressed=cells[True, False],
            neither=cells[False, False],
        )

    @property
    def n(self) -> int:
        """Number of pairs."""
        return self.both + self.improved + self.regressed + self.neither

    @property
    def discordance(self) -> float:
        """Share of the pairs whose two outcomes differ. ValueError without pairs."""
        return (self.improved + self.regressed) / self.required_n()

    @property
    def degradation(self) -> float:
        """(regressed − improved) / n: positive is worse. ValueError without pairs."""
        return (self.regressed - self.improved) / self.required_n()

    def required_n(self) -> int:
        """Number of pairs; ValueError when there are none, since no rate is defined then."""
        if self.n == 0:
            raise ValueError("no pairs: every count is 0")
        return self.n

    def swapped(self) -> PairedCounts:
        """The same table seen from the other arm: improved and regressed change places."""
        return PairedCounts(self.both, self.regressed, self.improved, self.neither)
