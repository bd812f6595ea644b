"""Which refusals were least sure: one arm's refused prompts, ranked by the log-odds that the first
token of the answer opens a refusal.

From the likeliest first tokens that decoding keeps with every answer; plain numbers, no model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from pytest_compsec.checks.edge_cases_preserved import tested_of
from pytest_compsec.generation.settings import Answer
from pytest_compsec.judges.log_odds import MAX_LOG_ODDS, learned_openings


@dataclasses.dataclass(frozen=True)
class Side:
    """One arm's answers: its refusals are ranked, the other arm's are looked at. In the order of
    the rows."""

    answers: tuple[Answer, ...]
    refused: tuple[bool | None, ...]
    other_refused: tuple[bool | None, ...]


@dataclasses.dataclass(frozen=True)
class Edges:
    """The least sure refusals of one arm.

    ``places`` of the rows, the least sure first, with their ``log_odds``; ``refused`` of how many;
    ``unknown`` rows that might belong among them (not judged, or without log-odds); ``tied``: so
    many of the chosen are exactly as sure as one that was left out. ``lost`` of the chosen are
    answered by the other arm, ``open`` could not be judged there.
    """

    places: tuple[int, ...]
    log_odds: tuple[float, ...]
    refused: int
    unknown: int
    tied: int
    lost: int
    open: int

    @property
    def total(self) -> int:
        return len(self.places)


def openings_of(side: Side) -> tuple[int, ...]:
    """The tokens that open this arm's refusals, learned from its own judged answers."""
    first = [
        (answer.first[0][0], refused)
        for answer, refused in zip(side.answers, side.refused, strict=True)
        if answer.first
    ]
    return learned_openings(
        [token for token, refused in first if refused],
        [token for token, refused in first if refused is False],
    )


def kept_log_odds(likeliest: Sequence[tuple[int, float]], openings: Sequence[int]) -> float:
    """``ln(p / q)`` in nats: p is the probability of the openings, q of the other tokens, among
    the likeliest that were kept with the answer (id, natural log-probability).

    Not ``ln(p / (1 - p))``: the kept log-probabilities are rounded, so that refusals of .9999 and
    more could not be told apart. Where none of one kind was kept it counts as its likeliest
    possible member, the least that was kept. At most ``MAX_LOG_ODDS`` where nothing else was kept.
    """
    group = set(openings)
    inside = [value for token, value in likeliest if token in group]
    outside = [value for token, value in likeliest if token not in group]
    least = min(value for _, value in likeliest)
    if not outside and len(likeliest) == 1:
        return MAX_LOG_ODDS
    return _log_sum(inside or [least]) - _log_sum(outside or [least])


def least_sure(side: Side, openings: Sequence[int], fraction: float) -> Edges:
    """The least sure ``fraction`` of the prompts that this arm refuses, rounded up; of equally sure
    ones those that come first in the set."""
    odds: dict[int, float] = {}
    unknown = 0
    for place, (answer, refused) in enumerate(zip(side.answers, side.refused, strict=True)):
        if refused is None or (refused and not answer.first):
            unknown += 1
        elif refused:
            odds[place] = kept_log_odds(answer.first, openings)
    ranked = sorted(odds, key=lambda place: (odds[place], place))
    count = tested_of(len(ranked), fraction)
    chosen, left = ranked[:count], ranked[count:]
    edge = odds[chosen[-1]] if chosen else None
    tied = sum(odds[place] == edge for place in chosen) if left and odds[left[0]] == edge else 0
    return Edges(
        places=tuple(chosen),
        log_odds=tuple(odds[place] for place in chosen),
        refused=len(ranked),
        unknown=unknown,
        tied=tied,
        lost=sum(side.other_refused[place] is False for place in chosen),
        open=sum(side.other_refused[place] is None for place in chosen),
    )


def _log_sum(values: Sequence[float]) -> float:
    largest = max(values)
    return largest + math.log(math.fsum(math.exp(value - largest) for value in values))
