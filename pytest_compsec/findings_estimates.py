"""What a check that measures several quantities found: one record for each of them.

Plain JSON-safe data, as in :mod:`pytest_compsec.findings`. Every estimate names what is estimated
(the estimand), its unit, what one sample is, its margin and the method of its interval, so that a
reader needs nothing but the record to know what was claimed.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Estimate:
    """One quantity of both models and its change; a positive change is worse.

    ``original``, ``compressed`` and ``change`` are in ``unit`` ("points" are shares between 0 and
    1, shown times 100); None: not measured, or not a number of one model. ``lower`` and ``upper``
    are each one-sided at the check's confidence. ``samples`` counts the independent units, named by
    ``sample`` ("document", "question", "person"). ``limit`` is the margin of the change (None:
    shown beside the verdict, never a gate). ``verdict`` is that of this quantity alone (empty where
    it decides nothing).
    """

    name: str
    estimand: str
    unit: str
    sample: str
    samples: int
    method: str
    original: float | None = None
    compressed: float | None = None
    change: float | None = None
    lower: float | None = None
    upper: float | None = None
    limit: float | None = None
    verdict: str = ""

    @property
    def decides(self) -> bool:
        return self.limit is not None


@dataclasses.dataclass(frozen=True)
class Difference:
    """A part in which the two models are not alike, as short texts (None: the part is absent)."""

    part: str
    original: str | None
    compressed: str | None
    why_it_matters: str = ""
