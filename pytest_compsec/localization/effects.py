"""A change in refusal log-odds over prompts, as plain numbers."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class Change:
    """``mean`` over prompts of the change of refusal log-odds (nats; negative: less inclined to
    refuse), and its ``standard_error`` with prompts as units (None for a single prompt)."""

    mean: float
    standard_error: float | None

    @classmethod
    def of(cls, before: torch.Tensor, after: torch.Tensor) -> Change:
        """From the log-odds of the same prompts before and after."""
        differences = after - before
        n = len(differences)
        error = float(differences.std()) / math.sqrt(n) if n > 1 else None
        return cls(float(differences.mean()), error)

    def pvalue_of_loss(self, prompts: int) -> float:
        """One-sided paired t test that the mean is not below 0; 1 for a single prompt."""
        from scipy.stats import t

        if self.standard_error is None:
            return 1.0
        if self.standard_error == 0.0:
            return 0.0 if self.mean < 0 else 1.0
        return float(t.cdf(self.mean / self.standard_error, prompts - 1))

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        error = "" if self.standard_error is None else f" ±{self.standard_error:.2f}"
        return f"{self.mean:+.2f}{error}"
