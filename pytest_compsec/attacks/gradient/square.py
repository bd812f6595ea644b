"""Square Attack (Andriushchenko et al. 2020, arXiv 1912.00049): random search that sees nothing of
a model but its outputs, and so cannot be misled by a masked gradient.

Written from the paper (algorithms 1 to 3), for all samples of a batch at once. What is drawn
depends on the seed and the shape of the data alone: neither on the batch size, nor on which samples
are fooled already.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch

from pytest_compsec.attacks.gradient.budget import Budget, margins

#: (samples, ...) -> logits (samples, classes) on the CPU.
Outputs = Callable[[torch.Tensor], torch.Tensor]
# Share of an image that the first window covers, and the iterations (of 10,000) after which it
# halves: section 5 of the paper, with the share that AutoAttack (arXiv 2003.01690) uses.
_FIRST_SHARE = 0.8
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_WHOLE_SCHEDULE = 10_000
_SMALLEST_L2_SIDE = 3
_TINY = 1e-12


def square_attack(
    outputs: Outputs,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    budget: Budget,
    *,
    queries: int,
    seed: int,
    batch_size: int = 256,
) -> torch.Tensor:
    """An example for each of ``inputs`` (samples, ...) float32 on the CPU: the one of the smallest
    margin that ``queries`` looks at ``outputs`` found. Samples that are classified wrong without
    any change come back as they are.

    Images are (samples, channels, height, width); of three dimensions the last two are an image's,
    anything else is taken for one row of numbers. Raises MeasurementError for examples out of the
    budget, and whatever ``outputs`` raises.
    """
    generator = torch.Generator().manual_seed(seed)
    images = _as_images(inputs)
    attack = _Linf(images, budget) if budget.norm == "linf" else _L2(images, budget)
    best = images.clone()
    lowest = margins(outputs(inputs), labels)
    for query in range(queries):
        drawn = attack.draw(query / queries, query == 0, generator)
        active = (lowest >= 0).nonzero().squeeze(1)
        if not len(active):
            break
        # What is tried is as large as the samples themselves: one batch at a time.
        for places in active.split(batch_size):  # type: ignore[no-untyped-call]
            tried = attack.candidates(best[places], drawn, places)
            margin = margins(outputs(tried.view(len(places), *inputs.shape[1:])), labels[places])
            # The first pattern is where the search starts, whatever it does to the margin.
            better = (margin < lowest[places]) | (query == 0)
            best[places[better]] = tried[better]
            lowest[places[better]] = margin[better]
    examples = best.view(inputs.shape)
    budget.require_kept(inputs, examples)
    return examples


def window_share(progress: float) -> float:
    """Share of the image that a window covers, ``progress`` in [0, 1) through the queries."""
    done = sum(progress * _WHOLE_SCHEDULE > after for after in _HALVINGS)
    return _FIRST_SHARE / 2.0**done


@dataclasses.dataclass(frozen=True, eq=False)
class _Drawn:
    """What one query draws for every sample: the corners (samples, 2) of up to two windows of
    ``size``, signs (samples, channels, 1, width), and a coin per sample."""

    first: bool
    size: tuple[int, int]
    corners: torch.Tensor
    others: torch.Tensor
    signs: torch.Tensor
    coins: torch.Tensor


class _Windows:
    """What both norms share: where windows are and how they are drawn."""

    smallest_side = 1

    def __init__(self, images: torch.Tensor, budget: Budget) -> None:
        self.images = images
        self.budget = budget
        self.height, self.width = images.shape[2:]

    def draw(self, progress: float, first: bool, generator: torch.Generator) -> _Drawn:
        samples, channels = self.images.shape[:2]
        size = self._size(window_share(progress))
        most = torch.tensor([self.height - size[0] + 1, self.width - size[1] + 1])
        corners = (torch.rand((2, samples, 2), generator=generator) * most).long()
        signs = torch.randint(0, 2, (samples, channels, 1, self.width), generator=generator)
        coins = torch.rand(samples, generator=generator) < 0.5
        return _Drawn(first, size, corners[0], corners[1], signs * 2.0 - 1.0, coins)

    def candidates(self, best: torch.Tensor, drawn: _Drawn, active: torch.Tensor) -> torch.Tensor:
        """What to try next for the ``active`` samples, whose examples so far are ``best``."""
        raise NotImplementedError

    def _size(self, share: float) -> tuple[int, int]:
        """Height and width of a window: square where the image allows it."""
        area = share * self.height * self.width
        side = max(self.smallest_side, round(math.sqrt(area)))
        height = min(side, self.height)
        wide = side if height == side else max(side, round(area / height))
        return height, min(wide, self.width)

    def _offsets(self, corners: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Row and column of each place relative to its sample's corner: (samples, height, 1) and
        (samples, 1, width)."""
        rows = torch.arange(self.height).view(1, -1, 1) - corners[:, 0].view(-1, 1, 1)
        columns = torch.arange(self.width).view(1, 1, -1) - corners[:, 1].view(-1, 1, 1)
        return rows, columns

    def _mask(self, corners: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(samples, 1, height, width), bool."""
        rows, columns = self._offsets(corners)
        inside = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
        return inside.unsqueeze(1)

    def _clipped(self, examples: torch.Tensor) -> torch.Tensor:
        return examples.clamp(self.budget.lower, self.budget.upper)


class _Linf(_Windows):
    """Every number is at one end of what it may be: stripes first, then squares of one sign."""

    def candidates(self, best: torch.Tensor, drawn: _Drawn, active: torch.Tensor) -> torch.Tensor:
        clean, signs, eps = self.images[active], drawn.signs[active], self.budget.eps
        if drawn.first:
            return self._clipped(clean + eps * signs)
        window = self._mask(drawn.corners[active], drawn.size)
        sign = signs[..., :1]
        tried = torch.where(window, self._clipped(clean + eps * sign), best)
        # A query on what is known already would be lost: there, the other sign.
        same = (tried == best).flatten(1).all(1).view(-1, 1, 1, 1)
        return torch.where(window & same, self._clipped(clean - eps * sign), tried)


class _L2(_Windows):
    """The change is moved from one window to another, where it takes the shape of two peaks of
    opposite signs; its length is always ``eps``."""

    smallest_side = _SMALLEST_L2_SIDE

    def candidates(self, best: torch.Tensor, drawn: _Drawn, active: torch.Tensor) -> torch.Tensor:
        clean, eps = self.images[active], self.budget.eps
        sign = drawn.signs[active][..., :1]
        if drawn.first:
            return self._clipped(clean + eps * _unit(self._tiles() * drawn.signs[active]))
        change = best - clean
        window = self._mask(drawn.corners[active], drawn.size)
        both = window | self._mask(drawn.others[active], drawn.size)
        # Clipping leaves some of the length unused: it is spent here, with what the windows hold.
        unused = (eps**2 - change.square().flatten(1).sum(1)).clamp(min=0).view(-1, 1, 1, 1)
        length = (
            (change * both).square().sum((2, 3), keepdim=True) + unused / clean.shape[1]
        ).sqrt()
        shape = self._peaks(drawn, active) * sign + _unit_per_channel(change * window)
        moved = torch.where(window, _unit_per_channel(shape * window) * length, change * ~both)
        return self._clipped(clean + eps * _unit(moved))

    def _tiles(self) -> torch.Tensor:
        """(height, width): a fifth of the image on a side each, as far as they go."""
        height, width = max(1, self.height // 5), max(1, self.width // 5)
        tile = peak(height, width)
        rows, columns = torch.arange(self.height) % height, torch.arange(self.width) % width
        return tile[rows][:, columns]

    def _peaks(self, drawn: _Drawn, active: torch.Tensor) -> torch.Tensor:
        """(samples, 1, height, width): two peaks inside of each window, side by side or one above
        the other as the coin fell."""
        height, width = drawn.size
        above = torch.cat([peak(height // 2, width), -peak(height - height // 2, width)])
        beside = torch.cat([peak(height, width // 2), -peak(height, width - width // 2)], dim=1)
        rows, columns = self._offsets(drawn.corners[active])
        rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
        coins = drawn.coins[active].view(-1, 1, 1)
        return torch.where(coins, above[rows, columns], beside[rows, columns]).unsqueeze(1)


def peak(height: int, width: int) -> torch.Tensor:
    """(height, width): highest in the middle, of Euclidean length 1. At the distance d from the
    middle (the larger of rows and columns): the sum of 1 / (k + 1)² for k from d to the largest
    such distance (equation 2 of the paper)."""
    rows = (torch.arange(height) - height // 2).abs().view(-1, 1)
    columns = (torch.arange(width) - width // 2).abs().view(1, -1)
    distance = torch.maximum(rows.expand(height, width), columns.expand(height, width))
    if not distance.numel():
        return torch.zeros(height, width)
    terms = 1.0 / (torch.arange(int(distance.max()) + 1) + 1.0).square()
    heights = terms.flip(0).cumsum(0).flip(0)[distance]
    scaled: torch.Tensor = heights / heights.norm()
    return scaled


def _unit(change: torch.Tensor) -> torch.Tensor:
    """Each sample's change at length 1."""
    lengths = change.flatten(1).norm(dim=1).clamp(min=_TINY)
    scaled: torch.Tensor = change / lengths.view(-1, 1, 1, 1)
    return scaled


def _unit_per_channel(change: torch.Tensor) -> torch.Tensor:
    return change / change.square().sum((2, 3), keepdim=True).sqrt().clamp(min=_TINY)


def _as_images(inputs: torch.Tensor) -> torch.Tensor:
    """(samples, channels, height, width)."""
    if inputs.dim() == 4:
        return inputs
    if inputs.dim() == 3:
        return inputs.unsqueeze(1)
    return inputs.flatten(1).view(len(inputs), 1, 1, -1)
