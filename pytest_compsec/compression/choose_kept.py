"""Which layers must stay in full precision, found by trying: the search alone, no model.

Behind ``keep_in_full_precision: auto``. A ranking says which layers help most when they are left
alone; the first k of it are kept for growing k, and each k is tried on a *selection* set. What is
chosen has always been tried and has passed: that more kept layers help more is a hope, not an
assumption. The choice is fitted to the selection set, so it is no verdict: that comes from other
prompts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

_NAMES_SHOWN = 6


@dataclasses.dataclass(frozen=True)
class Trial:
    """One try: with the layers ``kept`` the compressed model lost ``degradation`` (a share of the
    selection prompts; positive is worse) and takes ``size`` bytes. ``degradation`` is None where
    nothing could be measured, and ``note`` says why: such a trial cannot pass."""

    kept: tuple[str, ...]
    degradation: float | None
    passed: bool
    size: int | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        if self.passed and self.degradation is None:
            raise ValueError("a trial that measured nothing cannot pass")

    def __str__(self) -> str:
        outcome = "passes" if self.passed else "does not pass"
        if self.degradation is None:
            outcome = f"not measured: {self.note or 'no reason given'}"
        else:
            outcome = f"degradation {100 * self.degradation:+.1f} points, {outcome}"
        size = "" if self.size is None else f", {self.size / 1e6:.1f} MB"
        return f"{len(self.kept)} kept{size}: {outcome}"


@dataclasses.dataclass(frozen=True)
class Choice:
    """The fewest layers found that pass, and every trial in the order it was made.

    ``kept`` is empty both when nothing need be kept and when nothing passed: ``passed`` tells.
    ``ranked`` is how many layers there were to choose from.
    """

    kept: tuple[str, ...]
    passed: bool
    trials: tuple[Trial, ...]
    ranked: int

    @property
    def chosen(self) -> Trial | None:
        """The trial behind ``kept``, or None when none passed."""
        return min(
            (trial for trial in self.trials if trial.passed),
            key=lambda trial: len(trial.kept),
            default=None,
        )

    def lines(self) -> Iterator[str]:
        """What was found and how, for people."""
        chosen = self.chosen
        if chosen is None:
            yield (
                f"no choice of layers passed: even with {self._most} of {self.ranked} ranked "
                "layers kept in full precision the selection prompts lose more than is allowed. "
                "Compress less, or repair by fine-tuning"
            )
        elif not chosen.kept:
            yield "no layer need be kept: the compressed model passes on the selection prompts"
        else:
            yield (
                f"{len(chosen.kept)} of {self.ranked} ranked layers are kept in full precision: "
                f"{_some(chosen.kept)}"
            )
            yield from self._sizes(chosen)
        yield f"tried on the selection prompts, in {len(self.trials)} trials:"
        yield from (f"  {trial}" for trial in self.trials)

    def __str__(self) -> str:
        return "\n".join(self.lines())

    @property
    def _most(self) -> int:
        return max((len(trial.kept) for trial in self.trials), default=0)

    def _sizes(self, chosen: Trial) -> Iterator[str]:
        before = next((trial.size for trial in self.trials if not trial.kept), None)
        if before and chosen.size is not None:
            more = 100 * (chosen.size / before - 1)
            yield (
                f"size: {before / 1e6:.1f} MB before, {chosen.size / 1e6:.1f} MB with the layers "
                f"kept ({more:+.1f} %)"
            )


def choose_kept(ranked: Sequence[str], passes: Callable[[tuple[str, ...]], Trial]) -> Choice:
    """The fewest of ``ranked`` (most helpful first) that must be kept, as far as was tried.

    ``passes(kept)`` makes one trial, and each costs a generation over the selection set, so only
    prefixes are tried: none, then 1, 2, 4, ... until one passes, at last all; then the gap below
    the one that passed is halved until no untried length is left between the longest that failed
    there and the shortest that passed. At most 2 + 2 log2(n) trials. Where passing is not monotone
    in the length this may miss a shorter prefix; it never returns one that did not pass.

    Raises ValueError when a layer is ranked twice, or a trial is of other layers than it was asked.
    """
    names = tuple(ranked)
    if len(set(names)) != len(names):
        raise ValueError("a layer is ranked twice")
    trials: list[Trial] = []

    def tried(length: int) -> bool:
        trial = passes(names[:length])
        if trial.kept != names[:length]:
            raise ValueError(f"asked to try {len(names[:length])} kept layers, not {trial.kept}")
        trials.append(trial)
        return trial.passed

    failed, length = -1, 0
    while not tried(length):
        failed = length
        if length == len(names):
            return Choice((), False, tuple(trials), len(names))
        length = min(max(1, 2 * length), len(names))
    shortest = length
    while shortest - failed > 1:
        middle = (failed + shortest) // 2
        if tried(middle):
            shortest = middle
        else:
            failed = middle
    return Choice(names[:shortest], True, tuple(trials), len(names))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
