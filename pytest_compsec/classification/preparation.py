"""What is done to inputs before a classifier's module sees them, and how its logits are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import MeasurementError

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class ImagePreparation:
    """Images in [0, 1], shape (samples, channels, height, width), become
    ``(images * scale - mean) / std`` per channel; nothing where ``mean`` and ``std`` are empty.

    ``argument`` is the keyword under which the module takes the batch, None for its first
    positional argument. ``declared``: the model's files say what is to be done; else the images are
    passed on as they come. Size and crop are always those of the evaluation data.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    scale: float = 1.0
    argument: str | None = None
    declared: bool = False

    def prepared(self, images: torch.Tensor) -> torch.Tensor:
        """The images as the module takes them, differentiable, same shape, type and device.

        Raises MeasurementError when they do not have one channel for each mean.
        """
        scaled = images if self.scale == 1.0 else images * self.scale
        if not self.mean:
            return scaled
        if images.ndim != 4 or images.shape[1] != len(self.mean):
            raise MeasurementError(
                f"the inputs have the shape {tuple(images.shape)}, but the model's preparation "
                f"normalizes {len(self.mean)} channels: it takes (samples, {len(self.mean)}, "
                "height, width)"
            )
        mean = images.new_tensor(self.mean).view(1, -1, 1, 1)
        std = images.new_tensor(self.std).view(1, -1, 1, 1)
        return (scaled - mean) / std

    def call(self, module: torch.nn.Module, images: torch.Tensor) -> Any:
        """What the module returns for a batch of images in [0, 1]."""
        prepared = self.prepared(images)
        return module(prepared) if self.argument is None else module(**{self.argument: prepared})


@dataclasses.dataclass(frozen=True, eq=False)
class TextPreparation:
    """Texts become token ids cut off after ``max_length`` tokens (None: never) and padded to the
    longest of their batch, with an attention mask; one by one where ``pads`` is False.

    Without ``tokenizer`` the module itself takes texts: it is called with a list of str.
    """

    tokenizer: Any = None
    max_length: int | None = None
    pads: bool = True

    def encode(self, texts: list[str]) -> list[Mapping[str, list[int]]]:
        """Token ids (and whatever else the tokenizer gives) of each text, not padded."""
        encoded = self.tokenizer(
            texts, truncation=self.max_length is not None, max_length=self.max_length
        )
        names = [name for name in encoded if name in self.tokenizer.model_input_names]
        return [{name: encoded[name][place] for name in names} for place in range(len(texts))]

    def call(
        self, module: torch.nn.Module, batch: list[Mapping[str, list[int]]], device: str
    ) -> Any:
        """What the module returns for a batch of encoded texts."""
        if len(batch) == 1:
            import torch

            tensors = {name: torch.tensor([ids], device=device) for name, ids in batch[0].items()}
        else:
            tensors = dict(self.tokenizer.pad(batch, return_tensors="pt").to(device))
        return module(**tensors)


Preparation = ImagePreparation | TextPreparation


def logits_of(output: Any) -> torch.Tensor:
    """The logits in what a module returned: the tensor itself, or its ``logits``.

    Raises MeasurementError for anything else.
    """
    import torch

    found = output if isinstance(output, torch.Tensor) else getattr(output, "logits", None)
    if found is None and isinstance(output, Mapping):
        found = output.get("logits")
    if not isinstance(found, torch.Tensor):
        raise MeasurementError(
            f"the module returns {type(output).__name__}; a classifier returns a tensor of logits "
            "(samples, classes), or an object whose 'logits' it is"
        )
    return found
