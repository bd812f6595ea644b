"""What was found about each layer: plain data, JSON, and a table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from pytest_compsec.localization.effects import Change

if TYPE_CHECKING:
    from pytest_compsec.localization.openings import Openings

Unit = Literal["matrix", "block"]


@dataclasses.dataclass(frozen=True)
class LayerEffect:
    """One linear layer (or one whole decoder layer).

    ``restored``: the compressed model with only this layer from the original. ``damaged``: the
    original with only this layer compressed. Both None where it was not tried (``at_most``).
    ``weight_error`` and ``activation_error`` are relative errors (see ``weight_error`` and
    ``activation_error`` of this room); None where there is none to measure.
    """

    name: str
    elements: int
    weight_error: float | None
    activation_error: float | None
    restored: Change | None = None
    damaged: Change | None = None

    @property
    def causal(self) -> float | None:
        """Refusal log-odds that compressing this layer costs (nats, positive: costs refusals): the
        mean of what restoring it alone gives back and of what damaging it alone takes. The two are
        its marginal contributions as the last and as the first layer compressed, the ends of what
        a Shapley value averages."""
        if self.restored is None or self.damaged is None:
            return None
        return (self.restored.mean - self.damaged.mean) / 2

    def to_json(self) -> dict[str, Any]:
        return {**_finite(dataclasses.asdict(self)), "causal": self.causal}


@dataclasses.dataclass(frozen=True)
class LayersReport:
    """``layers`` from the costliest on, those not tried last. Mean refusal log-odds of both models
    over ``prompts`` prompts. ``rank_correlation``: Spearman's, of weight error with causal cost,
    over the layers tried; None where it is not defined."""

    unit: Unit
    prompts: int
    original_log_odds: float
    compressed_log_odds: float
    layers: tuple[LayerEffect, ...]
    rank_correlation: float | None
    openings: Openings
    passes: int
    layer_runs: int

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[LayerEffect]:
        return iter(self.layers)

    @property
    def tried(self) -> tuple[LayerEffect, ...]:
        """The layers with a causal cost, the costliest first."""
        return tuple(layer for layer in self.layers if layer.causal is not None)

    def recommended(self, count: int) -> tuple[str, ...]:
        """The names of at most ``count`` layers to keep in full precision first: by causal cost,
        and only those whose compression costs refusals."""
        return tuple(
            layer.name for layer in self.tried if layer.causal is not None and layer.causal > 0
        )[:count]

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps(..., allow_nan=False)``."""
        return {
            **_finite({field: getattr(self, field) for field in _PLAIN}),
            "layers": [layer.to_json() for layer in self.layers],
            "openings": self.openings.to_json(),
        }

    def text(self, top: int = 10) -> str:
        """The ``top`` layers as a table."""
        kind = "linear layers" if self.unit == "matrix" else "decoder layers"
        tried = self.tried
        width = max((len(layer.name) for layer in tried[:top]), default=5)
        lines = [
            f"Refusal log-odds on {self.prompts} prompts: original {self.original_log_odds:+.2f}, "
            f"compressed {self.compressed_log_odds:+.2f}. {len(tried)} of {len(self.layers)} "
            f"{kind} restored and damaged one at a time; change in nats, ± standard error",
            f"{'layer':<{width}}  {'cost':>6}  {'restored':>13}  {'damaged':>13}  "
            f"{'weights':>7}  {'outputs':>7}",
        ]
        for layer in tried[:top]:
            assert layer.causal is not None
            lines.append(
                f"{layer.name:<{width}}  {layer.causal:>6.2f}  {layer.restored!s:>13}  "
                f"{layer.damaged!s:>13}  {_share(layer.weight_error):>7}  "
                f"{_share(layer.activation_error):>7}"
            )
        if self.rank_correlation is not None:
            lines.append(
                f"Spearman correlation of weight error and cost: {self.rank_correlation:+.2f}. "
                "The cost ranks; the errors explain"
            )
        return "\n".join(lines)


_PLAIN = (
    "unit",
    "prompts",
    "original_log_odds",
    "compressed_log_odds",
    "rank_correlation",
    "passes",
    "layer_runs",
)


def rank_correlation(layers: list[LayerEffect]) -> float | None:
    """Spearman's, of weight error with causal cost; None with fewer than three or no variation."""
    from scipy.stats import spearmanr

    known = [
        (layer.weight_error, layer.causal)
        for layer in layers
        if layer.causal is not None
        and layer.weight_error is not None
        and math.isfinite(layer.weight_error)
    ]
    errors, costs = [pair[0] for pair in known], [pair[1] for pair in known]
    if len(known) < 3 or len(set(errors)) < 2 or len(set(costs)) < 2:
        return None
    return float(spearmanr(errors, costs).statistic)


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
