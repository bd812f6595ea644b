"""Which attention heads the refusals hang on: silence one at a time and see what is left.

Zero ablation of a head's output (Michel et al. 2019, "Are Sixteen Heads Really Better than One?",
arXiv 1905.10650), measured on refusals as in "On the Role of Attention Heads in Large Language
Model Safety" (Zhou et al. 2024, arXiv 2410.13708). A head's output is its slice of the inputs of
the layer's output projection, which a hook sets to zero: no weight is touched, and quantized
projections work like dense ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.localization.effects import Change

if TYPE_CHECKING:
    from pytest_compsec.localization.layout import DecoderLayer
    from pytest_compsec.localization.openings import Openings
    from pytest_compsec.localization.passes import Passes
    from pytest_compsec.localization.subject import Model
    from pytest_compsec.prompts import PromptSet

#: Called as (done, total).
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class HeadEffect:
    """What silencing query head ``head`` of layer ``layer`` (both from 0) does; ``change`` of
    log-odds is negative where the model refuses less without it. ``key_value_head`` is the one
    that it reads, shared with its group."""

    layer: int
    head: int
    key_value_head: int
    projection: str
    change: Change

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class HeadsReport:
    """``heads`` from the largest loss of refusals to the largest gain. ``log_odds`` is the mean
    over the ``prompts`` prompts of the model as it is. ``layers_without_attention`` could not be
    looked into (the recurrent layers of hybrid models). ``passes`` were made over all prompts,
    computing ``layer_runs`` decoder layers."""

    prompts: int
    log_odds: float
    heads: tuple[HeadEffect, ...]
    openings: Openings
    layers_without_attention: tuple[int, ...]
    passes: int
    layer_runs: int

    def critical(self, confidence: float = 0.95) -> tuple[HeadEffect, ...]:
        """The heads without which refusals demonstrably recede: a one-sided paired t test over
        prompts, corrected for the number of heads (Bonferroni). Others were not shown to matter;
        that is not to say that they do not."""
        risk = (1 - confidence) / max(1, len(self.heads))
        return tuple(
            head for head in self.heads if head.change.pvalue_of_loss(self.prompts) <= risk
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``."""
        return {**dataclasses.asdict(self), "openings": self.openings.to_json()}

    def text(self, top: int = 10) -> str:
        """The ``top`` heads as a table."""
        lines = [
            f"{len(self.heads)} attention heads silenced one at a time, {self.prompts} prompts; "
            f"refusal log-odds of the whole model {self.log_odds:+.2f}",
            f"{'layer':>5} {'head':>4} {'key-value head':>14}  change (nats, ± standard error)",
        ]
        lines += [
            f"{one.layer:>5} {one.head:>4} {one.key_value_head:>14}  {one.change}"
            for one in self.heads[:top]
        ]
        lines.append(
            f"{len(self.critical())} heads lower the log-odds beyond chance (95 %, corrected for "
            f"{len(self.heads)} heads)"
        )
        if self.layers_without_attention:
            listed = ", ".join(map(str, self.layers_without_attention))
            lines.append(f"Layers without attention, not looked into: {listed}")
        return "\n".join(lines)


def identify_safety_critical_heads(
    model: Model,
    prompts: PromptSet | Sequence[str],
    *,
    layers: Sequence[int] | None = None,
    openings: Sequence[int] | None = None,
    benign: Sequence[str] = (),
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> HeadsReport:
    """Silence each query head of ``model`` in turn and measure its refusals of ``prompts``.

    ``model`` is a LoadedModel or (module, tokenizer). ``prompts``: 16 to 64 harmful requests rank
    heads well; what is measured is described in :mod:`pytest_compsec.localization.log_odds`.
    ``layers`` restricts to these decoder layers. ``openings`` are ids of tokens that open a
    refusal; None learns them from the model's own answers to ``prompts`` and ``benign``.

    Hooks are removed and the model is as before, whatever happens. Raises ValueError for arguments
    out of range, LayoutError when the model's layout is not understood, LoadError and
    MeasurementError as :func:`pytest_compsec.localization.log_odds.make_probe` does.
    """
    from pytest_compsec.localization.layout import layout_of
    from pytest_compsec.localization.log_odds import make_probe
    from pytest_compsec.localization.openings import find_openings
    from pytest_compsec.localization.passes import Passes
    from pytest_compsec.localization.subject import at_rest, subject_of, texts_of
    from pytest_compsec.models.quiet import quiet

    texts = texts_of(prompts)
    subject = subject_of(model)
    layout = layout_of(subject.module)
    chosen = _chosen(layout, layers)
    with quiet(), at_rest(subject.module):
        found = find_openings(subject, texts, openings, benign=benign)
        probe = make_probe(subject, texts, found.tokens, batch_size=batch_size)
        passes = Passes(subject.module, [(one.name, one.module) for one in layout], probe)
        effects = _effects(chosen, passes, progress)
    return HeadsReport(
        prompts=probe.prompts,
        log_odds=float(passes.plain.mean()),
        heads=tuple(sorted(effects, key=lambda one: (one.change.mean, one.layer, one.head))),
        openings=found,
        layers_without_attention=tuple(one.index for one in chosen if one.attention is None),
        passes=passes.passes,
        layer_runs=passes.layer_runs,
    )


def _chosen(layout: Sequence[DecoderLayer], layers: Sequence[int] | None) -> list[DecoderLayer]:
    if layers is None:
        return list(layout)
    wrong = [one for one in layers if not 0 <= one < len(layout)]
    if wrong or not layers:
        raise ValueError(f"layers={list(layers)} must be numbers from 0 to {len(layout) - 1}")
    return [layout[one] for one in sorted(set(layers))]


def _effects(
    layers: Sequence[DecoderLayer], passes: Passes, progress: Progress | None
) -> list[HeadEffect]:
    from pytest_compsec.localization.patching import silenced

    heads = [
        (layer, layer.attention, head)
        for layer in layers
        if layer.attention is not None
        for head in range(layer.attention.query_heads)
    ]
    effects = []
    for done, (layer, attention, head) in enumerate(heads):
        width = attention.query_heads * attention.head_width
        name = attention.projection_name
        with silenced(attention.projection, attention.inputs_of(head), width, name):
            after = passes.log_odds(first=layer.index)
        change = Change.of(passes.plain, after)
        effects.append(HeadEffect(layer.index, head, attention.key_value_head(head), name, change))
        if progress is not None:
            progress(done + 1, len(heads))
    return effects
