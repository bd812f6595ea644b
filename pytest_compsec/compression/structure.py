"""How many layers, heads and channels a language model has: before a structured removal, and after
it, measured from the shapes of its weights."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pytest_compsec.errors import NotCompressedError

if TYPE_CHECKING:
    import torch

Unit = Literal["heads", "channels", "layers"]


@dataclasses.dataclass(frozen=True)
class Structure:
    """``layers`` decoder layers; of each, the number of attention ``heads`` and of MLP
    ``channels`` (empty where the layout is not known), and ``elements``, the number of all
    parameters."""

    layers: int
    heads: tuple[int, ...]
    channels: tuple[int, ...]
    elements: int

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Structure:
        return cls(
            layers=value["layers"],
            heads=tuple(value["heads"]),
            channels=tuple(value["channels"]),
            elements=value["elements"],
        )


@dataclasses.dataclass(frozen=True)
class Removed:
    """The promise that at least ``share`` of the ``heads`` or ``channels`` of each layer, or at
    least ``count`` whole ``layers``, are gone."""

    unit: Unit
    share: float | None = None
    count: int | None = None


def structure_of(module: torch.nn.Module) -> Structure:
    """Measure ``module``. Raises NotCompressedError when its decoder layers are not found."""
    from pytest_compsec.compression.blocks import decoder_layers
    from pytest_compsec.compression.decoder_parts import attentions, mlps

    heads: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    # Layers can be removed from a model whose heads are not understood.
    with contextlib.suppress(NotCompressedError):
        heads = tuple(attention.heads for attention in attentions(module))
    with contextlib.suppress(NotCompressedError):
        channels = tuple(mlp.channels for mlp in mlps(module))
    return Structure(
        layers=len(decoder_layers(module)),
        heads=heads,
        channels=channels,
        elements=sum(parameter.numel() for parameter in module.parameters()),
    )


def remember_dense(module: torch.nn.Module) -> None:
    """Note on ``module`` what it is made of before anything is removed, for the measurement of what
    is then left (:func:`pytest_compsec.models.weights.measure_weights`)."""
    marked: Any = module
    marked.dense_structure = structure_of(module)


def dense_structure(module: torch.nn.Module) -> Structure | None:
    """What :func:`remember_dense` noted, or None."""
    dense = getattr(module, "dense_structure", None)
    return dense if isinstance(dense, Structure) else None


def check_removed(dense: Structure | None, now: Structure | None, removed: Removed) -> None:
    """Raise NotCompressedError when ``now`` does not lack what ``removed`` promises of ``dense``,
    or has as many parameters."""
    if dense is None or now is None:
        raise NotCompressedError(
            f"not pruned as the recipe says: {removed.unit} were to be removed, and nothing was"
        )
    if removed.count is not None and now.layers > dense.layers - removed.count:
        raise NotCompressedError(
            f"not pruned as the recipe says: {removed.count} of {dense.layers} layers were to be "
            f"removed, and {now.layers} are left"
        )
    if removed.share is not None:
        _check_share(dense, now, removed.unit, removed.share)
    if now.elements >= dense.elements:
        raise NotCompressedError(
            f"not pruned as the recipe says: {removed.unit} were to be removed, but the model has "
            f"{now.elements:,} parameters, and had {dense.elements:,}"
        )


def _check_share(dense: Structure, now: Structure, unit: Unit, share: float) -> None:
    before, after = (s.heads if unit == "heads" else s.channels for s in (dense, now))
    if not before or len(before) != len(after):
        raise NotCompressedError(
            f"not pruned as the recipe says: the {unit} of {len(before)} layers were there to be "
            f"removed, and {len(after)} are found"
        )
    for index, (had, has) in enumerate(zip(before, after, strict=True)):
        # Shares of small whole numbers; the allowance is for float rounding alone.
        if has > had * (1.0 - share) + 1e-6 * had:
            raise NotCompressedError(
                f"not pruned as the recipe says: {share:.4%} of the {unit} of each layer were to "
                f"be removed, but layer {index} has {has} of {had}"
            )
