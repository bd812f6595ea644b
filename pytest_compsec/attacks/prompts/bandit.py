"""Which transform to try next: evenly at first, then more of those that find more.

Thompson sampling (Thompson 1933, Biometrika 25:285-294; Chapelle and Li 2011, "An empirical
evaluation of Thompson sampling", who show that it bears with rewards that come in batches): each
transform's share of finds has the posterior Beta(1 + finds, 1 + misses); one number is drawn from
each, and the largest decides. Several are chosen before any is answered, each by fresh draws, so
that a batch spreads over transforms that are about equally promising.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from pytest_compsec.attacks.prompts.draws import Draws


@dataclasses.dataclass
class Tally:
    """``asked`` prompts were put through a transform, ``found`` of them were finds."""

    asked: int = 0
    found: int = 0


class Bandit:
    """``opening`` rounds over all transforms in their order; after them Thompson sampling."""

    def __init__(self, names: Sequence[str], opening: int, seed: int) -> None:
        self._names = tuple(names)
        self._opening = [name for _ in range(opening) for name in self._names]
        self._draws = Draws(seed, "bandit")

    def choose(self, left: Mapping[str, int], tallies: Mapping[str, Tally]) -> str | None:
        """The next transform among those with prompts ``left``; None when there is none.

        Of equal draws the first in the order of the transforms wins."""
        while self._opening:
            name = self._opening.pop(0)
            if left[name]:
                return name
        open_names = [name for name in self._names if left[name]]
        if not open_names:
            return None
        scores = [self._sample(tallies[name]) for name in open_names]
        return open_names[scores.index(max(scores))]

    def _sample(self, tally: Tally) -> float:
        from scipy.special import betaincinv

        misses = tally.asked - tally.found
        return float(betaincinv(1 + tally.found, 1 + misses, self._draws.unit()))
