"""Which layers lost the refusals when the model was compressed.

By cause, not by correlation: each layer in turn is restored to full precision inside the compressed
model, and each in turn is compressed inside the original (activation patching in both directions;
Heimersheim and Nanda 2024, arXiv 2404.15255, call them denoising and noising). No static error
predicts which layers carry safety, so weight and activation errors stand beside the rank and do not
make it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from pytest_compsec.errors import MeasurementError
from pytest_compsec.localization.activation_error import activation_errors
from pytest_compsec.localization.effects import Change
from pytest_compsec.localization.heads import Progress
from pytest_compsec.localization.layers_report import (
    LayerEffect,
    LayersReport,
    Unit,
    rank_correlation,
)
from pytest_compsec.localization.layout import decoder_layers
from pytest_compsec.localization.log_odds import encoded, make_probe
from pytest_compsec.localization.openings import find_openings
from pytest_compsec.localization.passes import Passes
from pytest_compsec.localization.patching import computing_as
from pytest_compsec.localization.subject import Subject, at_rest, subject_of, texts_of
from pytest_compsec.localization.weight_error import (
    LayersDifferError,
    WeightError,
    paired_layers,
    relative_error,
    weight_errors,
)
from pytest_compsec.models.quiet import quiet

if TYPE_CHECKING:
    from pytest_compsec.localization.log_odds import Probe
    from pytest_compsec.localization.subject import Model
    from pytest_compsec.prompts import PromptSet

#: Prompts on which activation errors are measured: an average over positions needs few.
ACTIVATION_PROMPTS = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """A layer of both models, and the decoder layer that it is in (0 where it is in none)."""

    name: str
    original: torch.nn.Module
    compressed: torch.nn.Module
    first: int


def find_vulnerable_layers(
    original: Model,
    compressed: Model,
    prompts: PromptSet | Sequence[str],
    *,
    unit: Unit = "matrix",
    at_most: int | None = None,
    openings: Sequence[int] | None = None,
    benign: Sequence[str] = (),
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> LayersReport:
    """Rank the layers of ``compressed`` by the refusals that compressing them costs.

    Both models are LoadedModels or (module, tokenizer). ``unit`` is each linear layer
    (``"matrix"``) or each decoder layer (``"block"``). Two passes over ``prompts`` (16 to 64
    harmful requests) are made for each. ``at_most`` bounds how many matrices are tried: decoder
    layers are ranked first then, and the matrices of the costliest are tried. ``openings`` as for
    :func:`~pytest_compsec.localization.heads.identify_safety_critical_heads`, learned from the
    original. ``progress`` is called with (done, total).

    Both models are as before, whatever happens. Raises LayersDifferError (a MeasurementError) when
    the models do not have the same layers, ValueError for arguments out of range, LayoutError,
    LoadError and MeasurementError as the search for heads does.
    """
    if unit not in ("matrix", "block"):
        raise ValueError(f"unit={unit!r} must be 'matrix' or 'block'")
    if at_most is not None and (unit == "block" or at_most < 1):
        raise ValueError("at_most bounds matrices: at least 1, and only with unit='matrix'")
    texts = texts_of(prompts)
    first, second = subject_of(original), subject_of(compressed)
    blocks = _blocks(first, second)
    with quiet(), at_rest(first.module, second.module):
        errors = {error.name: error for error in weight_errors(first.module, second.module)}
        found = find_openings(first, texts, openings, benign=benign)
        probe = make_probe(first, texts, found.tokens, batch_size=batch_size)
        arms = _Arms(first, second, texts, probe, batch_size)
        parts = blocks if unit == "block" else _matrices(first, second, blocks)
        chosen = parts if at_most is None else _costliest(arms, blocks, parts, at_most)
        tried = arms.try_each(chosen, progress)
        outputs = activation_errors(
            first.module,
            second.module,
            {part.name: (part.original, part.compressed) for part in parts},
            probe.rows[:ACTIVATION_PROMPTS],
            (first.device, second.device),
        )
    layers = []
    for part in parts:
        elements, error = _weight_error(part.name, errors)
        effect = LayerEffect(part.name, elements, error, outputs[part.name])
        if part.name in tried:
            restored, damaged = tried[part.name]
            effect = dataclasses.replace(effect, restored=restored, damaged=damaged)
        layers.append(effect)
    return LayersReport(
        unit=unit,
        prompts=probe.prompts,
        original_log_odds=float(arms.original.plain.mean()),
        compressed_log_odds=float(arms.compressed.plain.mean()),
        layers=tuple(sorted(layers, key=_costliest_first)),
        rank_correlation=rank_correlation(layers),
        openings=found,
        passes=arms.original.passes + arms.compressed.passes,
        layer_runs=arms.original.layer_runs + arms.compressed.layer_runs,
    )


class _Arms:
    """Both models, ready to have single layers exchanged."""

    def __init__(
        self,
        original: Subject,
        compressed: Subject,
        texts: Sequence[str],
        probe: Probe,
        batch_size: int | None,
    ) -> None:
        if tuple(map(tuple, encoded(compressed, texts))) != probe.rows:
            raise MeasurementError(
                "the two models read the prompts as different tokens (another tokenizer, chat "
                "template or system prompt), so single layers cannot be exchanged between them"
            )
        again = make_probe(compressed, texts, probe.openings, batch_size=batch_size)
        self.original = Passes(original.module, decoder_layers(original.module), probe)
        self.compressed = Passes(compressed.module, decoder_layers(compressed.module), again)
        self._dtypes = (_dtype(original.module), _dtype(compressed.module))

    def try_each(
        self, parts: Sequence[Part], progress: Progress | None = None
    ) -> dict[str, tuple[Change, Change]]:
        """Name -> (restored, damaged)."""
        return {
            part.name: self._try(part, progress, at, len(parts)) for at, part in enumerate(parts)
        }

    def _try(
        self, part: Part, progress: Progress | None, at: int, total: int
    ) -> tuple[Change, Change]:
        ours, theirs = self._dtypes
        with computing_as(part.compressed, part.original, theirs, ours):
            restored = self.compressed.log_odds(part.first)
        with computing_as(part.original, part.compressed, ours, theirs):
            damaged = self.original.log_odds(part.first)
        if progress is not None:
            progress(at + 1, total)
        return Change.of(self.compressed.plain, restored), Change.of(self.original.plain, damaged)


def _blocks(original: Subject, compressed: Subject) -> list[Part]:
    before, after = decoder_layers(original.module), decoder_layers(compressed.module)
    if [name for name, _ in before] != [name for name, _ in after]:
        raise LayersDifferError(
            f"the layers do not correspond: the original has {len(before)} decoder layers and the "
            f"compressed model {len(after)}. Where layers were removed, none can be restored"
        )
    return [
        Part(name, layer, other, at)
        for at, ((name, layer), (_, other)) in enumerate(zip(before, after, strict=True))
    ]


def _matrices(original: Subject, compressed: Subject, blocks: Sequence[Part]) -> list[Part]:
    pairs = paired_layers(original.module, compressed.module)
    return [
        Part(name, layer, other, next((b.first for b in blocks if _in(name, b.name)), 0))
        for name, (layer, other) in pairs.items()
    ]


def _costliest(
    arms: _Arms, blocks: Sequence[Part], matrices: Sequence[Part], at_most: int
) -> list[Part]:
    """Matrices of the decoder layers that cost most; what is outside of them comes last."""
    effects = arms.try_each(blocks)
    ranked = sorted(blocks, key=lambda b: effects[b.name][1].mean - effects[b.name][0].mean)
    order = [part for block in ranked for part in matrices if _in(part.name, block.name)]
    return [*order, *(part for part in matrices if part not in order)][:at_most]


def _weight_error(name: str, errors: dict[str, WeightError]) -> tuple[int, float | None]:
    """(weights, relative error) of a matrix, or of all matrices of a decoder layer together."""
    own = [errors[name]] if name in errors else [e for key, e in errors.items() if _in(key, name)]
    if not own:
        return 0, None
    difference = math.sqrt(math.fsum(error.difference**2 for error in own))
    norm = math.sqrt(math.fsum(error.norm**2 for error in own))
    return sum(error.elements for error in own), relative_error(difference, norm)


def _costliest_first(layer: LayerEffect) -> tuple[bool, float]:
    return layer.causal is None, -(layer.causal or 0.0)


def _in(name: str, block: str) -> bool:
    return name.startswith(f"{block}.")


def _dtype(module: Any) -> torch.dtype:
    """The float type in which hidden states travel: that of the input embedding."""
    embedding = module.get_input_embeddings()
    dtype: torch.dtype = embedding.weight.dtype
    return dtype
