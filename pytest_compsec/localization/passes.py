"""Many passes over the same prompts that differ from some layer on: what comes before is computed
once.

A change in layer k leaves the layers before it as they were. Their outputs are kept from one plain
pass; in later passes they are handed out instead of computed, so that going through all layers
costs half as much. Whether a model allows that (layers may pass each other more than the hidden
state) is tried out, not assumed; where it does not, every pass is a full one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pytest_compsec.localization.log_odds import Probe, batch_log_odds
from pytest_compsec.localization.patching import computing, copied

#: The same computation on the same device; nats.
_SAME = 1e-3


class Passes:
    """Refusal log-odds of ``module``, whole or from a layer on.

    Keeps the output of every decoder layer for every prompt: layers x tokens x hidden size numbers
    in the module's float type (SmolLM2-135M, 32 prompts of 60 tokens: 66 MB in bfloat16).
    ``plain`` are the log-odds of the module as it is; ``passes`` and ``layer_runs`` count passes
    over all prompts and the decoder layers that they computed.
    """

    def __init__(
        self, module: Any, layers: Sequence[tuple[str, torch.nn.Module]], probe: Probe
    ) -> None:
        self._module = module
        self._layers = [layer for _, layer in layers]
        self._probe = probe
        self._kept: list[list[Any]] = []
        self.layer_runs = 0
        self.passes = 0
        self.resumes = False
        self.plain = self._recorded()
        self.resumes = len(self._layers) > 1
        places = {len(self._layers) // 2, len(self._layers) - 1} - {0}
        if not all(self._agrees(place) for place in sorted(places)):
            self.resumes = False
            self._kept = []

    def log_odds(self, first: int = 0) -> torch.Tensor:
        """One number for each prompt; what was changed in the module since is in layer ``first``
        or behind it."""
        first = first if self.resumes else 0
        values = torch.empty(self._probe.prompts, dtype=torch.float64)
        for place, batch in enumerate(self._probe.batches):
            with contextlib.ExitStack() as stack:
                if first:
                    hand_out = _hands_out(self._kept[place][first - 1])
                    for layer in self._layers[:first]:
                        stack.enter_context(computing(layer, hand_out))
                values[list(batch.places)] = batch_log_odds(
                    self._module, batch, self._probe.openings
                )
        self._count(first)
        return values

    def _recorded(self) -> torch.Tensor:
        values = torch.empty(self._probe.prompts, dtype=torch.float64)
        for batch in self._probe.batches:
            kept: list[Any] = [None] * len(self._layers)
            with contextlib.ExitStack() as stack:
                for place, layer in enumerate(self._layers):
                    handle = layer.register_forward_hook(_keeps(kept, place))
                    stack.callback(handle.remove)
                values[list(batch.places)] = batch_log_odds(
                    self._module, batch, self._probe.openings
                )
            self._kept.append(kept)
        self._count(0)
        return values

    def _agrees(self, first: int) -> bool:
        if any(kept[first - 1] is None for kept in self._kept):
            return False
        again = self.log_odds(first)
        return bool(torch.allclose(again, self.plain, rtol=0.0, atol=_SAME))

    def _count(self, first: int) -> None:
        self.passes += 1
        self.layer_runs += len(self._layers) - first


def _keeps(kept: list[Any], place: int) -> Callable[..., None]:
    def keep(layer: Any, inputs: Any, output: Any) -> None:
        kept[place] = copied(output)

    return keep


def _hands_out(output: Any) -> Callable[..., Any]:
    # A copy: some models add to the hidden state in place.
    return lambda *args, **kwargs: copied(output)
