"""Round-to-nearest on convolutions: the values of each output channel, and what it does to a
classifier of images."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from pytest_compsec.compression import expectation
from pytest_compsec.compression.distillation import (
    DistillationBatch,
    SafetyAwareDistillation,
    distill,
)
from pytest_compsec.compression.layouts import Layout, layout_of
from pytest_compsec.compression.round_to_nearest import apply, expected, quantize_dequantize
from pytest_compsec.errors import NotCompressedError
from pytest_compsec.models.weights import measure_weights
from tests.unit.compression.grids import ASYMMETRIC, SYMMETRIC, label, normal

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "1d": (nn.Conv1d(4, 6, 5), (6, 4 * 5)),
    "2d": (nn.Conv2d(4, 6, 3), (6, 4 * 9)),
    "2d grouped": (nn.Conv2d(4, 6, 3, groups=2), (6, 2 * 9)),
    "2d depthwise": (nn.Conv2d(6, 6, 3, groups=6), (6, 9)),
    "3d": (nn.Conv3d(2, 4, (1, 2, 3)), (4, 2 * 6)),
    "1d transposed": (nn.ConvTranspose1d(4, 6, 5), (6, 4 * 5)),
    "2d transposed": (nn.ConvTranspose2d(4, 6, (3, 2)), (6, 4 * 6)),
    "2d transposed grouped": (nn.ConvTranspose2d(4, 6, (3, 2), groups=2), (6, 2 * 6)),
    "3d transposed": (nn.ConvTranspose3d(4, 3, 2), (3, 4 * 8)),
}


def layout(layer: nn.Module) -> Layout:
    found = layout_of(layer)
    assert found is not None
    return found


@pytest.mark.parametrize("name", LAYERS)
def test_a_row_is_all_that_its_output_channel_reads(name: str) -> None:
    """Found from what the layer computes: changing one row changes that channel and no other."""
    layer, shape = copy.deepcopy(LAYERS[name][0]), LAYERS[name][1]
    weight: Any = layer.weight
    found = layout(layer)
    rows = found.matrix(weight.data).clone()
    assert rows.shape == shape
    assert torch.equal(found.stored(rows, weight.shape), weight.data)
    dimensions = weight.dim() - 2
    x = normal(2, int(getattr(layer, "in_channels", 0)), *[6] * dimensions)
    before = layer(x)
    for channel in range(shape[0]):
        changed = rows.clone()
        changed[channel] += 1.0
        weight.data.copy_(found.stored(changed, weight.shape))
        differs = (layer(x) != before).transpose(0, 1).flatten(1).any(1)
        assert differs.tolist() == [i == channel for i in range(shape[0])]


@pytest.mark.parametrize("group_size", [None, 8])
@pytest.mark.parametrize("options", SYMMETRIC + ASYMMETRIC, ids=label)
@pytest.mark.parametrize("name", LAYERS)
def test_each_output_channel_is_rounded_by_itself(
    name: str, options: dict[str, Any], group_size: int | None
) -> None:
    layer = copy.deepcopy(LAYERS[name][0])
    weight: Any = layer.weight
    before = layout(layer).matrix(weight.data.clone())
    assert apply(layer, {**options, "group_size": group_size}, "cpu") is layer
    after = layout(layer).matrix(weight.data)
    for row, wanted in zip(after, before, strict=True):
        single = quantize_dequantize(wanted[None], group_size=group_size, **options)
        assert torch.equal(row[None], single)
    (matrix,) = measure_weights(layer).matrices
    assert matrix.levels is not None
    assert matrix.levels <= (expected(options).max_levels or 0)
    assert matrix.group_size == group_size
    # One bit of one weight off: the mark alone proves nothing.
    place = weight.data.flatten().abs().argmax()
    flat = weight.data.view(-1)
    flat[place] = torch.nextafter(flat[place], torch.tensor(0.0))
    assert measure_weights(layer).matrices[0].levels is None


def test_channels_of_very_different_size_keep_their_own_scale() -> None:
    layer = nn.Conv2d(1, 2, 2, bias=False)
    layer.weight.data = torch.tensor([[[[7.0, 3.4], [0.4, -7.0]]], [[[0.07, 0.034], [0.0, 0.02]]]])
    apply(layer, {"bits": 4}, "cpu")
    wanted = torch.tensor([[[[7.0, 3.0], [0.0, -7.0]]], [[[0.07, 0.03], [0.0, 0.02]]]])
    torch.testing.assert_close(layer.weight.data, wanted)


def test_a_memory_format_stays() -> None:
    layer = nn.Conv2d(4, 6, 3)
    same = copy.deepcopy(layer).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for each in (layer, same):
        apply(each, {"bits": 3, "group_size": 8}, "cpu")
    assert same.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(same.weight, layer.weight)


class LanguageModel(nn.Module):
    """With a short convolution over time, as state-space models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.mix = nn.Conv1d(8, 8, 4, groups=8)
        self.linear = nn.Linear(8, 8)
        self.head = nn.Linear(8, 10)

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def test_the_convolutions_of_a_language_model_stay() -> None:
    model = LanguageModel()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    apply(model, {"bits": 4}, "cpu")
    after = model.state_dict()
    assert {n for n in after if not torch.equal(after[n], before[n])} == {"linear.weight"}
    assert expected({"bits": 4}, model).roles == ("linear",)
    expectation.check(measure_weights(model), expected({"bits": 4}, model))


def test_a_language_model_of_convolutions_alone_is_refused() -> None:
    model = LanguageModel()
    model.linear = nn.Identity()  # type: ignore[assignment]
    with pytest.raises(NotCompressedError, match="no linear layer that this method works on"):
        apply(model, {"bits": 4}, "cpu")


class ImageClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.head = nn.Linear(16 * 4, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.max_pool2d(self.first(images).relu(), 2)
        hidden = nn.functional.adaptive_avg_pool2d(self.norm(self.second(hidden)).relu(), 2)
        found: torch.Tensor = self.head(hidden.flatten(1))
        return found


def images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Stripes in four directions, any phase, under noise."""
    chooser = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=chooser)
    row, column = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    across = torch.stack([row, column, row + column, row - column])[labels]
    phase = 6.28 * torch.rand(count, 1, 1, generator=chooser)
    noise = 0.4 * torch.randn(count, 12, 12, generator=chooser)
    return ((across * 1.6 + phase).sin() + noise).unsqueeze(1), labels


@pytest.fixture(scope="module")
def classifier() -> ImageClassifier:
    batches = [
        DistillationBatch({"images": x}, labels)
        for x, labels in (images(64, seed) for seed in range(40))
    ]
    torch.manual_seed(0)
    model = ImageClassifier()
    distill(
        model,
        ImageClassifier(),
        batches,
        SafetyAwareDistillation(alpha=0.0),  # Labels alone: the teacher knows nothing.
        steps=120,
        learning_rate=1e-2,
    )
    return model


def accuracy(model: nn.Module) -> float:
    x, labels = images(500, seed=1000)
    with torch.no_grad():
        return float((model(x).argmax(1) == labels).float().mean())


def test_a_classifier_survives_eight_bits_and_not_one(classifier: ImageClassifier) -> None:
    before = accuracy(classifier)
    assert before > 0.95
    eight = apply(copy.deepcopy(classifier), {"bits": 8}, "cpu")
    assert abs(accuracy(eight) - before) <= 0.01
    one = apply(copy.deepcopy(classifier), {"levels": "binary"}, "cpu")
    assert accuracy(one) < before - 0.2


def test_a_convolution_that_was_skipped_is_caught(classifier: ImageClassifier) -> None:
    options = {"bits": 4}
    model: Any = apply(copy.deepcopy(classifier), options, "cpu")
    expectation.check(measure_weights(model), expected(options, model))
    model.second.weight = nn.Parameter(classifier.second.weight.data.clone())
    with pytest.raises(NotCompressedError, match=r"1 of 3 weight matrices .*: second\.weight \(on"):
        expectation.check(measure_weights(model), expected(options, model))
