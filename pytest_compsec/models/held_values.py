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
#: A grid is found where this share of the groups is on it, too, and some are on none or on a finer
#: one: a row, or one input in a hundred, that was kept in full precision leaves all others as
#: coarse as they are.
MOST_GROUPS = 0.75
#: By group size how few values it then has: honest 8 bits with outliers, and finer grids that a
#: small group does not show whole, would else be taken for them.
FEW_VALUES: Mapping[int | None, int] = {None: 8, 128: 8, 64: 8, 32: 4, 16: 4}
#: A grid of up to :data:`MOST_VALUES` is found where this share of the groups is on it, and the
#: groups are long enough to show a finer grid as one.
NEARLY_ALL_GROUPS = 0.95
LONG_GROUPS = (None, 128, 64)
#: Of two groups of a row that each have a scale, and with it values, of their own, at least this
#: share of the values is different. Where they share one scale, as in a row of 8 bits of which one
#: outlier leaves a few codes for the rest, most are the same: such groups are a part of the row,
#: and their number of values says nothing.
OWN_VALUES = 0.8
#: A whole row (or column) of so many weights shows a finer grid as one, in any case.
LONG_ROW = 256
#: Rows that are looked at first.
_SAMPLED_ROWS = 32
#: A sample of them shows no grid at all where fewer than this share of its groups are on one.
_SAMPLED_GROUPS = 0.5


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
    the group's size, and over all groups each value other than zero stands twice or more. Or in
    :data:`NEARLY_ALL_GROUPS` of long groups, or in :data:`MOST_GROUPS` with no more than
    :data:`FEW_VALUES`; parts of a row, and short rows, must then have values of their own
    (:data:`OWN_VALUES`), but for few values where no grid holds all groups. Groups run along the
    inputs or along the outputs (formats with a scale for each input). Zeros alone make no grid: a
    pruned matrix is as precise as what is left of it.
    """
    if rows.dim() != 2 or 0 in rows.shape:
        return None
    found = _held(rows.detach(), below)
    if found is None or found.bits > 1:
        across = _held(rows.detach().t(), min(below, math.inf if found is None else found.bits))
        found = found if across is None else dataclasses.replace(across, across=True)
    return found


def _held(rows: torch.Tensor, below: float) -> HeldValues | None:
    """The coarsest grid of fewer than ``below`` bits."""
    sample = _sampled(rows)
    sizes = [size for size in GROUPS if size is None or _divides(size, rows.shape[1])]
    best: HeldValues | None = None
    strict = False
    # The grids that hold all groups first: what they are is known of the others then.
    for share in (1.0, NEARLY_ALL_GROUPS, MOST_GROUPS):
        for size in sizes:
            most = _most_values(size, share)
            if not most:
                continue
            # The fewest values that the whole matrix can have, or is likely to have.
            seen = _grid(_Groups.of(sample, size), most, 1.0 if share == 1 else _SAMPLED_GROUPS)
            if seen is None or seen.bits >= (below if best is None else best.bits):
                strict = strict or (share == 1 and seen is not None)
                continue
            groups = _Groups.of(rows, size)
            found = _grid(groups, most, share)
            if found is None:
                continue
            strict = strict or share == 1
            if found.bits >= (below if best is None else best.bits):
                continue
            few = share == MOST_GROUPS and (size is None or not strict)
            if share == 1 or few or groups.whole(found.levels):
                best = found
    return best


def _sampled(rows: torch.Tensor) -> torch.Tensor:
    """Some of the rows. Which ones the values decide: exceptions cannot be put where they will be
    looked for."""
    import torch

    if len(rows) <= _SAMPLED_ROWS:
        return rows
    bits = rows.float().contiguous().view(torch.int32)
    seed = int(bits.sum(dtype=torch.int64)) % 2**63
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return rows[chosen[:_SAMPLED_ROWS].to(rows.device)]


def _divides(size: int, width: int) -> bool:
    return size < width and width % size == 0


def _most_values(size: int | None, share: float) -> int:
    """How many values a grid may have that holds so many of the groups; 0: it is not looked for."""
    if share == 1:
        return MOST_VALUES
    if share == MOST_GROUPS:
        return FEW_VALUES[size]
    return MOST_VALUES if size in LONG_GROUPS else 0


@dataclasses.dataclass(frozen=True, eq=False)
class _Groups:
    """``ordered``: (rows, groups of a row, size), the values of each group in order; ``different``
    how many there are, ``nonzero`` how many weights are not zero: (rows, groups of a row)."""

    size: int | None
    ordered: torch.Tensor
    different: torch.Tensor
    nonzero: torch.Tensor

    @classmethod
    def of(cls, rows: torch.Tensor, size: int | None) -> _Groups:
        ordered = rows.float().reshape(len(rows), -1, size or rows.shape[1]).sort(dim=2).values
        return cls(size, ordered, _different(ordered), (ordered != 0).sum(2))

    @property
    def width(self) -> int:
        return int(self.ordered.shape[2])

    def whole(self, levels: int) -> bool:
        """Whether the groups of no more than ``levels`` values show all values that they might
        have: they are long, or each has values of its own, or all of them have the same."""
        import torch

        if self.size is None:
            held = self.ordered[self.different <= levels]
            if self.width >= LONG_ROW or len(torch.unique(held)) <= MOST_VALUES:
                return True
        return self._own_values(levels) >= OWN_VALUES

    def _own_values(self, levels: int) -> float:
        """Of two groups beside each other (in a row; whole rows: below each other) that hold no
        more than ``levels`` values each: how many different values both hold together, as a share
        of what each holds alone; 0 where there are no such two."""
        ordered, different = self.ordered, self.different
        if self.size is None:
            ordered, different = ordered.transpose(0, 1), different.transpose(0, 1)
        pairs = ordered.shape[1] // 2
        first, second = (ordered[:, start : 2 * pairs : 2] for start in (0, 1))
        alone = [different[:, start : 2 * pairs : 2] for start in (0, 1)]
        on = (alone[0] <= levels) & (alone[1] <= levels)
        if not bool(on.any()):
            return 0.0
        together = _different(_joined(first[on], second[on]))
        return float(together.sum()) / float((alone[0] + alone[1])[on].sum())


def _different(ordered: torch.Tensor) -> torch.Tensor:
    """How many different values each row of the last dimension holds, which is in order."""
    return (ordered[..., 1:] != ordered[..., :-1]).sum(-1) + 1


def _joined(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.cat((first, second), dim=-1).sort(dim=-1).values


def _grid(groups: _Groups, most: int, share: float) -> HeldValues | None:
    """The grid on which ``share`` of the groups are, of ``most`` values at most."""
    different = groups.different.flatten()
    nonzero = groups.nonzero.flatten()
    levels = int(different.sort().values[math.ceil(share * len(different)) - 1])
    on = different <= levels
    total = int(nonzero[on].sum())
    repeated = 2 * int((different - (nonzero < groups.width).long())[on].sum()) <= total
    if levels > min(most, groups.width // 2) or not repeated or not total:
        return None
    return HeldValues(levels, groups.size, float(on.float().mean()))
