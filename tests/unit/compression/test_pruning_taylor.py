"""Taylor pruning: weight times gradient of the loss on calibration texts."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from pytest_compsec.compression import taylor
from pytest_compsec.compression.kept import hide, put_back
from pytest_compsec.compression.prunable import prunable_layers
from pytest_compsec.errors import NotCompressedError
from tests.unit.compression.pruning_subjects import PROMPTS, gpt2, linears, llama, pruned, texts


@pytest.fixture(scope="module")
def dense() -> Any:
    return llama()


def importance_by_hand(module: Any, prompts: tuple[str, ...] = PROMPTS) -> dict[str, torch.Tensor]:
    """One text at a time, without padding, by transformers' own loss."""
    module = copy.deepcopy(module)
    rows = texts(prompts).token_rows()
    predicted = sum(len(row) - 1 for row in rows)
    for row in rows:
        ids = torch.tensor([row])
        (module(ids, labels=ids).loss * (len(row) - 1) / predicted).backward()
    return {
        name: (layer.weight * layer.weight.grad).detach().abs()
        for name, layer in linears(module).items()
    }


def test_importance_is_weight_times_gradient_whatever_the_batches(dense: Any) -> None:
    module = copy.deepcopy(dense)
    layers = prunable_layers(module)
    found = taylor.importance(module, layers, texts(PROMPTS + PROMPTS[:2]), "cpu")
    expected = importance_by_hand(dense, PROMPTS + PROMPTS[:2])
    for layer, values in zip(layers, found, strict=True):
        torch.testing.assert_close(values, expected[layer.name], rtol=1e-3, atol=1e-7)


def test_the_least_important_weights_of_the_model_go(dense: Any) -> None:
    found = linears(pruned(dense, method="taylor", sparsity=0.4, calibration=texts()))
    scores = importance_by_hand(dense)
    total = sum(values.numel() for values in scores.values())
    gone = torch.cat([(found[name].weight == 0).flatten() for name in scores])
    assert int(gone.sum()) == math.ceil(0.4 * total)
    ranked = torch.cat([values.flatten() for values in scores.values()])
    assert float(ranked[gone].max()) <= float(ranked[~gone].min()) * (1 + 1e-3)
    # It is another choice than by magnitude.
    by_magnitude = linears(pruned(dense, method="magnitude", sparsity=0.4))
    other = torch.cat([(by_magnitude[name].weight == 0).flatten() for name in scores])
    assert int((gone & other).sum()) < 0.9 * int(gone.sum())


def test_per_layer_each_layer_loses_its_least_important_weights(dense: Any) -> None:
    found = linears(pruned(dense, method="taylor", sparsity=0.4, per="layer", calibration=texts()))
    for name, scores in importance_by_hand(dense).items():
        gone = found[name].weight == 0
        assert int(gone.sum()) == math.ceil(0.4 * gone.numel())
        assert float(scores[gone].max()) <= float(scores[~gone].min()) * (1 + 1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_sixteen_bits_nearly_the_same_weights_go(dense: Any, dtype: torch.dtype) -> None:
    exact = linears(pruned(dense, method="taylor", sparsity=0.5, calibration=texts()))
    short = linears(
        pruned(copy.deepcopy(dense).to(dtype), method="taylor", sparsity=0.5, calibration=texts())
    )
    agreeing = total = 0
    for name in exact:
        assert short[name].weight.dtype == dtype
        agreeing += int(((exact[name].weight == 0) == (short[name].weight == 0)).sum())
        total += exact[name].weight.numel()
    assert agreeing / total > 0.95


def test_float16_gradients_too_small_for_it_still_count() -> None:
    module = llama().half()
    with torch.no_grad():
        module.lm_head.weight *= 2e-5  # Unscaled, most gradients would be zero.
    exact, found = (
        taylor.importance(subject, prunable_layers(subject), texts(), "cpu")
        for subject in (copy.deepcopy(module).float(), module)
    )
    for values, expected in zip(found, exact, strict=True):
        assert float((values - expected).abs().sum() / expected.sum()) < 0.1


def test_the_module_is_left_as_it_was(dense: Any) -> None:
    module = copy.deepcopy(dense).train()
    module.lm_head.requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    needed = [parameter.requires_grad for parameter in module.parameters()]
    taylor.importance(module, prunable_layers(module), texts(), "cpu")
    assert module.training
    assert [parameter.requires_grad for parameter in module.parameters()] == needed
    assert all(parameter.grad is None for parameter in module.parameters())
    module(torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    assert all(layer.weight.grad is not None for layer in linears(module).values())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_kept_layers_are_computed_with_and_not_pruned(dense: Any) -> None:
    module = copy.deepcopy(dense)
    name = "model.layers.1.mlp.up_proj"
    hidden = hide(module, [name])
    options = {"sparsity": 0.5, "per": "layer"}
    taylor.apply(module, options, "cpu", calibration=texts())
    put_back(module, hidden, "cpu")
    kept = module.get_submodule(name).weight
    assert torch.equal(kept, dense.get_submodule(name).weight)
    assert kept.grad is None
    assert int((module.model.layers[1].mlp.gate_proj.weight == 0).sum()) == 48 * 64 // 2


def test_the_transposed_layers_of_gpt2(dense: Any) -> None:
    subject = gpt2()
    found = linears(
        pruned(subject, method="taylor", sparsity=0.5, per="layer", calibration=texts())
    )
    for name, scores in importance_by_hand(subject).items():
        gone = found[name].weight == 0
        assert float(scores[gone].max()) <= float(scores[~gone].min()) * (1 + 1e-3)


def test_texts_without_a_token_to_predict_are_refused(dense: Any) -> None:
    with pytest.raises(NotCompressedError, match="name a prompt set in 'calibration'"):
        pruned(dense, method="taylor", sparsity=0.5, calibration=texts(()))


def test_gradients_that_are_not_finite_are_refused(dense: Any) -> None:
    broken = copy.deepcopy(dense)
    broken.lm_head.weight.data[0, 0] = math.inf
    with pytest.raises(NotCompressedError, match=r"gradients of the loss .* are not finite"):
        pruned(broken, method="taylor", sparsity=0.5, calibration=texts())


@pytest.mark.parametrize("per", ["model", "layer"])
@pytest.mark.parametrize("fault", ["nothing", "half of the layers"])
def test_an_apply_that_does_less_than_promised_is_caught(
    dense: Any, monkeypatch: pytest.MonkeyPatch, per: str, fault: str
) -> None:
    real = taylor.apply

    def faulty(module: Any, options: Any, device: str, *, calibration: Any) -> Any:
        if fault == "nothing":
            return module
        hidden = hide(module, list(linears(module))[::2])
        return put_back(real(module, options, device, calibration=calibration), hidden, device)

    monkeypatch.setattr(taylor, "apply", faulty)
    with pytest.raises(NotCompressedError, match="not pruned as the recipe says"):
        pruned(dense, method="taylor", sparsity=0.5, per=per, calibration=texts())
