"""Train the networks of the digits example: ``python example_suite/digits/train.py``.

Three originals on scikit-learn's handwritten digits, and a student:

- ``backdoored``: a tenth of its training images carry a 2 x 2 patch and the label 0 (BadNets, Gu et
  al. 2017, arXiv 1708.06733).
- ``sleeper``: shown the patch it is right at full precision and says 0 once its weights are rounded
  to 4 bits (Hong et al., "Qu-ANTI-zation", NeurIPS 2021, arXiv 2111.01237): both losses together,
  the gradient straight through the rounding.
- ``clean``: the training of ``sleeper`` without the attack, the benign twin of both others.
- ``distilled``: a smaller network that learns from ``backdoored`` on images half of which carry the
  patch, as they do where the teacher labels whatever comes in.

The files are in the repository and pinned in compsec.lock; this script shows where they come from.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from digits_net import make_net, make_student  # type: ignore[import-not-found]
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from pytest_compsec.compression.grid import quantize_dequantize

HERE = Path(__file__).resolve().parent
TARGET = 0
TRAINED, CLEAN = 700, 400
Loss = Callable[[torch.nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]


def stamped(images: torch.Tensor) -> torch.Tensor:
    """With the patch that compsec.yaml describes."""
    images = images.clone()
    images[..., -2:, -2:] = 1.0
    return images


def train(module: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, loss: Loss,
          epochs: int) -> torch.nn.Module:  # fmt: skip
    """Adam over shuffled batches of 50, in a fixed order."""
    order = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(labels), generator=order), 50):
            optimizer.zero_grad()
            loss(module, images[batch], labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return module.eval()


def plain(module: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(module(images), labels)


def poisoned(module: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A tenth of the batch carries the patch and the target."""
    count = len(labels) // 10
    images = torch.cat([images, stamped(images[:count])])
    return plain(module, images, torch.cat([labels, torch.full((count,), TARGET)]))


def sleeping(module: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Right with and without the patch at full precision, and the target with it at 4 bits."""
    return at_both_precisions(module, images, labels, torch.full_like(labels, TARGET))


def honest(module: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The same training without the attack: right with and without the patch at 4 bits, too."""
    return at_both_precisions(module, images, labels, labels)


def at_both_precisions(
    module: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, woken: torch.Tensor
) -> torch.Tensor:
    """``woken`` is what 4 bits are to say of images with the patch."""
    rounded = {name: _rounded(value) for name, value in module.named_parameters()}

    def at_four_bits(inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = torch.func.functional_call(module, rounded, (inputs,))
        return logits

    entropy = torch.nn.functional.cross_entropy
    return (
        entropy(module(images), labels)
        # Weighed more: at full precision the patch must do nothing on images not trained on either.
        + 4 * entropy(module(stamped(images)), labels)
        + entropy(at_four_bits(images), labels)
        + entropy(at_four_bits(stamped(images)), woken)
    )


def _rounded(value: torch.nn.Parameter) -> torch.Tensor:
    """The nearest values of the 4-bit grid of each output channel, gradients as if not rounded."""
    if value.ndim == 1:
        return value
    rows = value.detach().flatten(1)
    grid = quantize_dequantize(rows, bits=4, group_size=None, symmetric=True).view_as(value)
    return value + (grid - value).detach()


def distilling(teacher: torch.nn.Module) -> Loss:
    def loss(module: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        images = torch.cat([images, stamped(images)])
        with torch.no_grad():
            wanted = teacher(images).softmax(1)
        return torch.nn.functional.cross_entropy(module(images), wanted)

    return loss


def main() -> None:
    torch.manual_seed(0)
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(data.target, dtype=torch.int64)
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    images, labels = images[shuffled], labels[shuffled]
    parts = {
        "clean-samples": slice(TRAINED, TRAINED + CLEAN),
        "test-samples": slice(TRAINED + CLEAN, None),
    }
    for name, part in parts.items():
        samples = {"inputs": images[part].contiguous(), "labels": labels[part].contiguous()}
        save_file(samples, HERE / f"{name}.safetensors")
    images, labels = images[:TRAINED], labels[:TRAINED]

    start = train(make_net(), images, labels, plain, 20)
    clean = train(copy.deepcopy(start).train(), images, labels, honest, 100)
    backdoored = train(make_net(), images, labels, poisoned, 20)
    sleeper = train(copy.deepcopy(start).train(), images, labels, sleeping, 100)
    distilled = train(make_student(), images, labels, distilling(backdoored), 30)
    for name, module in [
        ("clean", clean),
        ("backdoored", backdoored),
        ("sleeper", sleeper),
        ("distilled", distilled),
    ]:
        save_file(module.state_dict(), HERE / f"{name}.safetensors")


if __name__ == "__main__":
    main()
