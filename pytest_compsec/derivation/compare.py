"""Every row of a compressed model against what its quantizer could have made of the original's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from pytest_compsec.derivation.grids import RoundedMatrix, Rounding
from pytest_compsec.localization.dense import dense_weight, linear_layers
from pytest_compsec.localization.weight_error import LayersDifferError, paired_layers

#: Of a weight's magnitude: what a cast to bfloat16, in which originals are published, can move it
#: (half of its last bit, 2^-9), and once more for the file that was quantized.
CAST = 2.0**-8
#: Below this share of a matrix' largest weight nothing is a difference (float32 arithmetic).
NEGLIGIBLE = 1e-6


@dataclasses.dataclass(frozen=True)
class Limits:
    """How far an honest quantization goes. ``element``: largest error of one weight, in halves of
    its grid's step. ``row``: root mean square error of a row, as a multiple of that of errors
    spread evenly over half a step to either side, which is what rounding gives."""

    element: float
    row: float


@dataclasses.dataclass(frozen=True)
class RowDifference:
    """One row (output channel) of one matrix that is beyond a limit."""

    layer: str
    row: int
    element: float
    mean: float
    limits: Limits

    def __str__(self) -> str:
        return (
            f"{self.layer} row {self.row}: largest error {self.element:.2f} half steps "
            f"(an honest one is within {self.limits.element:g}), mean {self.mean:.2f} "
            f"(within {self.limits.row:g})"
        )


@dataclasses.dataclass(frozen=True)
class LayerScore:
    """The worst row of a layer by both measures, and how many of its ``rows`` are beyond a limit.
    ``exact``: the layer is not quantized and must equal the original's but for a cast."""

    layer: str
    rows: int
    worst_element: float
    worst_mean: float
    beyond: int
    exact: bool


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All layers, the rows beyond a limit (the worst first), and the other parameters (embeddings,
    norms, biases) that are not the original's."""

    layers: tuple[LayerScore, ...]
    rows: tuple[RowDifference, ...]
    others: tuple[str, ...]
    compared_others: int

    @property
    def compared_rows(self) -> int:
        return sum(layer.rows for layer in self.layers)


def compare(
    original: torch.nn.Module,
    compressed: torch.nn.Module,
    grids: Mapping[str, RoundedMatrix],
    limits: Mapping[Rounding, Limits],
) -> Comparison:
    """Compare every linear layer row by row and every other parameter value by value.

    A layer without a grid must equal the original's but for a cast. Raises LayersDifferError when
    the two models do not have the same layers.
    """
    scores: list[LayerScore] = []
    rows: list[RowDifference] = []
    for name, first, second in _matrices(original, compressed):
        grid = grids.get(name)
        bounds = limits[grid.rounding] if grid is not None else Limits(1.0, 1.0)
        element, mean = _scores(first, second, grid)
        beyond = ~((element <= bounds.element) & (mean <= bounds.row))  # NaN is beyond
        rows += [
            RowDifference(name, int(row), float(element[row]), float(mean[row]), bounds)
            for row in beyond.nonzero().flatten().tolist()
        ]
        scores.append(
            LayerScore(
                name,
                len(element),
                float(element.max()),
                float(mean.max()),
                int(beyond.sum()),
                grid is None,
            )
        )
    others = dict(_other_parameters(original))
    changed = [
        name
        for name, value in _other_parameters(compressed)
        if name not in others or not _same(others[name], value)
    ]
    missing = others.keys() - dict(_other_parameters(compressed)).keys()
    rows.sort(key=lambda row: -max(row.element / row.limits.element, row.mean / row.limits.row))
    return Comparison(tuple(scores), tuple(rows), (*changed, *sorted(missing)), len(others))


def _scores(
    first: torch.Tensor, second: torch.Tensor, grid: RoundedMatrix | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows,) largest error and root mean square error of each row, in half steps."""
    error = first - second
    slack = CAST * first.abs() + NEGLIGIBLE * first.abs().max()
    error = error.sign() * (error.abs() - slack).clamp(min=0)
    if grid is None:
        # Not quantized: nothing may be left of a difference, so that any is infinitely large.
        left = torch.where(error.abs().amax(1) > 0, torch.inf, 0.0)
        return left, left
    half = torch.where(error > 0, grid.above.cpu(), grid.below.cpu())
    half = half.broadcast_to(error.shape)
    tiny = NEGLIGIBLE * first.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    element = (error.abs() / half.clamp(min=tiny)).amax(1)
    expected = (half.clamp(min=tiny).square().mean(1) / 3).sqrt()
    return element, error.square().mean(1).sqrt() / expected


def _matrices(
    original: torch.nn.Module, compressed: torch.nn.Module
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Linear layers, then embeddings, dense in float32 on the CPU."""
    for name, (before, after) in paired_layers(original, compressed).items():
        yield name, dense_weight(before).cpu(), dense_weight(after).cpu()
    first, second = _embeddings(original), _embeddings(compressed)
    if first.keys() != second.keys() or any(first[n].shape != second[n].shape for n in first):
        raise LayersDifferError("the two models do not have the same embeddings")
    for name, weight in first.items():
        yield name, weight, second[name]


def _embeddings(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: layer.weight.detach().float().cpu()
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Embedding)
    }


def _other_parameters(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    weights = {f"{name}.weight" for name in (*linear_layers(module), *_embeddings(module))}
    for name, value in (*module.named_parameters(), *_stored_buffers(module)):
        if name not in weights and value.is_floating_point():
            yield name, value.detach()


def _stored_buffers(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Buffers that a checkpoint holds; those of quantized layers belong to their weight."""
    stored = module.state_dict().keys()
    for name, value in module.named_buffers():
        owner: Any = module.get_submodule(name.rpartition(".")[0])
        if name in stored and type(owner).__name__ not in ("Linear4bit", "Linear8bitLt"):
            yield name, value


def _same(before: torch.Tensor, after: torch.Tensor) -> bool:
    if before.shape != after.shape:
        return False
    first, second = before.float().cpu(), after.float().cpu()
    slack = CAST * first.abs() + NEGLIGIBLE * first.abs().max()
    return bool(((first - second).abs() <= slack).all())
