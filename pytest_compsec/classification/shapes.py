"""What inputs a module takes and how many classes it has, as far as its layers and config tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def expected_input(module: torch.nn.Module) -> str | None:
    """The shape of a batch, in words: ``(samples, 3, 32, 32)``; None when nothing tells it.

    From a Hugging Face config (``num_channels``, ``image_size``, ``max_position_embeddings``), else
    from the first convolution or linear layer in order of registration.
    """
    config = getattr(module, "config", None)
    channels, size = getattr(config, "num_channels", None), getattr(config, "image_size", None)
    if isinstance(channels, int):
        height, width = (size, size) if isinstance(size, int) else (size or ("height", "width"))
        return f"(samples, {channels}, {height}, {width})"
    longest = getattr(config, "max_position_embeddings", None)
    if isinstance(longest, int):
        return f"token ids (samples, tokens), of up to {longest} tokens"
    for layer in module.modules():
        if hasattr(layer, "in_channels"):
            axes = len(getattr(layer, "kernel_size", ()))
            return f"(samples, {layer.in_channels}{', size' * axes})"
        if hasattr(layer, "in_features"):
            return f"{layer.in_features} numbers in its first linear layer"
    return None


def class_count(module: torch.nn.Module) -> int | None:
    """How many classes a module has: its ``num_classes``, ``num_labels`` of its config, else the
    outputs of its last linear layer or convolution in order of registration; None when it has none.
    """
    for owner, name in ((module, "num_classes"), (getattr(module, "config", None), "num_labels")):
        declared = getattr(owner, name, None)
        if isinstance(declared, int) and not isinstance(declared, bool):
            return declared
    found = None
    for layer in module.modules():
        for name in ("out_features", "out_channels"):
            outputs = getattr(layer, name, None)
            if isinstance(outputs, int):
                found = outputs
    return found
