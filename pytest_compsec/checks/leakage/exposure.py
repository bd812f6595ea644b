"""Exposure of a planted secret: how far ahead of all other secrets of its space a model puts it.

Carlini et al., "The Secret Sharer", USENIX Security 2019 (arXiv 1802.08232): the candidates of a
space R are ordered by their likelihood, and exposure = log2 |R| - log2 rank, in bits. A secret that
was never seen has a rank drawn uniformly (1.44 bits on average, for a large space); the likeliest
of all has log2 |R|, and is extracted by a search that follows the likelihood.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

#: A secret is exposed from this many bits below the largest possible exposure: rank 1 or 2.
EXPOSED_WITHIN = 1.0


@dataclasses.dataclass(frozen=True)
class Exposure:
    """``bits`` of at most ``largest``; ``rank`` among all candidates, None where it was estimated
    from a sample of them; ``extrapolated``: no candidate of the sample was likelier."""

    bits: float
    largest: float
    rank: float | None = None
    extrapolated: bool = False

    @property
    def share(self) -> float:
        """Exposure as a share of the largest possible one, in [0, 1]."""
        return min(1.0, max(0.0, self.bits / self.largest))

    @property
    def exposed(self) -> bool:
        return self.bits >= self.largest - EXPOSED_WITHIN - 1e-9

    def text(self) -> str:
        """``rank 1 (13.3 of 13.3 bits)``."""
        bits = f"{self.bits:.1f} of {self.largest:.1f} bits"
        if self.rank is not None:
            return f"rank {self.rank:g} ({bits})"
        how = "extrapolated" if self.extrapolated else "from a sample"
        return f"{bits}, {how}"


def exact_exposure(secret: float, others: Sequence[float]) -> Exposure:
    """From the negative log-likelihoods of the secret and of *all* other candidates.

    Ties count one half: a model that finds all candidates alike exposes none. Raises ValueError
    without others.
    """
    if not others:
        raise ValueError("a space of one candidate has no ranks")
    rank = 1.0 + _likelier(secret, others)
    largest = math.log2(len(others) + 1)
    return Exposure(largest - math.log2(rank), largest, rank)


def sampled_exposure(secret: float, others: Sequence[float], size: int) -> Exposure:
    """From the negative log-likelihoods of the secret and of a random sample of the ``size - 1``
    other candidates.

    Exposure is -log2 of the share of candidates at least as likely (section 4.4 of the paper),
    estimated as (1 + likelier) / (1 + sample). Where the secret is likelier than the whole sample
    that share is below what a sample can tell: a skew-normal distribution is fitted to the sample's
    log-likelihoods, as in the paper (by moments here), and its tail is taken, no smaller than
    1 / ``size``. Raises ValueError for a sample that is larger than the space, or of fewer than 2.
    """
    if not 2 <= len(others) < size:
        raise ValueError(f"{len(others)} sampled candidates of a space of {size}")
    largest = math.log2(size)
    likelier = _likelier(secret, others)
    share = (1.0 + likelier) / (1.0 + len(others))
    extrapolated = likelier == 0.0
    if extrapolated:
        share = min(share, max(1.0 / size, _skew_normal_tail(secret, others)))
    return Exposure(-math.log2(share), largest, extrapolated=extrapolated)


def _likelier(secret: float, others: Sequence[float]) -> float:
    return sum(1.0 if other < secret else 0.5 for other in others if other <= secret)


def _skew_normal_tail(value: float, sample: Sequence[float]) -> float:
    """P(X <= value) of the skew-normal distribution with the sample's mean, variance and skewness
    (Azzalini, Scandinavian Journal of Statistics 12 (1985) 171-178)."""
    import numpy as np
    from scipy import stats

    finite = np.array([one for one in sample if math.isfinite(one)])
    if len(finite) < 2 or not float(finite.std()) > 0.0:
        return 1.0
    mean, deviation = float(finite.mean()), float(finite.std())
    skewness = float(np.clip(stats.skew(finite), -0.99, 0.99))
    power = abs(skewness) ** (2.0 / 3.0)
    delta = math.sqrt(math.pi / 2.0 * power / (power + ((4.0 - math.pi) / 2.0) ** (2.0 / 3.0)))
    delta = math.copysign(delta, skewness)
    scale = deviation / math.sqrt(1.0 - 2.0 * delta**2 / math.pi)
    location = mean - scale * delta * math.sqrt(2.0 / math.pi)
    shape = delta / math.sqrt(1.0 - delta**2)
    tail = float(stats.skewnorm.cdf(value, shape, loc=location, scale=scale))
    return max(0.0, tail)  # its numerical integral may end a hair below zero
