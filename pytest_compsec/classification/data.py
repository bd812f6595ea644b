"""Evaluation data of a classifier: inputs and true labels, from a fixture or a pinned file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    #: Images (or other numbers), shape (samples, ...), or one text per sample.
    Inputs = torch.Tensor | tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationData:
    """``inputs`` with ``labels`` (int64, shape (samples,), on the CPU). ``source`` says where they
    come from; ``digest`` is the sha256 (hex) over inputs and labels; ``pinned``: by the lock."""

    inputs: Inputs
    labels: torch.Tensor
    source: str
    digest: str
    pinned: bool = False

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    @property
    def is_text(self) -> bool:
        return isinstance(self.inputs, tuple)

    def at(self, places: Sequence[int]) -> EvaluationData:
        """The samples at these places; the digest stays that of the whole."""
        inputs: Inputs
        if isinstance(self.inputs, tuple):
            inputs = tuple(self.inputs[place] for place in places)
        else:
            inputs = self.inputs[list(places)]
        return dataclasses.replace(self, inputs=inputs, labels=self.labels[list(places)])
