"""Which kinds of layers a method works on, by the kind of model: language models keep the few
weights of their convolutions, which no deployed format packs; in other models these are the body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_compsec.models.weights import Role, output_embedding

if TYPE_CHECKING:
    import torch


def is_language_model(module: torch.nn.Module) -> bool:
    """Whether ``module`` has an output embedding, which turns hidden states into tokens."""
    return output_embedding(module) is not None


def treated_roles(module: torch.nn.Module | None) -> tuple[Role, ...]:
    """Linear layers, and of a ``module`` that is no language model its convolutions too."""
    if module is None or is_language_model(module):
        return ("linear",)
    return ("linear", "convolution")
