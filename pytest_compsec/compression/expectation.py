"""What a recipe promises of the loaded module, and the check that it was kept."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec.compression.structure import Removed, check_removed
from pytest_compsec.errors import NotCompressedError
from pytest_compsec.models.weights import Role, WeightMatrix, WeightReport

if TYPE_CHECKING:
    import torch

# Small matrices outside the linear layers (routers, state-space parameters) stay as they are in
# every known method; this is the share of all weights that they may hold.
_KEPT_SHARE = 0.02
_NAMES_SHOWN = 3
# Of the weights that some method could compress, the least that one must have worked on: below it
# the model is the original but for a remainder, as with too many layers kept.
_LEAST_TREATED = 0.1


@dataclasses.dataclass(frozen=True)
class Expectation:
    """``max_bits`` bits per weight at most in every matrix with one of ``roles``, at most
    ``max_levels`` different values in each group of ``group_size`` inputs of an output channel (all
    inputs: None), and at least ``min_zero_fraction`` of all weights with those roles exactly zero,
    ``min_layer_zeros`` of those of each matrix, ``min_row_zeros`` of those of each output channel.
    ``two_four``: at most two nonzero weights in every four consecutive inputs.
    ``min_silent_channels`` of all output channels of the layer ``silent_layer`` have neither weight
    nor bias other than zero (None: of at least one layer with those roles). ``removed``: what is
    gone altogether. None means: not promised.

    Matrices that belong to no known kind of layer (role ``other``) must keep all of this too,
    unless together they are a small part of the model: experts of a mixture that a method did not
    touch are most of the model.
    """

    max_bits: float | None = None
    max_levels: int | None = None
    group_size: int | None = None
    min_zero_fraction: float | None = None
    min_layer_zeros: float | None = None
    min_row_zeros: float | None = None
    two_four: bool = False
    min_silent_channels: float | None = None
    silent_layer: str | None = None
    removed: Removed | None = None
    roles: tuple[Role, ...] = ("linear",)


def promised(
    implementation: Any, options: Mapping[str, Any], module: torch.nn.Module
) -> Expectation:
    """What the method that the module ``implementation`` holds promises of ``module`` after it
    compressed it with ``options``: its ``expected``, which may depend on the model."""
    expected = implementation.expected
    if len(inspect.signature(expected).parameters) > 1:
        found: Expectation = expected(options, module)
        return found
    always: Expectation = expected(options)
    return always


def check(report: WeightReport, expectation: Expectation) -> None:
    """Raise NotCompressedError, naming matrices, when the module does not show the expectation."""
    matrices = report.of(*expectation.roles)
    if not matrices:
        raise NotCompressedError(
            f"nothing was compressed: the model has no {' or '.join(expectation.roles)} weight "
            "matrix that this method works on"
        )
    _check_treated(report, matrices, expectation)
    if expectation.max_bits is not None:
        _check_bits(report, matrices, expectation.max_bits)
    if expectation.max_levels is not None:
        _check_levels(report, matrices, expectation.max_levels, expectation.group_size)
    if expectation.min_zero_fraction is not None:
        _check_zeros(report, matrices, expectation.min_zero_fraction)
    _check_pattern(report, matrices, expectation)
    if expectation.min_silent_channels is not None:
        _check_silent(matrices, expectation.min_silent_channels, expectation.silent_layer)
    if expectation.removed is not None:
        check_removed(report.dense, report.structure, expectation.removed)


def _check_treated(
    report: WeightReport, matrices: tuple[WeightMatrix, ...], expectation: Expectation
) -> None:
    """A method for linear layers alone must not pass for the compression of a convolutional
    network that it leaves as it was."""
    untreated = () if "convolution" in expectation.roles else report.of("convolution")
    treated = sum(matrix.elements for matrix in matrices)
    left = sum(matrix.elements for matrix in untreated)
    if treated < _LEAST_TREATED * (treated + left):
        raise NotCompressedError(
            f"hardly compressed: this method works on {' and '.join(expectation.roles)} layers "
            f"alone, and {left / (treated + left):.1%} of the weights are in convolutions, which "
            "it leaves as they are. Choose a method that treats them: 'cast', 'round-to-nearest', "
            "'magnitude' or 'layer-magnitude'"
        )


def _check_bits(report: WeightReport, matrices: tuple[WeightMatrix, ...], max_bits: float) -> None:
    wide = _failing(report, matrices, lambda matrix: matrix.bits > max_bits)
    if wide:
        names = _named(wide, lambda matrix: f"{matrix.bits:g} bits, {matrix.storage}")
        raise NotCompressedError(
            f"not compressed as the recipe says: at most {max_bits:g} bits per weight were "
            f"promised, but {len(wide)} of {len(matrices)} weight matrices hold more: {names}"
        )


def _check_zeros(
    report: WeightReport, matrices: tuple[WeightMatrix, ...], min_fraction: float
) -> None:
    others = report.of("other")
    if sum(matrix.elements for matrix in others) > _KEPT_SHARE * report.elements:
        matrices += others
    total = sum(matrix.elements for matrix in matrices)
    zeros = sum(matrix.zeros * matrix.elements for matrix in matrices) / total
    if zeros < min_fraction:
        raise NotCompressedError(
            f"not pruned as the recipe says: {zeros:.4%} of the weights are zero, "
            f"{min_fraction:.4%} were promised"
        )


def _check_silent(matrices: tuple[WeightMatrix, ...], share: float, layer: str | None) -> None:
    looked_at = [
        matrix
        for matrix in matrices
        if layer is None or matrix.name == f"{layer}.weight".lstrip(".")
    ]
    if not looked_at:
        raise NotCompressedError(
            f"not pruned as the recipe says: channels of {layer} were to become zero, and there is "
            "no such layer"
        )

    best = max(looked_at, key=lambda matrix: matrix.silent_channels)
    if best.silent_channels < share:
        where = best.name if layer is not None else f"any layer (most in {best.name})"
        raise NotCompressedError(
            f"not pruned as the recipe says: {share:.4%} of the output channels were to be zero, "
            f"and {best.silent_channels:.4%} are in {where}"
        )


def _check_pattern(
    report: WeightReport, matrices: tuple[WeightMatrix, ...], expectation: Expectation
) -> None:
    """Where the zeros are: in every matrix, in every output channel, two of every four."""
    layer, row = expectation.min_layer_zeros, expectation.min_row_zeros
    if layer is not None:
        failing = _failing(report, matrices, lambda matrix: matrix.zeros < layer)
        _require_pruned(failing, matrices, f"{layer:.4%} zeros in each", _zeros_of)
    if row is not None:
        failing = _failing(report, matrices, lambda matrix: matrix.row_zeros < row)
        promise = f"{row:.4%} zeros in each output channel"
        _require_pruned(failing, matrices, promise, _row_zeros_of)
    if expectation.two_four:
        failing = _failing(report, matrices, lambda matrix: not matrix.two_four)
        _require_pruned(failing, matrices, "two zeros in every four inputs", _zeros_of)


def _require_pruned(
    failing: list[WeightMatrix],
    matrices: tuple[WeightMatrix, ...],
    promise: str,
    describe: Callable[[WeightMatrix], str],
) -> None:
    if failing:
        raise NotCompressedError(
            f"not pruned as the recipe says: {promise} were promised, but {len(failing)} of "
            f"{len(matrices)} weight matrices do not show that: {_named(failing, describe)}"
        )


def _zeros_of(matrix: WeightMatrix) -> str:
    return f"{matrix.zeros:.4%} zeros"


def _row_zeros_of(matrix: WeightMatrix) -> str:
    return f"{matrix.row_zeros:.4%} zeros in one"


def _check_levels(
    report: WeightReport,
    matrices: tuple[WeightMatrix, ...],
    max_levels: int,
    group_size: int | None,
) -> None:
    def breaks(matrix: WeightMatrix) -> bool:
        return (
            matrix.levels is None
            or matrix.levels > max_levels
            or not _same_group(matrix, group_size)
        )

    failing = _failing(report, matrices, breaks)
    if failing:
        names = _named(failing, _levels_of)
        raise NotCompressedError(
            f"not compressed as the recipe says: at most {max_levels} different values per "
            f"{_group(group_size)} were promised, but {len(failing)} of {len(matrices)} weight "
            f"matrices do not show that: {names}"
        )


def _same_group(matrix: WeightMatrix, group_size: int | None) -> bool:
    """A group as long as all inputs of a channel is the whole channel, whatever it is called."""
    inputs = matrix.shape[-1]
    return matrix.group_size == group_size or (
        (matrix.group_size or inputs) == inputs and (group_size or inputs) == inputs
    )


def _levels_of(matrix: WeightMatrix) -> str:
    if matrix.levels is None:
        return f"on no grid, {matrix.storage}"
    return f"{matrix.levels} per {_group(matrix.group_size)}"


def _group(group_size: int | None) -> str:
    return "output channel" if group_size is None else f"group of {group_size}"


def _failing(
    report: WeightReport,
    matrices: tuple[WeightMatrix, ...],
    fails: Callable[[WeightMatrix], bool],
) -> list[WeightMatrix]:
    failing = [matrix for matrix in matrices if fails(matrix)]
    others = [matrix for matrix in report.of("other") if fails(matrix)]
    if sum(matrix.elements for matrix in others) > _KEPT_SHARE * report.elements:
        failing += others
    return failing


def _named(matrices: list[WeightMatrix], describe: Callable[[WeightMatrix], str]) -> str:
    names = ", ".join(f"{matrix.name} ({describe(matrix)})" for matrix in matrices[:_NAMES_SHOWN])
    left = len(matrices) - _NAMES_SHOWN
    return f"{names} and {left} more" if left > 0 else names
