"""Attack a quantized model that one does not have: make examples on a simulated one.

After the quantization-aware attack of Xu et al.: whoever has the original can round its weights to
a few bits, attack the result, and send the examples to the quantized model that is in use, of
which no more than the number of bits is guessed.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pytest_compsec.attacks.gradient.straight_through import dense_copy
from pytest_compsec.compression import round_to_nearest
from pytest_compsec.errors import NotCompressedError

if TYPE_CHECKING:
    from pytest_compsec.classification.model import ClassifierModel


@dataclasses.dataclass(frozen=True, eq=False)
class Simulated:
    """``model`` with rounded weights; ``note`` says why nothing was rounded, "" where it was."""

    model: ClassifierModel
    note: str = ""


def simulated_quantized(original: ClassifierModel, bits: int) -> Simulated:
    """A copy of ``original`` with the weights of its linear layers and convolutions rounded to the
    nearest value of a symmetric grid of ``bits`` bits per output channel (see
    :mod:`pytest_compsec.compression.grid`). Dense, so that its gradients are its own.

    Where nothing can be rounded the copy is as good as the original, whose examples are among those
    of the other attacks anyway."""
    made = dense_copy(original)
    try:
        round_to_nearest.apply(made.module, {"bits": bits}, original.device)
    except NotCompressedError as error:
        return Simulated(made, str(error))
    return Simulated(made)
