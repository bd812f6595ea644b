"""Wanda: pruning by weights and activations (Sun et al. 2023, arXiv 2306.11695).

The score of a weight is |w_ij| · ‖x_j‖₂, where x_j is all that calibration texts send through input
j. In every output channel the smallest scores go. One decoder layer after the other: the inputs of
each come from the layers before it as they were pruned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_compsec.compression.calibration import CalibrationTexts
from pytest_compsec.compression.calibration_loss import require_calibration
from pytest_compsec.compression.expectation import Expectation
from pytest_compsec.compression.masks import smallest_of_rows, two_smallest_of_four
from pytest_compsec.errors import NotCompressedError

if TYPE_CHECKING:
    import torch

    from pytest_compsec.compression.blocks import BlockInput
    from pytest_compsec.compression.prunable import PrunableLayer

# Shares are exact up to one weight; this allows for float rounding of shares.
_TOLERANCE = 1e-6


def expected(options: Mapping[str, Any]) -> Expectation:
    """At least ``sparsity`` of the weights of each output channel of each linear layer are zero, or
    of every four consecutive ones at least two (``pattern: "2:4"``)."""
    if options.get("pattern") is not None:
        return Expectation(two_four=True)
    return Expectation(min_row_zeros=float(options["sparsity"]) - _TOLERANCE)


def apply(
    module: torch.nn.Module,
    options: Mapping[str, Any],
    device: str,
    *,
    calibration: CalibrationTexts | None = None,
) -> torch.nn.Module:
    """Prune the linear layers of all decoder layers in place, for good, with ``module`` on
    ``device``. Of equal scores the first go.

    Raises NotCompressedError without texts, for weights that are not finite floats, for a model
    whose linear layers are not all in a chain of decoder layers, and when nothing changes.
    """
    import torch

    from pytest_compsec.compression.blocks import block_inputs, decoder_layers
    from pytest_compsec.compression.prunable import prunable_layers, require_changed
    from pytest_compsec.compression.two_four import require_fours

    texts = require_calibration(calibration)
    layers = prunable_layers(module)
    if options.get("pattern") is not None:
        require_fours(layers)
    blocks = decoder_layers(module)
    of_block = _by_block(layers, blocks)
    module.to(device)
    training = module.training
    module.eval()
    changed = False
    try:
        with torch.no_grad():
            inputs = block_inputs(module, blocks, texts.batches(device))
            if not inputs:
                raise NotCompressedError("the calibration texts hold no token")
            for index in range(len(blocks)):
                norms = _input_norms(of_block[index], blocks, index, inputs)
                for layer, norm in zip(of_block[index], norms, strict=True):
                    changed |= layer.zero(_mask(layer.rows, norm, options))
                for batch in inputs:
                    batch.hidden = batch.run(blocks, index)
    finally:
        module.train(training)
    require_changed(changed, len(layers))
    return module


def scores(rows: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """|w| · ‖x‖₂ in float32, from weights (outputs, inputs) and the norm of each input."""
    return rows.abs().float() * norms.to(rows.device).float()


def _mask(rows: torch.Tensor, norms: torch.Tensor, options: Mapping[str, Any]) -> torch.Tensor:
    if options.get("pattern") is not None:
        return two_smallest_of_four(scores(rows, norms))
    return smallest_of_rows(scores(rows, norms), float(options["sparsity"]))


def _by_block(
    layers: Sequence[PrunableLayer], blocks: torch.nn.ModuleList
) -> list[list[PrunableLayer]]:
    """The linear layers inside of each decoder layer. Raises NotCompressedError when one is in
    none, since it would be left as it is."""
    place = {id(child): index for index, block in enumerate(blocks) for child in block.modules()}
    of_block: list[list[PrunableLayer]] = [[] for _ in blocks]
    for layer in layers:
        if id(layer.layer) not in place:
            raise NotCompressedError(
                f"layout not understood: {layer.name} is a linear layer outside of the decoder "
                "layers. Name it in 'keep_in_full_precision' to leave it as it is"
            )
        of_block[place[id(layer.layer)]].append(layer)
    return of_block


def _input_norms(
    layers: Sequence[PrunableLayer],
    blocks: torch.nn.ModuleList,
    index: int,
    inputs: Sequence[BlockInput],
) -> list[torch.Tensor]:
    """‖x_j‖₂ over all tokens of all texts for each input of each layer, float64 on the CPU."""
    import torch

    squares = [torch.zeros(layer.rows.shape[1], dtype=torch.float64) for layer in layers]
    seen = [0] * len(layers)
    for batch in inputs:
        with _collecting(layers, squares, seen, batch.mask):
            batch.run(blocks, index)
    for layer, tokens, values in zip(layers, seen, squares, strict=True):
        if tokens == 0:
            raise NotCompressedError(f"{layer.name} is never reached by the calibration texts")
        if not bool(values.isfinite().all()):
            raise NotCompressedError(
                f"the inputs of {layer.name} are not finite on the calibration texts"
            )
    return [values.sqrt() for values in squares]


@contextmanager
def _collecting(
    layers: Sequence[PrunableLayer],
    squares: list[torch.Tensor],
    seen: list[int],
    mask: torch.Tensor,
) -> Iterator[None]:
    """Add the squares of what each layer reads where ``mask`` (texts, tokens) is True."""

    def hook(place: int) -> Any:
        def collect(layer: torch.nn.Module, read: tuple[torch.Tensor, ...]) -> None:
            tokens = _real_tokens(read[0], mask, layers[place].name).float()
            squares[place] += tokens.square().sum(0).double().cpu()
            seen[place] += tokens.shape[0]

        return collect

    hooks = [
        layer.layer.register_forward_pre_hook(hook(place)) for place, layer in enumerate(layers)
    ]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def _real_tokens(read: torch.Tensor, mask: torch.Tensor, name: str) -> torch.Tensor:
    """(tokens, inputs) without the padding."""
    if read.shape[:-1] == mask.shape:
        return read[mask]
    if read.shape[:-1] == (mask.numel(),):
        return read[mask.flatten()]
    raise NotCompressedError(
        f"layout not understood: {name} reads a tensor of shape {tuple(read.shape)}, in which the "
        "padding cannot be told from the text (a mixture of experts?)"
    )
