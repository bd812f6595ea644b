"""The language modelling loss on calibration texts, from which gradient-based importances come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pytest_compsec.compression.calibration import CalibrationTexts
from pytest_compsec.errors import NotCompressedError

if TYPE_CHECKING:
    import torch

#: Texts in one forward and backward pass, which holds far more in memory than a forward pass.
GRADIENT_BATCH = 4
# Small gradients vanish in float16, so the loss is scaled up, as far as nothing overflows.
_FLOAT16_SCALES = (2.0**12, 2.0**8, 2.0**4, 1.0)


def text_losses(
    module: torch.nn.Module, batch: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each text of a batch of :meth:`CalibrationTexts.batches` the sum of the negative log
    likelihoods of its tokens but the first (float32, with gradients), and their number."""
    import torch

    output = module(**batch, use_cache=False)
    logits = output.logits[:, :-1].float()
    mask = batch["attention_mask"][:, 1:]
    losses = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), batch["input_ids"][:, 1:], reduction="none"
    )
    return (losses * mask).sum(1), mask.sum(1)


def gradient_batches(calibration: CalibrationTexts, device: str) -> list[dict[str, torch.Tensor]]:
    """The batches for a backward pass. Raises NotCompressedError when no text has two tokens."""
    batches = list(calibration.batches(device, size=GRADIENT_BATCH))
    if not any(bool(batch["attention_mask"][:, 1:].any()) for batch in batches):
        raise NotCompressedError(
            "the calibration texts hold no token to predict. Name a set of whole sentences in "
            "'calibration'"
        )
    return batches


def loss_scales(dtypes: set[torch.dtype]) -> Iterator[float]:
    """Factors for the loss, to be tried in turn until every gradient is finite."""
    import torch

    yield from _FLOAT16_SCALES if torch.float16 in dtypes else (1.0,)


def require_calibration(calibration: CalibrationTexts | None) -> CalibrationTexts:
    """The texts. Raises NotCompressedError when none were given."""
    if calibration is None or not calibration.prompts:
        raise NotCompressedError(
            "pruning by what texts activate needs them: name a prompt set in 'calibration'"
        )
    return calibration


def not_finite() -> NotCompressedError:
    """The error for gradients that are NaN or infinite at every scale of the loss."""
    return NotCompressedError(
        "the gradients of the loss on the calibration texts are not finite in the model's float "
        "type. Choose 'dtype: bfloat16' or 'float32'"
    )
