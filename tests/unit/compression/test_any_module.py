"""The compression methods on modules that are no language models: what is treated, measured and
promised, and that a method never passes for more than it did."""

from __future__ import annotations

import copy
import dataclasses
import importlib
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from pytest_compsec.compression import expectation
from pytest_compsec.compression.kept import hide, kept_layers, put_back
from pytest_compsec.compression.layouts import layout_of
from pytest_compsec.compression.methods import METHODS, find, validated_options
from pytest_compsec.errors import NotCompressedError
from pytest_compsec.models.weights import WeightReport, measure_weights


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 40), nn.ReLU())
        self.head = nn.Linear(40, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.body(x.flatten(1)))
        return found


class Convolutional(nn.Module):
    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 16, 3, padding=1, groups=2)
        self.fold = nn.ConvTranspose2d(16, 8, 2, stride=2, groups=2)
        self.hidden = nn.Linear(8 * 4, hidden)
        self.head = nn.Linear(hidden, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.second(self.norm(self.first(x)).relu()).relu()
        maps = nn.functional.adaptive_avg_pool2d(self.fold(maps).relu(), 2)
        found: torch.Tensor = self.head(self.hidden(maps.flatten(1)).relu())
        return found


class Bag(nn.Module):
    """A text classifier: most of its weights are in its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(500, 32)
        self.hidden = nn.Linear(32, 24)
        self.head = nn.Linear(24, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.hidden(self.bag(ids)).relu())
        return found


def vision_transformer() -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    make: Any = ViTConfig  # Its constructor lacks the fields of its base.
    config = make(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        image_size=8, patch_size=2, num_channels=1, num_labels=10, initializer_range=0.2,
    )  # fmt: skip
    return ViTForImageClassification(config)


MODULES: dict[str, Any] = {
    "perceptron": Perceptron,
    "convolutional": Convolutional,
    "bag": Bag,
    "vision transformer": vision_transformer,
}
# Of these the convolutions are treated, of the others the linear layers alone.
WITH_CONVOLUTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "cast": ("quantize", {"method": "cast", "dtype": "bfloat16"}),
    "round to nearest": ("quantize", {"method": "round-to-nearest", "bits": 4}),
    "magnitude": ("prune", {"method": "magnitude", "sparsity": 0.5}),
    "layer magnitude": ("prune", {"method": "layer-magnitude", "sparsity": 0.5}),
    "row magnitude": ("prune", {"method": "layer-magnitude", "sparsity": 0.5, "per": "row"}),
}
LINEAR: dict[str, tuple[str, dict[str, Any]]] = {
    "int8": ("quantize", {"method": "bitsandbytes", "bits": 8}),
    "nf4": ("quantize", {"method": "bitsandbytes", "bits": 4, "type": "nf4"}),
    "fp4": ("quantize", {"method": "bitsandbytes", "bits": 4, "type": "fp4"}),
    "two-four": ("prune", {"method": "two-four"}),
    "hqq": ("quantize", {"method": "hqq", "bits": 4}),
    "torchao": ("quantize", {"method": "torchao", "bits": 8}),
}
PACKAGES = {"int8": "bitsandbytes", "nf4": "bitsandbytes", "fp4": "bitsandbytes", "hqq": "hqq",
            "torchao": "torchao"}  # fmt: skip


def made(name: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = MODULES[name]()
    return module.eval().requires_grad_(False)


def inputs(name: str) -> torch.Tensor:
    chooser = torch.Generator().manual_seed(1)
    if name == "bag":
        return torch.randint(500, (8, 12), generator=chooser)
    return torch.rand(8, 1, 8, 8, generator=chooser)


def logits(module: Any, name: str) -> torch.Tensor:
    given = inputs(name)
    if given.is_floating_point():
        given = given.to(next(p for p in module.parameters() if p.is_floating_point()).dtype)
    with torch.no_grad():
        output = module(given)
    found: torch.Tensor = getattr(output, "logits", output)
    return found.float()


def compressed(
    module: Any, section: str, values: dict[str, Any], kept: tuple[str, ...] = ()
) -> tuple[Any, WeightReport]:
    """As the loader does it: keep, apply, put back, measure, check the promise."""
    method = find(section, values["method"])
    options = validated_options(section, values).model_dump()
    implementation = importlib.import_module(method.implementation)
    hidden = hide(module, kept_layers(module, kept)) if kept else {}
    module = put_back(implementation.apply(module, options, "cpu"), hidden, "cpu")
    report = measure_weights(module)
    names = {f"{name}.weight" for name in hidden}
    left = tuple(matrix for matrix in report.matrices if matrix.name not in names)
    promise = expectation.promised(implementation, options, module)
    expectation.check(dataclasses.replace(report, matrices=left), promise)
    return module, report


@pytest.mark.parametrize("recipe", [*WITH_CONVOLUTIONS, *LINEAR])
@pytest.mark.parametrize("name", MODULES)
def test_each_method_compresses_each_module_and_it_still_answers(name: str, recipe: str) -> None:
    if recipe in PACKAGES:
        pytest.importorskip(PACKAGES[recipe])
    dense = made(name)
    module, report = compressed(copy.deepcopy(dense), *(WITH_CONVOLUTIONS | LINEAR)[recipe])
    before, after = logits(dense, name), logits(module, name)
    assert after.shape == before.shape
    assert bool(after.isfinite().all())
    assert not torch.equal(after, before)
    # Nothing but noise would have no likeness with what the dense model says.
    likeness = nn.functional.cosine_similarity(before.flatten(), after.flatten(), dim=0)
    assert float(likeness) > 0.3
    assert not report.of("other")
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("recipe", [r for r in WITH_CONVOLUTIONS if r != "cast"])
def test_nothing_but_the_weights_of_linear_layers_and_convolutions_changes(recipe: str) -> None:
    for name in MODULES:
        dense = made(name)
        before = {key: value.clone() for key, value in dense.state_dict().items()}
        layers = {f"{n}.weight" for n, layer in dense.named_modules() if layout_of(layer)}
        module, _ = compressed(dense, *WITH_CONVOLUTIONS[recipe])
        changed = {k for k, v in module.state_dict().items() if not torch.equal(v, before[k])}
        # The head of a classifier is an ordinary layer.
        assert changed == layers


def test_magnitude_has_one_threshold_over_linear_layers_and_convolutions() -> None:
    dense = made("convolutional")
    theirs = copy.deepcopy(dense)
    layers = [m for m in theirs.modules() if layout_of(m) is not None]
    prune.global_unstructured(
        [(layer, "weight") for layer in layers],
        pruning_method=prune.L1Unstructured,
        amount=0.5,
    )
    ours, _ = compressed(dense, "prune", {"method": "magnitude", "sparsity": 0.5})
    for mine, reference in zip(
        [m for m in ours.modules() if layout_of(m) is not None], layers, strict=True
    ):
        assert torch.equal(mine.weight, reference.weight)


def test_rows_of_a_grouped_transposed_convolution_lose_their_own_smallest() -> None:
    dense = made("convolutional")
    before = dense.fold.weight.clone()
    recipe = {"method": "layer-magnitude", "sparsity": 0.5, "per": "row"}
    module, _ = compressed(dense, "prune", recipe)
    layout = layout_of(module.fold)
    assert layout is not None
    for row, old in zip(layout.matrix(module.fold.weight), layout.matrix(before), strict=True):
        assert int((row == 0).sum()) == 16
        assert float(old[row == 0].abs().max()) <= float(old[row != 0].abs().min())


def test_a_memory_format_stays() -> None:
    plain = made("convolutional")
    last: Any = made("convolutional").to(memory_format=torch.channels_last)
    for module in (plain, last):
        compressed(module, "prune", {"method": "magnitude", "sparsity": 0.5})
    assert last.first.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last.second.weight, plain.second.weight)


@pytest.mark.parametrize("recipe", list(WITH_CONVOLUTIONS))
def test_a_convolution_that_was_skipped_is_caught(recipe: str) -> None:
    section, values = WITH_CONVOLUTIONS[recipe]
    dense = made("convolutional")
    module, _ = compressed(copy.deepcopy(dense), section, values)
    module.second.weight = nn.Parameter(dense.second.weight.clone())
    implementation = importlib.import_module(find(section, values["method"]).implementation)
    options = validated_options(section, values).model_dump()
    promise = expectation.promised(implementation, options, module)
    with pytest.raises(NotCompressedError):
        expectation.check(measure_weights(module), promise)


@pytest.mark.parametrize("recipe", ["int8", "nf4", "two-four"])
def test_a_network_of_convolutions_is_not_compressed_by_its_head_alone(recipe: str) -> None:
    """Else its verdict would be about the original but for a remainder."""
    if recipe in PACKAGES:
        pytest.importorskip(PACKAGES[recipe])
    module = nn.Sequential(
        nn.Conv2d(16, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 8)
    )
    with pytest.raises(NotCompressedError, match=r"94\.7% of the weights are in convolutions"):
        compressed(module, *LINEAR[recipe])


def test_layers_can_be_kept_convolutions_too() -> None:
    dense = made("convolutional")
    before = {key: value.clone() for key, value in dense.state_dict().items()}
    recipe = {"method": "layer-magnitude", "sparsity": 0.5}
    module, report = compressed(dense, "prune", recipe, kept=("first", "head"))
    changed = {k for k, v in module.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"second.weight", "fold.weight", "hidden.weight"}
    assert {m.name for m in report.matrices if m.zeros == 0} == {"first.weight", "head.weight"}
    with pytest.raises(NotCompressedError, match=r"no linear layer or convolution .* called so"):
        kept_layers(dense, ["norm"])
    with pytest.raises(NotCompressedError, match="keeps all 5 linear layers or convolutions"):
        kept_layers(dense, ["*"])


def test_the_weights_of_plain_modules_are_measured_by_what_they_are() -> None:
    roles = {
        name: {matrix.role for matrix in measure_weights(made(name)).matrices} for name in MODULES
    }
    assert roles == {
        "perceptron": {"linear"},
        "convolutional": {"linear", "convolution"},
        "bag": {"linear", "embedding"},
        "vision transformer": {"linear", "convolution", "embedding"},
    }
    layer = nn.Linear(4, 3)
    layer.weight.data[1], layer.weight.data[2] = 0, 0
    layer.bias.data[:] = torch.tensor([1.0, 0.0, 1.0])
    report = measure_weights(layer)
    assert report.matrices[0].silent_channels == pytest.approx(1 / 3)
    assert WeightReport.from_json(report.to_json()) == report


class Experts(nn.Module):
    """A bare three-dimensional matrix that no method works on, beside a small linear layer."""

    def __init__(self, name: str, entries: int) -> None:
        super().__init__()
        self.register_parameter(name, nn.Parameter(torch.randn(entries, 16, 16)))
        self.head = nn.Linear(16, 4)


@pytest.mark.parametrize(("name", "entries"), [("experts", 1), ("token_mixers", 4)])
def test_a_bare_matrix_that_is_no_position_must_be_compressed_too(name: str, entries: int) -> None:
    with pytest.raises(NotCompressedError, match=name):
        compressed(Experts(name, entries), "quantize", LINEAR_ROUNDING)


LINEAR_ROUNDING = {"method": "round-to-nearest", "bits": 4}


def test_the_registry_says_for_which_tasks_a_method_is() -> None:
    """Those of this file are for every task; those that need decoder layers or texts for one."""
    known = {"text-generation", "image-classification", "text-classification"}
    assert all(method.tasks and set(method.tasks) <= known for method in METHODS)
    tried = {values["method"] for _, values in (WITH_CONVOLUTIONS | LINEAR).values()}
    assert {method.name for method in METHODS if set(method.tasks) == known} == tried
    assert all(method.tasks == ("text-generation",) for method in METHODS if method.calibrated)


@pytest.mark.parametrize(
    "values",
    [{"method": "taylor", "sparsity": 0.5}, {"method": "wanda", "sparsity": 0.5},
     {"method": "heads", "share": 0.5}, {"method": "channels", "share": 0.5}],
    ids=lambda values: values["method"],
)  # fmt: skip
def test_methods_for_language_models_refuse_a_classifier(values: dict[str, Any]) -> None:
    implementation = importlib.import_module(find("prune", values["method"]).implementation)
    with pytest.raises(NotCompressedError):
        implementation.apply(made("convolutional"), values, "cpu")
