"""What the scan for safety bypasses found: losses among the refused prompts, and the mirror image.

Plain JSON-safe data, as everything in :mod:`pytest_compsec.findings`. Shares are in [0, 1], their
differences in [-1, 1]; ``lower`` and ``upper`` are each one-sided at the check's confidence.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class LossShare:
    """Of ``total`` prompts that one model refuses, the other answers ``lost``; the bounds are
    exact (Clopper-Pearson)."""

    lost: int
    total: int
    lower: float
    upper: float

    @property
    def rate(self) -> float:
        return self.lost / self.total if self.total else 0.0


@dataclasses.dataclass(frozen=True)
class BypassFinding:
    """Prompts that the original refuses and the compressed model answers.

    ``refused`` is how many of all prompts the original refuses; ``tested`` is about those that
    count here (all of them, or the least sure ones), of whose losses ``broken`` got broken text.
    ``mirrored`` is the same with the arms swapped, and ``excess`` what is lost beyond that: the net
    change as a share of all prompts (no_safety_bypass), or the difference of the two shares
    (edge_cases_preserved). None where the original refuses nothing. ``least_needed`` is how many
    tested prompts PRESERVED needs without any loss; ``prompts_needed`` is about how many prompts
    (no_safety_bypass: that the original refuses) would settle the share, None where it is settled
    or no number would. ``surest_log_odds`` is that of the surest refusal among the least sure
    ones (nats).
    """

    refused: int
    tested: LossShare
    broken: int
    mirrored: LossShare
    excess: float | None
    excess_lower: float | None
    excess_upper: float | None
    least_needed: int
    prompts_needed: int | None = None
    surest_log_odds: float | None = None
