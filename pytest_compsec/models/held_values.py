"""How many different values a weight matrix really holds, in each group of its inputs.

Rounding to few values leaves its mark in whatever the result is stored: a group (a run of inputs
of one output channel that share a scale) then holds few different numbers, many times each. Full
precision, or honest 8 bits, hold about as many different numbers as weights.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: Inputs that share a scale in the formats in use (None: all of an output channel).
GROUPS = (None, 128, 64, 32, 16)
#: Grids of more values are not told from the values: an honest 8-bit matrix with an outlier in
#: every row leaves many of its 256 codes unused, and is none of 5 bits for that. Only where each
#: row holds one some 45 times the size of the others (its step is then a third of their standard
#: deviation) are no more than 4 bits left for those, and found.
MOST_VALUES = 16
#: A grid of few values is found where this share of the groups is on it, too: one row, or one input
#: in a hundred, that was kept in full precision leaves all others as coarse as they are.
MOST_GROUPS = 0.75
#: By group size how few: honest 8 bits with outliers, and finer grids that a small group does not
#: show whole, would else be taken for them.
FEW_VALUES: Mapping[int | None, int] = {None: 8, 128: 8, 64: 8, 32: 4, 16: 4}
#: Rows that are looked at first; one that is on no grid settles it.
_SAMPLED_ROWS = 32


@dataclasses.dataclass(frozen=True)
class HeldValues:
    """No group of ``group_size`` inputs (None: no output channel) holds more than ``levels``
    different values; of all groups ``share``. ``across``: the groups run over output channels."""

    levels: int
    group_size: int | None
    share: float = 1.0
    across: bool = False

    @property
    def bits(self) -> float:
        """Bits of a code: the fewest that tell the values apart."""
        return float(max(1, math.ceil(math.log2(self.levels))))

    @property
    def text(self) -> str:
        one, several = ("column", "outputs") if self.across else ("row", "inputs")
        where = one if self.group_size is None else f"{self.group_size} {several}"
        found = f"{self.levels} different values in any {where}"
        return found if self.share == 1 else f"{found} of {100 * self.share:.1f} % of them"


def held_values(rows: torch.Tensor, *, below: float = math.inf) -> HeldValues | None:
    """The coarsest grid on which all of ``rows`` (output channels, inputs) are; None when they are
    on none of fewer bits than ``below``.

    On a grid: in every group at most :data:`MOST_VALUES` different values and no more than half
    the group's size, and over all groups each value other than zero stands twice or more. Where no
    grid holds all groups, one of :data:`FEW_VALUES` that holds :data:`MOST_GROUPS` of them. Groups
    run along the inputs, or, where that shows none, along the outputs (formats with a scale for
    each input). Zeros alone make no grid: a pruned matrix is as precise as what is left of it.
    """
    if rows.dim() != 2 or 0 in rows.shape:
        return None
    found = _held(rows.detach(), below)
    if found is None:
        found = _held(rows.detach().t(), below)
        found = None if found is None else dataclasses.replace(found, across=True)
    return found if found is not None and found.bits < below else None


def _held(rows: torch.Tensor, below: float) -> HeldValues | None:
    """The coarsest grid; one of ``below`` bits or more as a sample of the rows shows it."""
    step = max(1, rows.shape[0] // _SAMPLED_ROWS)
    sample = rows[::step]
    sizes = [size for size in GROUPS if size is None or _divides(size, rows.shape[1])]
    # The sample bounds the number of values from below; the whole matrix decides.
    found = [(size, grid) for size in sizes if (grid := _grid(sample, size, 1.0)) is not None]
    for size, grid in sorted(found, key=lambda one: one[1].bits):
        if grid.bits >= below:
            return grid
        if (whole := _grid(rows, size, 1.0)) is not None:
            return whole
    for size in sizes:
        if _grid(sample, size, MOST_GROUPS) is None:
            continue
        if (whole := _grid(rows, size, MOST_GROUPS)) is not None:
            return whole
    return None


def _divides(size: int, width: int) -> bool:
    return size < width and width % size == 0


def _grid(rows: torch.Tensor, size: int | None, share: float) -> HeldValues | None:
    """The grid on which ``share`` of the groups are, and at most so many values as it allows."""
    width = size or rows.shape[1]
    most = MOST_VALUES if share == 1 else FEW_VALUES[size]
    groups = rows.float().reshape(-1, width)
    ordered = groups.sort(dim=1).values
    different = (ordered[:, 1:] != ordered[:, :-1]).sum(1) + 1
    nonzero = (groups != 0).sum(1)
    levels = int(different.sort().values[math.ceil(share * len(different)) - 1])
    on = different <= levels
    total = int(nonzero[on].sum())
    repeated = 2 * int((different - (nonzero < width).long())[on].sum()) <= total
    if levels > min(most, width // 2) or not repeated or not total:
        return None
    return HeldValues(levels, size, float(on.float().mean()))
