"""The texts that some methods look at while they compress (Wanda, GPTQ, gradient pruning).

They decide which weights change, so the lock pins them with the recipe. A malicious set is a way
to attack a model whose weights are clean (QuRA, arXiv 2510.09647).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.generation.chat import encode, render

if TYPE_CHECKING:
    import torch

#: Tokens of a text that are read; the rest says little more and costs time.
MAX_TOKENS = 512
#: Texts in one forward pass.
BATCH = 8


@dataclasses.dataclass(frozen=True)
class CalibrationTexts:
    """``prompts`` of the pinned set, to be rendered as the arm renders what it is asked."""

    tokenizer: Any
    prompts: tuple[str, ...]
    system: str | None = None
    chat_template_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def token_rows(self, max_tokens: int = MAX_TOKENS) -> list[list[int]]:
        """The token ids of each rendered prompt, at most the first ``max_tokens``. Raises
        LoadError when the chat template cannot be used."""
        rendered = [
            render(self.tokenizer, prompt, self.system, self.chat_template_kwargs)
            for prompt in self.prompts
        ]
        return [list(row[:max_tokens]) for row in encode(self.tokenizer, rendered)]

    def batches(
        self, device: str, *, size: int = BATCH, max_tokens: int = MAX_TOKENS
    ) -> Iterator[dict[str, torch.Tensor]]:
        """``input_ids`` and ``attention_mask`` of shape (texts, tokens) on ``device``, padded on
        the right with token 0, in the order of the prompts. Mask out the padding: where the mask
        is 0 an activation means nothing."""
        yield from padded_batches(self.token_rows(max_tokens), device, size)


def padded_batches(
    rows: Sequence[Sequence[int]], device: str, size: int
) -> Iterator[dict[str, torch.Tensor]]:
    """``rows`` in batches of ``size``, padded on the right; empty rows are left out."""
    import torch

    filled = [row for row in rows if row]
    for start in range(0, len(filled), size):
        part = filled[start : start + size]
        width = max(len(row) for row in part)
        ids = torch.zeros((len(part), width), dtype=torch.long)
        mask = torch.zeros((len(part), width), dtype=torch.long)
        for place, row in enumerate(part):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
        yield {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
