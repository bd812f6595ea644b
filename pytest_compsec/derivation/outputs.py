"""Whether a row that is far from the original's still computes what the original's does.

GPTQ lets a weight make up for the errors of others, so that honest rows can be far from the
original's, but only in directions that inputs do not take: what such a row puts out is closer to
the original's than plain rounding would bring it. An edited row's is not.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from pytest_compsec.derivation.grids import RoundedMatrix
from pytest_compsec.derivation.limits import LIMITS
from pytest_compsec.localization.dense import dense_weight


@dataclasses.dataclass
class _Sums:
    """Of one layer, over all inputs seen: squared outputs of the differences of its rows, and
    squares of each input."""

    difference: torch.Tensor  # (rows, inputs)
    outputs: torch.Tensor  # (rows,)
    inputs: torch.Tensor  # (inputs,)


def output_scores(
    original: torch.nn.Module,
    compressed: torch.nn.Module,
    rows: Mapping[str, Sequence[int]],
    grids: Mapping[str, RoundedMatrix],
    batches: Iterator[dict[str, torch.Tensor]],
) -> dict[tuple[str, int], float]:
    """For each named row: root mean square of the difference that it makes to its layer's output,
    on the inputs that the original's layer gets from ``batches`` (input_ids and attention_mask),
    as a multiple of what independent rounding by up to half a step would make.
    """
    sums: dict[str, _Sums] = {}
    half_steps: dict[str, torch.Tensor] = {}
    for name, numbers in rows.items():
        first = dense_weight(original.get_submodule(name)).cpu()
        second = dense_weight(compressed.get_submodule(name)).cpu()
        difference = (first - second)[list(numbers)].double()
        sums[name] = _Sums(
            difference,
            torch.zeros(len(numbers), dtype=torch.float64),
            torch.zeros(first.shape[1], dtype=torch.float64),
        )
        grid = grids[name].believable(first, LIMITS[grids[name].rounding].reach)
        half_steps[name] = grid.above.broadcast_to(first.shape)[list(numbers)].double()
    mask: list[torch.Tensor] = []
    with torch.inference_mode(), _watching(original, sums, mask):
        for batch in batches:
            mask[:] = [batch["attention_mask"].bool()]
            original(**batch, use_cache=False)
    scores: dict[tuple[str, int], float] = {}
    for name, found in sums.items():
        expected = (half_steps[name].square() / 3 * found.inputs).sum(1).sqrt()
        measured = found.outputs.sqrt()
        for row, value, base in zip(rows[name], measured.tolist(), expected.tolist(), strict=True):
            scores[name, row] = value / base if base else float("inf")
    return scores


@contextlib.contextmanager
def _watching(
    module: torch.nn.Module, sums: Mapping[str, _Sums], mask: list[torch.Tensor]
) -> Iterator[None]:
    hooks = [
        module.get_submodule(name).register_forward_pre_hook(_adds(found, mask))
        for name, found in sums.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _adds(found: _Sums, mask: list[torch.Tensor]) -> Any:
    def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        # Padding gives activations that mean nothing.
        seen = inputs[0][mask[0]].double().cpu()
        found.outputs += (seen @ found.difference.t()).square().sum(0)
        found.inputs += seen.square().sum(0)

    return hook
