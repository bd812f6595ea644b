"""The order in which prompts are answered: seeded, stratified by category, cut into blocks.

``sequential`` looks at the evidence at the ends of blocks. Every block holds prompts of every
stratum, each with a *stake*, so that a look can be trusted although the categories differ: a
category that became much worse and happens to come first must not condemn a model that is within
the margin as a whole.

Why the stakes make it so. Within a stratum c, prompts are independent draws whose difference
d = regressed − improved has mean δ_c; the null hypothesis is δ = Σ w_c δ_c <= m with w_c = n_c / n.
A block of k prompts, k_c >= 1 of stratum c, gives each of those the stake a_c = k w_c / k_c, so
that Σ_i a_i = Σ_c k_c a_c = k. Let λ be fixed before the block and so small that every factor
1 + λ a_i (d_i − m) is non-negative. By independence, the inequality of the arithmetic and the
geometric mean, and Σ_c k_c a_c (δ_c − m) = k (δ − m),

    E ∏_i (1 + λ a_i (d_i − m)) = ∏_i (1 + λ a_i (δ_c(i) − m))
                               <= (1/k Σ_i (1 + λ a_i (δ_c(i) − m)))^k
                                = (1 + λ (δ − m))^k <= 1.

The product over blocks is therefore a non-negative supermartingale at the ends of blocks whatever
the δ_c, and Ville's inequality bounds the chance that it ever reaches 1/α by α. Inside a block
nothing is promised: looks belong at block ends only.

Every order of the prompts would be valid under that model; the seed spreads look-alike neighbours
of a file over the blocks, and makes a rerun see what the recorded run saw.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass

# A block of fewer prompts buys no earlier stop worth having: looks come every 64 prompts or more.
_SMALLEST_BLOCK = 16
# A stratum too rare to have a prompt in each block of this size is pooled with others, ...
_LARGEST_BLOCK = 64
# ... and so is one that could serve fewer blocks than this.
_FEWEST_BLOCKS = 4


@dataclass(frozen=True)
class Block:
    """Prompts between two possible looks.

    indices: positions of the prompts in the prompt set, in the order in which to answer them
    stakes:  one a_c > 0 per prompt, summing to the number of prompts; 1 when the block holds the
             strata in the proportions of the whole set
    """

    indices: tuple[int, ...]
    stakes: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.indices)


def order_seed(*parts: str) -> int:
    """A seed of 64 bits from texts such as the lock's digest and the test's id.

    The same on every machine and Python version; ``("ab", "c")`` and ``("a", "bc")`` differ.
    """
    text = json.dumps(parts, ensure_ascii=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def stratified_blocks(strata: Sequence[str], seed: int) -> tuple[Block, ...]:
    """Deal the prompts 0 .. len(strata) − 1 into blocks; ``strata[i]`` is prompt i's category.

    Every prompt occurs once, every block holds at least one prompt of every stratum, and blocks
    have about max(16, number of strata) prompts: 54 blocks of 16 for 16 categories of 54. The
    result depends on the arguments alone, on every platform and Python version.

    Categories with fewer prompts than there are blocks are pooled into one stratum. For those,
    the proof above needs more: that the prompts of the pool are independent draws from one
    population, their categories drawn along with them. A set whose categories are all pooled is
    ordered at random, and its early looks assume independent, identically distributed prompts
    (as the exact test does for the whole set). To keep rare categories apart, blocks grow up to
    64 prompts (or, with more than 64 categories, up to one prompt of each).
    """
    members: dict[str, list[int]] = {}
    for index, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(index)
    if not members:
        return ()
    groups = _pooled([members[name] for name in sorted(members)], len(strata))
    shuffled = [sorted(group, key=lambda index: _key(seed, index)) for group in groups]
    usual_size = max(_SMALLEST_BLOCK, len(groups))
    count = max(1, min(len(strata) // usual_size, min(map(len, groups))))
    dealt = [
        _deal(group, count, place, len(shuffled)) for place, group in enumerate(shuffled)
    ]  # dealt[c][b]: the prompts of stratum c in block b
    return tuple(
        _block([hands[number] for hands in dealt], shuffled, len(strata), seed)
        for number in range(count)
    )


def _key(seed: int, index: int) -> bytes:
    return hashlib.sha256(f"{seed}:{index}".encode()).digest()


def _pooled(groups: list[list[int]], n: int) -> list[list[int]]:
    """The groups, those too small to have a prompt in every block joined into one."""
    large_enough = sum(len(group) >= _FEWEST_BLOCKS for group in groups)
    least = max(_FEWEST_BLOCKS, n // max(_LARGEST_BLOCK, large_enough))
    kept = sorted((group for group in groups if len(group) >= least), key=len)
    pool = [index for group in groups if len(group) < least for index in group]
    while pool and kept and len(pool) < least:
        pool += kept.pop(0)
    return [*kept, pool] if pool else kept


def _deal(group: list[int], count: int, place: int, places: int) -> list[list[int]]:
    """Cut a shuffled stratum into ``count`` hands that differ by at most one prompt.

    ``place`` of ``places`` staggers the strata, so that their longer hands fall into different
    blocks. Whole numbers only: rounding cannot differ between machines.
    """
    ends = [
        (number * len(group) * places + place * count) // (count * places)
        for number in range(count + 1)
    ]
    return [group[start:end] for start, end in itertools.pairwise(ends)]


def _block(hands: list[list[int]], groups: list[list[int]], n: int, seed: int) -> Block:
    size = sum(map(len, hands))
    stakes = {
        index: (size * len(group)) / (n * len(hand))
        for hand, group in zip(hands, groups, strict=True)
        for index in hand
    }
    indices = tuple(sorted(stakes, key=lambda index: _key(seed, index)))
    return Block(indices, tuple(stakes[index] for index in indices))
