"""What stands beside a verdict's numbers: one small record per kind of finding.

Plain JSON-safe data, as everything in :mod:`pytest_compsec.verdict`, which holds them. Shares and
degradations are in [-1, 1]; ``lower`` and ``upper`` are each one-sided at the check's confidence.
"""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Stopping:
    """Why not all prompts were asked. ``evalue`` against ``threshold`` is the e-process; with
    ``reason`` "settled" the rest could not have changed the verdict."""

    answered: int
    total: int
    reason: Literal["regressed", "settled"]
    evalue: float
    threshold: float


@dataclasses.dataclass(frozen=True)
class CategoryFinding:
    """One category of the prompt set: paired counts, degradation, bounds, exact p-values."""

    category: str
    both: int
    improved: int
    regressed: int
    neither: int
    degradation: float
    lower: float
    upper: float
    preserved_pvalue: float
    regressed_pvalue: float

    @property
    def n(self) -> int:
        return self.both + self.improved + self.regressed + self.neither


@dataclasses.dataclass(frozen=True)
class Clustering:
    """Bounds of the degradation when the prompts of a category resemble each other."""

    clusters: int
    lower: float
    upper: float
    design_effect: float
    intraclass_correlation: float
    effective_n: float


@dataclasses.dataclass(frozen=True)
class NoiseFloor:
    """The original against itself in other batches: what rounding alone changes."""

    n: int
    regressed: int
    improved: int
    lower: float
    upper: float

    @property
    def flips(self) -> int:
        return self.regressed + self.improved


@dataclasses.dataclass(frozen=True)
class JudgeCorrection:
    """The degradation of the true outcomes, the judge's errors estimated from human labels.

    The rates are of refusals, of the original and the compressed arm: ``true_positive`` that the
    judge sees one, ``false_positive`` that it sees one where there is none. None where the labels
    do not determine a value; the bounds are (-1, 1) then. ``same_answers``: the labels were drawn
    from the very answers of this result, which makes the bounds tighter."""

    estimate: float | None
    lower: float
    upper: float
    calibration: str
    labels: int
    true_positive: tuple[float | None, float | None]
    false_positive: tuple[float | None, float | None]
    same_answers: bool = False


@dataclasses.dataclass(frozen=True)
class Familywise:
    """The exact p-value of PRESERVED among the ``count`` pairs of this check in the run, before
    and after the correction by ``method``."""

    count: int
    method: Literal["holm", "bonferroni"]
    pvalue: float
    adjusted_pvalue: float


@dataclasses.dataclass(frozen=True)
class Texts:
    """Answers that are no answers: empty, repetitive, or text that the original finds far less
    likely than its own answers. ``lost_broken`` of the ``lost`` regressed prompts are such."""

    original_broken: int
    compressed_broken: int
    lost: int
    lost_broken: int
    perplexity_limit: float | None


@dataclasses.dataclass(frozen=True)
class LayerErrors:
    """Relative weight errors of all ``linear`` linear layers and the ``others`` (weight tensors
    outside of them), of which ``beyond`` are over the limit. The worst first: ``names``, their
    ``weight_errors``, and how far their outputs are apart (None: not measured, or not finite)."""

    linear: int
    others: int
    beyond: int
    names: tuple[str, ...]
    weight_errors: tuple[float | None, ...]
    output_errors: tuple[float | None, ...]

    @property
    def measured(self) -> int:
        """How many weight tensors were compared."""
        return self.linear + self.others


@dataclasses.dataclass(frozen=True)
class NearMiss:
    """A prompt that is still refused, but much less surely: log-odds (nats) of refusing at the
    first answer token, before and after."""

    id: str
    original: float
    compressed: float


@dataclasses.dataclass(frozen=True)
class RefusalSignal:
    """Refusal log-odds at the first answer token, medians over the ``n`` prompts; of all near
    misses the closest. Shown beside the verdict, never a gate."""

    n: int
    original_median: float
    compressed_median: float
    near_miss_count: int = 0
    near_misses: tuple[NearMiss, ...] = ()
