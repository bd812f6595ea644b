"""Drawing groups with replacement: the resamples of a bootstrap over two kinds of samples."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_compsec.statistics.score import Integers

Groups = Sequence[Hashable]
# Resamples that are in memory at one time.
_CHUNK = 128


def grouped(groups: Groups | None, count: int, name: str) -> list[Hashable]:
    """A label for each of ``count`` samples; without groups every sample is its own.

    Raises ValueError where there is not one label for each sample.
    """
    if groups is None:
        return [(name, place) for place in range(count)]
    if len(groups) != count:
        raise ValueError(f"{len(groups)} groups for {count} {name}s")
    return list(groups)


def draws(
    groups_pos: list[Hashable], groups_neg: list[Hashable], resamples: int, seed: int
) -> Iterator[tuple[Integers, Integers]]:
    """How often each positive and each negative is in a resample, some resamples at a time: two
    arrays (resamples, positives) and (resamples, negatives).

    Drawn apart: groups that hold both kinds, only positives, only negatives. Each resample has as
    many groups of each as the sample.
    """
    import numpy as np

    places: dict[Hashable, int] = {}
    for label in (*groups_pos, *groups_neg):
        places.setdefault(label, len(places))
    pos = np.array([places[label] for label in groups_pos])
    neg = np.array([places[label] for label in groups_neg])
    both = np.intersect1d(pos, neg)
    strata = [both, np.setdiff1d(pos, both), np.setdiff1d(neg, both)]
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        counts = np.zeros((rows, len(places)), dtype=np.int64)
        for stratum in strata:
            size = len(stratum)
            if size:
                # Counting draws is many times faster than drawing counts (a multinomial).
                drawn = generator.integers(0, size, (rows, size)) + size * np.arange(rows)[:, None]
                found = np.bincount(drawn.ravel(), minlength=rows * size)
                counts[:, stratum] = found.reshape(rows, size)
        yield counts[:, pos], counts[:, neg]
