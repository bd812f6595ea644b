"""Which heads, channels and layers calibration texts say can go."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_compsec.compression.decoder_parts import attentions, mlps
from pytest_compsec.compression.gates import gate_importance
from pytest_compsec.compression.layers import block_influence
from pytest_compsec.models.loading import load
from tests.unit.compression.pruning_subjects import PROMPTS, gemma3, llama, pruned, texts
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint


@pytest.fixture(scope="module")
def dense() -> Any:
    return llama()


def importance_by_hand(dense: Any, part: str, units: int) -> list[torch.Tensor]:
    """|Σ w · dL/dw| over the weights that read a unit, for each text alone: what a gate's gradient
    is by the chain rule."""
    module = copy.deepcopy(dense)
    readers = [
        layer.self_attn.o_proj if part == "heads" else layer.mlp.down_proj
        for layer in module.model.layers
    ]
    sums = [torch.zeros(units) for _ in readers]
    for row in texts().token_rows():
        module.zero_grad()
        ids = torch.tensor([row])
        module(ids, labels=ids).loss.backward()
        for total, reader in zip(sums, readers, strict=True):
            effect = (reader.weight * reader.weight.grad).detach().sum(0)
            total += effect.view(units, -1).sum(1).abs()
    return sums


@pytest.mark.parametrize(("part", "units"), [("heads", 8), ("channels", 48)])
def test_importance_is_the_first_order_change_of_the_loss(
    dense: Any, part: str, units: int
) -> None:
    readers = [
        a.output if part == "heads" else m.down
        for a, m in zip(attentions(dense), mlps(dense), strict=True)
    ]
    found = gate_importance(dense, readers, [units] * 4, texts(), "cpu")
    for values, expected in zip(found, importance_by_hand(dense, part, units), strict=True):
        torch.testing.assert_close(values.float(), expected, rtol=1e-3, atol=1e-6)
    assert all(parameter.requires_grad for parameter in dense.parameters())
    assert not any(reader._forward_pre_hooks for reader in readers)


def test_the_heads_that_texts_need_least_go(dense: Any) -> None:
    found = pruned(dense, method="heads", share=0.5, calibration=texts())
    changed = 0
    for index, scores in enumerate(importance_by_hand(dense, "heads", 8)):
        kept = scores.view(4, 2).sum(1).topk(2).indices.sort().values.tolist()
        rows = [row for group in kept for row in range(group * 8, group * 8 + 8)]
        keys = attentions(found)[index].key.weight
        assert torch.equal(keys, attentions(dense)[index].key.weight[rows])
        by_magnitude = attentions(pruned(dense, method="heads", share=0.5))[index].key.weight
        changed += not torch.equal(keys, by_magnitude)
    assert changed  # it is another choice than by magnitude


def test_the_channels_that_texts_need_least_go(dense: Any) -> None:
    found = pruned(dense, method="channels", share=0.5, calibration=texts())
    for index, scores in enumerate(importance_by_hand(dense, "channels", 48)):
        kept = scores.topk(24).indices.sort().values
        assert torch.equal(mlps(found)[index].gate.weight, mlps(dense)[index].gate.weight[kept])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_sixteen_bits_the_importance_is_nearly_the_same(dense: Any, dtype: torch.dtype) -> None:
    half = copy.deepcopy(dense).to(dtype)
    exact, short = (
        torch.stack(gate_importance(m, [a.output for a in attentions(m)], [8] * 4, texts(), "cpu"))
        for m in (dense, half)
    )
    torch.testing.assert_close(short, exact, rtol=0.3, atol=0.05 * float(exact.max()))


@pytest.mark.parametrize("make", [llama, gemma3])
def test_influence_is_one_minus_the_cosine_of_input_and_output(make: Any) -> None:
    dense = make()
    sums, tokens = torch.zeros(4), 0
    for row in texts().token_rows():
        with torch.no_grad():
            states = dense.model(torch.tensor([row]), output_hidden_states=True).hidden_states
            read: list[torch.Tensor] = []
            hook = dense.model.norm.register_forward_pre_hook(
                lambda _, args, read=read: read.append(args[0])
            )
            dense(torch.tensor([row]))
            hook.remove()
        # The last of the hidden states is the normalized one; the layer's own goes into the norm.
        chain = [*states[:4], read[0]]
        for index in range(4):
            cosine = torch.cosine_similarity(chain[index], chain[index + 1], dim=-1)
            sums[index] += (1 - cosine).sum()
        tokens += len(row)
    found = block_influence(dense, texts().batches("cpu"))
    torch.testing.assert_close(found.float(), sums / tokens, rtol=1e-3, atol=1e-5)


def test_the_layers_that_do_least_go(dense: Any) -> None:
    """Two layers that hardly change the hidden states, and would go last by their number."""
    subject = copy.deepcopy(dense)
    for index in (1, 3):
        for parameter in subject.model.layers[index].parameters():
            parameter.data *= 0.05
    found = pruned(subject, method="layers", count=2, calibration=texts())
    for place, index in enumerate((0, 2)):
        weight = found.model.layers[place].mlp.up_proj.weight
        assert torch.equal(weight, subject.model.layers[index].mlp.up_proj.weight)


def test_padding_does_not_count(dense: Any) -> None:
    together = block_influence(dense, texts(PROMPTS).batches("cpu"))
    alone = block_influence(dense, texts(PROMPTS).batches("cpu", size=1))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "values",
    [
        {"method": "wanda", "sparsity": 0.5},
        {"method": "wanda", "pattern": "2:4"},
        {"method": "taylor", "sparsity": 0.5},
        {"method": "heads", "share": 0.5},
        {"method": "channels", "share": 0.5},
        {"method": "layers", "count": 1},
    ],
    ids=lambda values: "-".join(str(value) for value in values.values()),
)
def test_through_the_loader_the_arms_own_texts_decide(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    make_tiny_checkpoint(tmp_path)
    recipe = make_recipe("prune", **values, calibration="texts")
    first = load(make_arm(tmp_path, recipe=recipe, calibration=PROMPTS)).module.state_dict()
    again = load(make_arm(tmp_path, recipe=recipe, calibration=PROMPTS)).module.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    if values["method"] in ("wanda", "taylor"):
        other = load(make_arm(tmp_path, recipe=recipe, calibration=("9" * 40,))).module.state_dict()
        assert not all(torch.equal(value, other[name]) for name, value in first.items())
