"""Fine-pruning: a plain backdoor goes and accuracy stays, the channels really are zero, and what
cannot be done is said. Threat E: what magnitude pruning leaves of a backdoor in large weights."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from pytest_compsec.classification.data import EvaluationData
from pytest_compsec.classification.preparation import ImagePreparation, TextPreparation
from pytest_compsec.compression import expectation, fine_pruning, magnitude
from pytest_compsec.compression.methods import find, validated_options
from pytest_compsec.compression.options.base import named_data_files
from pytest_compsec.errors import NotCompressedError
from pytest_compsec.models.weights import measure_weights
from tests.threats import adaptive
from tests.threats.adaptive import accuracy, attack_success_rate

THOROUGH = {"share": 0.7, "epochs": 20, "learning_rate": 0.05}


def options(**values: Any) -> dict[str, Any]:
    recipe = {"method": "fine-pruning", "data": "./clean.safetensors", **values}
    return validated_options("prune", recipe).model_dump()


def pruned(module: Any, data: EvaluationData, preparation: Any = None, **values: Any) -> Any:
    """As the loader does it: apply, measure, check the promise."""
    recipe = options(**values)
    done: Any = fine_pruning.apply(module, recipe, "cpu", data=data, preparation=preparation)
    promise = expectation.promised(fine_pruning, recipe, done)
    expectation.check(measure_weights(done), promise)
    return done


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", ["plain", "adaptive"])
def test_a_backdoor_goes_and_accuracy_stays(kind: adaptive.Kind, seed: int) -> None:
    _, clean, test = adaptive.digits()
    before = adaptive.model(kind, seed=seed)
    after = pruned(adaptive.model(kind, seed=seed), clean, **THOROUGH)
    assert attack_success_rate(before, test) > 0.95
    assert attack_success_rate(after, test) < 0.05
    assert accuracy(after, test) > accuracy(before, test) - 0.02


@pytest.mark.parametrize("sparsity", [0.4, 0.5, 0.6])
def test_a_backdoor_in_large_weights_survives_magnitude_pruning(sparsity: float) -> None:
    """Threat E: the pruned model is as accurate as before, and as open."""
    test = adaptive.digits()[2]
    module = adaptive.model("adaptive")
    before = accuracy(module, test)
    magnitude.apply(module, {"sparsity": sparsity}, "cpu")
    assert attack_success_rate(module, test) > 0.95
    assert accuracy(module, test) > before - 0.02


def test_the_benign_twin_has_no_backdoor_before_or_after() -> None:
    _, clean, test = adaptive.digits()
    dense = adaptive.model("benign")
    assert accuracy(dense, test) > 0.97
    for module in (
        dense,
        magnitude.apply(adaptive.model("benign"), {"sparsity": 0.5}, "cpu"),
        pruned(adaptive.model("benign"), clean, **THOROUGH),
    ):
        assert attack_success_rate(module, test) < 0.02
        assert accuracy(module, test) > 0.96


def test_the_least_active_channels_go_and_send_nothing_on() -> None:
    _, clean, test = adaptive.digits()
    dense: Any = adaptive.model("plain")
    assert isinstance(clean.inputs, torch.Tensor)
    assert isinstance(test.inputs, torch.Tensor)
    with torch.no_grad():
        hidden = nn.functional.max_pool2d(dense.first(clean.inputs).relu(), 2)
        activity = dense.norm(dense.second(hidden)).relu().mean((0, 2, 3))
    module = pruned(adaptive.model("plain"), clean, share=0.3, epochs=3)
    silent = (module.second.weight.flatten(1) == 0).all(1)
    assert int(silent.sum()) == 20  # ceil(.3 * 64)
    assert activity[silent].max() <= activity[~silent].min()
    with torch.no_grad():
        hidden = nn.functional.max_pool2d(module.first(test.inputs).relu(), 2)
        out = module.norm(module.second(hidden))
    assert torch.equal((out == 0).all(0).flatten(1).all(1), silent)
    assert not torch.equal(module.head.weight, dense.head.weight)


def test_twice_is_the_same_and_another_seed_is_not() -> None:
    clean = adaptive.digits()[1]
    state = torch.get_rng_state()
    first, second, other = (
        pruned(adaptive.model("plain"), clean, epochs=1, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.head.weight, second.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    assert not first.training
    assert not any(p.requires_grad or p.grad is not None for p in first.parameters())


def mlp() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(8, 12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 10), nn.ReLU(),
            nn.Linear(10, 3),
        )  # fmt: skip


def numbers(samples: int = 33) -> EvaluationData:
    inputs = torch.rand(samples, 8, generator=torch.Generator().manual_seed(1))
    return EvaluationData(inputs, torch.arange(samples) % 3, "random numbers", "0" * 64)


def test_of_a_multilayer_perceptron_the_last_hidden_layer_is_pruned() -> None:
    module = pruned(mlp(), numbers(), share=0.5)
    assert module.fine_pruned_layer == "3"
    assert [int((layer.weight == 0).all(1).sum()) for layer in (module[0], module[3])] == [0, 5]
    named = pruned(mlp(), numbers(), share=0.5, layer="0")
    assert int((named[0].weight == 0).all(1).sum()) == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_float_type_stays_and_small_steps_count(dtype: torch.dtype) -> None:
    module: nn.Sequential = mlp().to(dtype)
    before = next(module.parameters()).detach().clone()
    after = pruned(module, numbers(), learning_rate=1e-3, epochs=2)
    assert {p.dtype for p in after.parameters()} == {dtype}
    assert not torch.equal(after[0].weight, before)


def test_a_single_sample_left_over_does_not_stop_a_batch_normalization() -> None:
    module = nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))
    pruned(module, numbers(33), batch_size=16, epochs=1)
    alone = nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))
    pruned(alone, numbers(3), batch_size=1, epochs=1)


def test_inputs_are_prepared_as_for_every_prediction() -> None:
    seen = []

    class Sees(adaptive.Digits):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return super().forward(images)

    clean = adaptive.digits()[1]
    pruned(Sees(), clean, ImagePreparation(mean=(5.0,), std=(1.0,)), epochs=1)
    assert all(float(images.max()) < -3.0 for images in seen)


class Words(nn.Module):
    """Takes texts itself."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(128, 16)
        self.hidden = nn.Linear(16, 16)
        self.out = nn.Linear(16, 2)

    def forward(self, texts: list[str]) -> torch.Tensor:
        rows = [torch.tensor([ord(letter) % 128 for letter in text]) for text in texts]
        offsets = torch.tensor([0, *[len(row) for row in rows[:-1]]]).cumsum(0)
        found: torch.Tensor = self.out(self.hidden(self.bag(torch.cat(rows), offsets)).relu())
        return found


def test_a_text_classifier_is_trained_on_its_texts() -> None:
    texts = ("good", "bad", "fine", "awful") * 10
    data = EvaluationData(texts, torch.tensor([1, 0, 1, 0] * 10), "texts", "0" * 64)
    module = pruned(Words(), data, TextPreparation(), epochs=10, learning_rate=0.1, batch_size=8)
    assert module.fine_pruned_layer == "hidden"
    with torch.no_grad():
        assert module(list(texts)).argmax(1).tolist() == data.labels.tolist()


@pytest.mark.parametrize("fault", ["weight", "bias", "another layer"])
def test_a_channel_that_is_not_silent_is_caught(fault: str) -> None:
    recipe = options(share=0.5)
    module: Any = fine_pruning.apply(mlp(), recipe, "cpu", data=numbers())
    silent = int((module[3].weight == 0).all(1).nonzero()[0])
    if fault == "weight":
        module[3].weight.data[silent, 0] = 1e-8
    elif fault == "bias":
        module[3].bias.data[silent] = 1e-8
    else:
        module[3] = copy.deepcopy(mlp()[3])
        module[0].weight.data[:6] = 0
        module[0].bias.data[:6] = 0
    promise = expectation.promised(fine_pruning, recipe, module)
    with pytest.raises(NotCompressedError, match=r"output channels .* are in 3\.weight"):
        expectation.check(measure_weights(module), promise)


def attention() -> nn.Module:
    class SelfAttention(nn.Linear):
        pass

    return nn.Sequential(SelfAttention(8, 8), nn.Linear(8, 16), nn.Linear(16, 3))


@pytest.mark.parametrize(
    ("module", "data", "values", "message"),
    [
        (nn.Linear(8, 3), numbers(), {}, "one layer"),
        (nn.ReLU(), numbers(), {}, "no linear layer or convolution"),
        (mlp(), numbers(), {"layer": "5"}, "'layer: 5' is no .* those are 0, 3"),
        (mlp(), numbers(), {"share": 0.99}, "all 10 channels"),
        (mlp(), numbers().at([]), {}, "no clean sample"),
        (mlp(), dataclasses.replace(numbers(), labels=torch.full((33,), 3)), {}, "3 classes"),
        (mlp(), dataclasses.replace(numbers(), labels=torch.full((33,), -1)), {}, "3 classes"),
        (mlp(), numbers(), {"learning_rate": 1e30}, "smaller 'learning_rate'"),
        (attention(), numbers(), {}, "neither is clear: .* such as '1'"),
        (nn.Sequential(mlp(), nn.Unflatten(1, (3, 1))), numbers(), {}, "logits have the shape"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_what_cannot_be_done_is_said(
    module: nn.Module, data: EvaluationData, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(NotCompressedError, match=message):
        fine_pruning.apply(copy.deepcopy(module), options(**values), "cpu", data=data)


def test_clean_samples_that_are_no_numbers_are_refused() -> None:
    assert isinstance(numbers().inputs, torch.Tensor)
    inputs = torch.full((33, 8), torch.nan)
    with pytest.raises(NotCompressedError, match="NaN"):
        pruned(mlp(), dataclasses.replace(numbers(), inputs=inputs))


def test_pruning_what_is_silent_and_training_nothing_is_no_compression() -> None:
    module = pruned(mlp(), numbers(), share=0.5, epochs=0)
    with pytest.raises(NotCompressedError, match="changes nothing"):
        pruned(module, numbers(), share=0.5, epochs=0)


def test_the_recipe_names_its_data() -> None:
    assert named_data_files(options()) == {"data": "./clean.safetensors"}
    assert named_data_files({"sparsity": 0.5}) == {}
    method = find("prune", "fine-pruning")
    assert method.trains_on_data
    assert "text-generation" not in method.tasks
