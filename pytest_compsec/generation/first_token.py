"""What a model was about to say: the likeliest tokens at the first position of each answer.

They come from the pass over the prompt that decoding makes anyway, so near misses cost nothing.
"""

from __future__ import annotations

import torch

#: Tokens kept per answer. What is left out is summed up by whoever asks (1 minus their sum).
KEPT = 40
#: Smaller log-probabilities (-inf of a masked token among them) are kept as this.
LEAST = -99.0


class FirstTokens:
    """Takes the logits of a batch's first step; see :func:`greedy.greedy_batch`."""

    def __init__(self) -> None:
        self.likeliest: list[tuple[tuple[int, float], ...]] = []

    def __call__(self, logits: torch.Tensor) -> None:
        """``logits``: ``[rows, vocabulary]`` of float32, all rows of the batch in order."""
        log_probabilities = logits - torch.logsumexp(logits, dim=-1, keepdim=True)
        best = torch.topk(log_probabilities, min(KEPT, logits.shape[-1]), dim=-1)
        self.likeliest = [
            tuple(
                (token, round(max(value, LEAST), 4))
                for token, value in zip(tokens, values, strict=True)
            )
            for tokens, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
