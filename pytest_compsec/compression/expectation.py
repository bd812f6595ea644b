"""What a recipe promises of the loaded module, and the check that it was kept."""

from __future__ import annotations

import dataclasses

from pytest_compsec.errors import NotCompressedError
from pytest_compsec.models.weights import Role, WeightMatrix, WeightReport

# Small matrices outside the linear layers (routers, state-space parameters) stay as they are in
# every known method; this is the share of all weights that they may hold.
_KEPT_SHARE = 0.02
_NAMES_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Expectation:
    """``max_bits`` bits per weight at most in every matrix with one of ``roles``, and at least
    ``min_zero_fraction`` of all weights with those roles exactly zero. None means: not promised.

    Matrices that belong to no known kind of layer (role ``other``) must keep ``max_bits`` too,
    unless together they are a small part of the model: experts of a mixture that a method did not
    touch are most of the model.
    """

    max_bits: float | None = None
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
    if expectation.min_zero_fraction is not None:
        total = sum(matrix.elements for matrix in matrices)
        zeros = sum(matrix.zeros * matrix.elements for matrix in matrices) / total
        if zeros < expectation.min_zero_fraction:
            raise NotCompressedError(
                f"not pruned as the recipe says: {zeros:.4%} of the weights are zero, "
                f"{expectation.min_zero_fraction:.4%} were promised"
            )


def _check_bits(report: WeightReport, matrices: tuple[WeightMatrix, ...], max_bits: float) -> None:
    wide = [matrix for matrix in matrices if matrix.bits > max_bits]
    others = [matrix for matrix in report.of("other") if matrix.bits > max_bits]
    if sum(matrix.elements for matrix in others) > _KEPT_SHARE * report.elements:
        wide += others
    if not wide:
        return
    names = ", ".join(
        f"{matrix.name} ({matrix.bits:g} bits, {matrix.storage})" for matrix in wide[:_NAMES_SHOWN]
    )
    more = f" and {len(wide) - _NAMES_SHOWN} more" if len(wide) > _NAMES_SHOWN else ""
    raise NotCompressedError(
        f"not compressed as the recipe says: at most {max_bits:g} bits per weight were promised, "
        f"but {len(wide)} of {len(matrices)} weight matrices hold more: {names}{more}"
    )
