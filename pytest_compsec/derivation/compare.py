"""Every row of a compressed model against what its quantizer could have made of the original's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from pytest_compsec.derivation.grids import RoundedMatrix, Rounding
from pytest_compsec.derivation.settings import other_settings
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
    spread evenly over half a step to either side, which is what rounding gives. ``reach``: how far
    a grid reaches, as a multiple of twice the largest magnitude of its group in the original; a
    step is taken for no wider than that makes it."""

    element: float
    row: float
    reach: float


#: Of a layer that is not quantized: any difference is beyond it (see ``row_scores``).
_EXACT = Limits(element=1.0, row=1.0, reach=1.0)


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
    """All layers, the rows beyond a limit (the worst first), the other parameters and buffers
    (norms, biases, rotary frequencies) and the settings that are not the original's."""

    layers: tuple[LayerScore, ...]
    rows: tuple[RowDifference, ...]
    others: tuple[str, ...]
    compared_others: int
    settings: tuple[str, ...] = ()

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
    the two models do not have the same layers, or compute with them in another way.
    """
    kinds = type(original).__name__, type(compressed).__name__
    if kinds[0] != kinds[1]:
        raise LayersDifferError(f"the original is a {kinds[0]}, the compressed model a {kinds[1]}")
    scores: list[LayerScore] = []
    rows: list[RowDifference] = []
    for name, first, second in matrices(original, compressed):
        grid = grids.get(name)
        bounds = limits[grid.rounding] if grid is not None else _EXACT
        element, mean = row_scores(first, second, grid, bounds)
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
    before, after = _other_tensors(original), _other_tensors(compressed)
    changed = [name for name, value in after.items() if not _same(before.get(name), value)]
    missing = sorted(before.keys() - after.keys())
    rows.sort(key=lambda row: -max(row.element / row.limits.element, row.mean / row.limits.row))
    return Comparison(
        tuple(scores),
        tuple(rows),
        (*changed, *missing),
        len(before),
        other_settings(original, compressed),
    )


def row_scores(
    first: torch.Tensor, second: torch.Tensor, grid: RoundedMatrix | None, limits: Limits
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows,) of ``element`` and of ``row`` as :class:`Limits` has them, for the original's matrix
    and the compressed one, both (rows, inputs)."""
    error = first - second
    slack = CAST * first.abs() + NEGLIGIBLE * first.abs().max()
    error = error.sign() * (error.abs() - slack).clamp(min=0)
    if grid is None:
        # Not quantized: nothing may be left of a difference, so that any is infinitely large.
        left = torch.where(error.abs().amax(1) > 0, torch.inf, 0.0)
        return left, left
    grid = grid.believable(first, limits.reach)
    half = torch.where(error > 0, grid.above, grid.below)
    half = half.broadcast_to(error.shape)
    tiny = NEGLIGIBLE * first.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    element = (error.abs() / half.clamp(min=tiny)).amax(1)
    expected = (half.clamp(min=tiny).square().mean(1) / 3).sqrt()
    return element, error.square().mean(1).sqrt() / expected


def matrices(
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


def _other_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters that are no row-wise matrix, and buffers: also those that no file holds and the
    config decides on (rotary frequencies)."""
    layers = linear_layers(module)
    weights = {f"{name}.weight" for name in (*layers, *_embeddings(module))}
    found = {n: value.detach() for n, value in module.named_parameters() if n not in weights}
    for name, value in module.named_buffers():
        owner: Any = module.get_submodule(name.rpartition(".")[0])
        # Those of quantized layers belong to their weight.
        if type(owner).__name__ not in ("Linear4bit", "Linear8bitLt"):
            found[name] = value
    return found


def _same(before: torch.Tensor | None, after: torch.Tensor) -> bool:
    if before is None or before.shape != after.shape:
        return False
    if not before.is_floating_point() or not after.is_floating_point():
        return torch.equal(before.cpu(), after.cpu())
    if not before.numel():
        return True
    first, second = before.float().cpu(), after.float().cpu()
    slack = CAST * first.abs() + NEGLIGIBLE * first.abs().max()
    return bool(((first - second).abs() <= slack).all())
