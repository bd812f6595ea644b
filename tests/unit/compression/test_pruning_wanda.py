"""Wanda: weight times input norm, one decoder layer after the other."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pytest_compsec.compression import wanda
from pytest_compsec.compression.kept import hide, put_back
from pytest_compsec.errors import NotCompressedError
from tests.unit.compression.pruning_subjects import (
    PROMPTS,
    gemma3,
    gpt2,
    linears,
    llama,
    pruned,
    texts,
)


@pytest.fixture(scope="module")
def dense() -> Any:
    return llama()


def scores_by_hand(dense: Any, found: Any, block: int) -> dict[str, torch.Tensor]:
    """|w| · ‖x‖ of the layers of one block: before it stands what was pruned, and every text runs
    through the whole model alone, without padding."""
    module = copy.deepcopy(dense)
    layers = module.transformer.h if hasattr(module, "transformer") else module.model.layers
    done = found.transformer.h if hasattr(found, "transformer") else found.model.layers
    for index in range(block):
        layers[index].load_state_dict(done[index].state_dict())
    squares: dict[str, torch.Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(layer: Any, read: tuple[torch.Tensor, ...]) -> None:
            squares[name] = squares.get(name, torch.zeros(())) + read[0][0].square().sum(0)

        return hook

    for name, layer in linears(layers[block]).items():
        layer.register_forward_pre_hook(note(name))
    with torch.no_grad():
        for row in texts().token_rows():
            module(torch.tensor([row]))
    transposed = hasattr(module, "transformer")
    return {
        name: (layer.weight.t() if transposed else layer.weight).detach().abs()
        * squares[name].sqrt()
        for name, layer in linears(layers[block]).items()
    }


def rows_of(module: Any, block: int) -> dict[str, torch.Tensor]:
    if hasattr(module, "transformer"):
        return {n: layer.weight.t() for n, layer in linears(module.transformer.h[block]).items()}
    return {name: layer.weight for name, layer in linears(module.model.layers[block]).items()}


@pytest.mark.parametrize("make", [llama, gemma3, gpt2])
def test_every_row_loses_its_smallest_scores_behind_pruned_layers(
    make: Callable[[], Any],
) -> None:
    dense = make()
    found = pruned(dense, method="wanda", sparsity=0.5, calibration=texts())
    for block in (0, 1):
        scores = scores_by_hand(dense, found, block)
        for name, weight in rows_of(found, block).items():
            gone = weight == 0
            assert bool((gone.sum(1) == math.ceil(0.5 * weight.shape[1])).all()), name
            largest_gone = scores[name].masked_fill(~gone, -1.0).amax(1)
            smallest_kept = scores[name].masked_fill(gone, math.inf).amin(1)
            assert bool((largest_gone <= smallest_kept * (1 + 1e-3)).all()), name


def test_in_every_four_the_two_smallest_scores_go(dense: Any) -> None:
    found = pruned(dense, method="wanda", pattern="2:4", calibration=texts())
    scores = scores_by_hand(dense, found, 1)
    for name, weight in rows_of(found, 1).items():
        gone = (weight == 0).reshape(-1, 4)
        assert bool((gone.sum(1) == 2).all()), name
        fours = scores[name].reshape(-1, 4)
        largest_gone = fours.masked_fill(~gone, -1.0).amax(1)
        assert bool((largest_gone <= fours.masked_fill(gone, math.inf).amin(1) * 1.001).all()), name


def test_padding_and_batches_change_nothing(dense: Any) -> None:
    """Twelve texts in batches of eight, the short one far shorter than the long one."""
    prompts = PROMPTS * 3
    calibration = texts(prompts)
    together = pruned(dense, method="wanda", sparsity=0.5, calibration=calibration)
    batches = calibration.batches

    def one_by_one(device: str, **_: Any) -> Any:
        return batches(device, size=1)

    object.__setattr__(calibration, "batches", one_by_one)
    alone = pruned(dense, method="wanda", sparsity=0.5, calibration=calibration)
    same = [
        torch.equal(layer.weight == 0, linears(alone)[name].weight == 0)
        for name, layer in linears(together).items()
    ]
    assert sum(same) >= len(same) - 1  # a tie of rounding in one layer at most


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_sixteen_bits_nearly_the_same_weights_go(dense: Any, dtype: torch.dtype) -> None:
    exact = linears(pruned(dense, method="wanda", sparsity=0.5, calibration=texts()))
    half = copy.deepcopy(dense).to(dtype)
    short = linears(pruned(half, method="wanda", sparsity=0.5, calibration=texts()))
    agreeing = total = 0
    for name in exact:
        assert short[name].weight.dtype == dtype
        agreeing += int(((exact[name].weight == 0) == (short[name].weight == 0)).sum())
        total += exact[name].weight.numel()
    assert agreeing / total > 0.95


def test_inputs_decide_and_not_weights_alone(dense: Any) -> None:
    """An input that the texts never use loses its weights, however large they are."""
    subject = copy.deepcopy(dense)
    with torch.no_grad():
        subject.model.embed_tokens.weight[:, 5] = 0.0
        for name in ("q_proj", "k_proj", "v_proj"):
            getattr(subject.model.layers[0].self_attn, name).weight[:, 5] = 9.0
    found = pruned(subject, method="wanda", sparsity=0.1, calibration=texts())
    assert not bool(found.model.layers[0].self_attn.q_proj.weight[:, 5].any())
    by_magnitude = pruned(subject, method="layer-magnitude", sparsity=0.1, per="row")
    assert bool((by_magnitude.model.layers[0].self_attn.q_proj.weight[:, 5] == 9.0).all())


def test_nothing_else_changes_and_no_hook_stays(dense: Any) -> None:
    found = pruned(dense, method="wanda", sparsity=0.5, calibration=texts())
    changed = {
        name
        for name, value in found.state_dict().items()
        if not torch.equal(value, dense.state_dict()[name])
    }
    assert changed == {f"{name}.weight" for name in linears(dense)}
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in found.modules())


def test_a_linear_layer_outside_of_the_decoder_layers_is_named(dense: Any) -> None:
    subject = copy.deepcopy(dense)
    subject.model.adapter = torch.nn.Linear(8, 8)
    with pytest.raises(NotCompressedError, match=r"model\.adapter is a linear layer outside"):
        pruned(subject, method="wanda", sparsity=0.5, calibration=texts())


def test_a_model_whose_layers_do_not_follow_one_another_is_refused(dense: Any) -> None:
    subject = copy.deepcopy(dense)
    subject.model.layers[2].register_forward_pre_hook(lambda layer, args: (args[0] * 1.0,))
    with pytest.raises(NotCompressedError, match="do not run one after the other"):
        pruned(subject, method="wanda", sparsity=0.5, calibration=texts())


def test_without_texts_it_says_what_to_name(dense: Any) -> None:
    with pytest.raises(NotCompressedError, match="name a prompt set in 'calibration'"):
        pruned(dense, method="wanda", sparsity=0.5, calibration=texts(()))


@pytest.mark.parametrize("values", [{"sparsity": 0.5}, {"pattern": "2:4"}])
@pytest.mark.parametrize("fault", ["nothing", "half of the layers", "layers and not rows"])
def test_an_apply_that_does_less_than_promised_is_caught(
    dense: Any, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], fault: str
) -> None:
    real = wanda.apply

    def faulty(module: Any, options: Any, device: str, *, calibration: Any) -> Any:
        if fault == "nothing":
            return module
        if fault == "half of the layers":
            hidden = hide(module, list(linears(module))[::2])
            return put_back(real(module, options, device, calibration=calibration), hidden, device)
        return pruned(module, method="layer-magnitude", sparsity=0.5)

    monkeypatch.setattr(wanda, "apply", faulty)
    with pytest.raises(NotCompressedError, match="not pruned as the recipe says"):
        pruned(dense, method="wanda", calibration=texts(), **values)
