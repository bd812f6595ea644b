"""Bounds of a ratio of two sums over documents, by the studentized bootstrap over documents.

For perplexity: numerators are the documents' differences of negative log-likelihood (compressed
minus original, nats), denominators their scored tokens, and the ratio is the mean difference per
token, the logarithm of the ratio of the two corpus perplexities. Tokens of one document depend on
each other, so documents are what is drawn, never tokens.

Studentized (bootstrap-t; Efron 1982, section 10.10; Hall, Annals of Statistics 16 (1988) 927-953:
one-sided errors of order 1/n, where those of the percentile interval are of order 1/sqrt(n)): each
resample's ratio is measured in its own standard error, that of the linearised ratio estimator
(Cochran, Sampling Techniques, 3rd edition, section 6.4). ``tests/unit/statistics`` compares its
coverage with that of BCa on skewed differences, where it is the nearer one to what is promised.

What it cannot do. Without a limit on the differences no bound of a mean holds for every
distribution at any sample size (Bahadur & Savage, Annals of Mathematical Statistics 27 (1956)
1115-1122): what no document of the sample shows is in no resample either. Where all documents have
the same ratio, as those of two identical models have (0, exactly), the bounds are that ratio. That
is the right answer about these documents and says nothing of a kind of document that is not among
them; hence :data:`LEAST_DOCUMENTS`, and :func:`unseen_share` for the sentence beside a verdict.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.statistics._validate import real_between, risk_of

if TYPE_CHECKING:
    from pytest_compsec.statistics.score import Floats

#: With fewer documents no bounds are given. Of a kind of document that makes up a tenth of all,
#: 30 draws hold at least one with probability 1 - 0.9**30 = 0.958.
LEAST_DOCUMENTS = 30
#: Resamples: the bounds' own scatter is then a few per cent of the interval's width.
RESAMPLES = 9_999
_SEED = 20_231_117
#: Resamples times documents that are in memory at a time.
_MOST_AT_ONCE = 2_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class BootstrappedRatio:
    """``estimate``: sum of numerators over sum of denominators; ``standard_error`` of it;
    ``studentized``: shape (resamples,), sorted: how far each resample's ratio is from the
    estimate, in its own standard errors (empty where that is 0: every document has the same)."""

    documents: int
    estimate: float
    standard_error: float
    studentized: Floats

    def bounds(self, confidence: float) -> tuple[float, float]:
        """Lower and upper bound of the ratio, each one-sided at ``confidence`` in (0.5, 1)."""
        risk = risk_of(confidence)
        if not len(self.studentized):
            return self.estimate, self.estimate
        low = self._quantile(risk, upwards=False)
        high = self._quantile(1 - risk, upwards=True)
        # Seen from the estimate the truth lies on the other side.
        return (
            self.estimate - high * self.standard_error,
            self.estimate - low * self.standard_error,
        )

    def _quantile(self, share: float, *, upwards: bool) -> float:
        """Order statistic number ``share * (resamples + 1)``, rounded outwards."""
        count = len(self.studentized)
        place = share * (count + 1)
        rank = math.ceil(place - 1e-9) if upwards else math.floor(place + 1e-9)
        if rank < 1:
            return -math.inf
        return math.inf if rank > count else float(self.studentized[rank - 1])


def bootstrap_ratio(
    numerators: Sequence[float], denominators: Sequence[float], *, resamples: int = RESAMPLES
) -> BootstrappedRatio:
    """The ratio ``sum(numerators) / sum(denominators)`` and its bootstrap distribution.

    One entry of each for every document, independent draws of one population. The resamples depend
    on the number of documents alone: a rerun gives the same bounds.

    Raises ValueError for fewer than :data:`LEAST_DOCUMENTS`, unequal lengths, a numerator that is
    not finite or a denominator that is not positive.
    """
    import numpy as np

    if len(numerators) != len(denominators):
        raise ValueError(f"{len(numerators)} numerators but {len(denominators)} denominators")
    if len(numerators) < LEAST_DOCUMENTS:
        raise ValueError(
            f"{len(numerators)} documents are too few for bounds; at least {LEAST_DOCUMENTS}"
        )
    for place, value in enumerate(denominators):
        real_between(f"denominator {place}", value, 0.0, math.inf)
    for place, value in enumerate(numerators):
        real_between(f"numerator {place}", value, -math.inf, math.inf)
    above = np.asarray(numerators, dtype=np.float64)
    below = np.asarray(denominators, dtype=np.float64)
    estimate = math.fsum(numerators) / math.fsum(denominators)
    # What a document's numerator is beyond its share: the sum of all is 0.
    residuals = above - estimate * below
    size = float(np.abs(above).max(initial=0.0))
    if float(np.abs(residuals).max()) <= 1e-12 * size:
        return BootstrappedRatio(len(above), estimate, 0.0, np.zeros(0))
    error = _standard_errors(residuals, below, np.ones((1, len(above))))[1][0]
    parts = []
    at_once = max(1, _MOST_AT_ONCE // len(above))
    generator = np.random.PCG64([_SEED, len(above)])
    for begin in range(0, resamples, at_once):
        counts = _draws(generator, min(at_once, resamples - begin), len(above))
        moved, errors = _standard_errors(residuals, below, counts)
        parts.append(_studentized(moved, errors))
    found = np.sort(np.concatenate(parts))
    return BootstrappedRatio(len(above), estimate, float(error), found)


def unseen_share(documents: int, confidence: float) -> float:
    """The largest share of a kind of document of which not one of ``documents`` may have been, at
    ``confidence``: ``1 - alpha ** (1 / documents)``, the exact bound of 0 successes (Clopper &
    Pearson 1934). Raises ValueError for no document."""
    if documents < 1:
        raise ValueError("no documents")
    return float(1 - risk_of(confidence) ** (1 / documents))


def _draws(generator: Any, rows: int, documents: int) -> Floats:
    """Shape (rows, documents): how often each document is in each resample.

    From the raw stream of a bit generator, which numpy promises to keep (NEP 19), so that no
    version of it changes a verdict; the remainder favours no document by more than 1e-13.
    """
    import numpy as np

    drawn = (generator.random_raw(rows * documents) % np.uint64(documents)).astype(np.int64)
    drawn += np.repeat(np.arange(rows, dtype=np.int64) * documents, documents)
    counts = np.bincount(drawn, minlength=rows * documents).reshape(rows, documents)
    found: Floats = counts.astype(np.float64)
    return found


def _standard_errors(
    residuals: Floats, denominators: Floats, counts: Floats
) -> tuple[Floats, Floats]:
    """For each row of counts, how far its ratio is from the estimate, and its standard error:
    ``sqrt(n / (n - 1) * sum(count * residual_of_the_row ** 2)) / sum(count * denominator)``."""
    import numpy as np

    documents = len(residuals)
    total = counts @ denominators
    moved = (counts @ residuals) / total
    squares = (
        counts @ residuals**2
        - 2 * moved * (counts @ (residuals * denominators))
        + moved**2 * (counts @ denominators**2)
    )
    spread = np.sqrt(np.maximum(squares, 0.0) * documents / (documents - 1))
    return moved, spread / total


def _studentized(moved: Floats, errors: Floats) -> Floats:
    """``moved / errors``. A resample without any spread that moved nevertheless says that the
    truth may be anywhere on that side: an infinite value."""
    import numpy as np

    tiny = errors <= 1e-12 * np.abs(moved)
    safe = np.where(errors > 0, errors, 1.0)
    found: Floats = np.where(
        tiny, np.where(moved == 0, 0.0, np.copysign(np.inf, moved)), moved / safe
    )
    return found
