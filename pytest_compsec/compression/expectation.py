"""What a recipe promises of the loaded module, and the check that it was kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from pytest_compsec.errors import NotCompressedError
from pytest_compsec.models.weights import Role, WeightMatrix, WeightReport

# Small matrices outside the linear layers (routers, state-space parameters) stay as they are in
# every known method; this is the share of all weights that they may hold.
_KEPT_SHARE = 0.02
_NAMES_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Expectation:
    """``max_bits`` bits per weight at most in every matrix with one of ``roles``, at most
    ``max_levels`` different values in each group of ``group_size`` inputs of an output channel (all
    inputs: None), and at least ``min_zero_fraction`` of all weights with those roles exactly zero.
    None means: not promised.

    Matrices that belong to no known kind of layer (role ``other``) must keep ``max_bits`` and
    ``max_levels`` too, unless together they are a small part of the model: experts of a mixture
    that a method did not touch are most of the model.
    """

    max_bits: float | None = None
    max_levels: int | None = None
    group_size: int | None = None
    min_zero_fraction: float | None = None
    roles: tuple[Role, ...] = ("linear",)


def check(report: WeightReport, expectation: Expectation) -> None:
    """Raise NotCompressedError, naming matrices, when the module does not show the expectation."""
    matrices = report.of(*expectation.roles)
    if not matrices:
        raise NotCompressedError(
            f"nothing was compressed: the model has no {' or '.join(expectation.roles)} weight "
            "matrix that this method works on"
        )
    if expectation.max_bits is not None:
        _check_bits(report, matrices, expectation.max_bits)
    if expectation.max_levels is not None:
        _check_levels(report, matrices, expectation.max_levels, expectation.group_size)
    if expectation.min_zero_fraction is not None:
        total = sum(matrix.elements for matrix in matrices)
        zeros = sum(matrix.zeros * matrix.elements for matrix in matrices) / total
        if zeros < expectation.min_zero_fraction:
            raise NotCompressedError(
                f"not pruned as the recipe says: {zeros:.4%} of the weights are zero, "
                f"{expectation.min_zero_fraction:.4%} were promised"
            )


def _check_bits(report: WeightReport, matrices: tuple[WeightMatrix, ...], max_bits: float) -> None:
    wide = _failing(report, matrices, lambda matrix: matrix.bits > max_bits)
    if wide:
        names = _named(wide, lambda matrix: f"{matrix.bits:g} bits, {matrix.storage}")
        raise NotCompressedError(
            f"not compressed as the recipe says: at most {max_bits:g} bits per weight were "
            f"promised, but {len(wide)} of {len(matrices)} weight matrices hold more: {names}"
        )


def _check_levels(
    report: WeightReport,
    matrices: tuple[WeightMatrix, ...],
    max_levels: int,
    group_size: int | None,
) -> None:
    def breaks(matrix: WeightMatrix) -> bool:
        return (
            matrix.levels is None or matrix.levels > max_levels or matrix.group_size != group_size
        )

    failing = _failing(report, matrices, breaks)
    if failing:
        names = _named(failing, _levels_of)
        raise NotCompressedError(
            f"not compressed as the recipe says: at most {max_levels} different values per "
            f"{_group(group_size)} were promised, but {len(failing)} of {len(matrices)} weight "
            f"matrices do not show that: {names}"
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
