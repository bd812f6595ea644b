"""The layer that lost the refusals is found by restoring it, not by its weight error."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from pytest_compsec.errors import MeasurementError
from pytest_compsec.localization import find_vulnerable_layers
from pytest_compsec.localization.weight_error import LayersDifferError
from tests.unit.localization.planted import (
    HEAD,
    LAYER,
    OPENING,
    PROMPTS,
    bytes_of,
    copy_of,
    is_untouched,
    planted_gpt2,
    planted_llama,
)

CULPRIT = f"model.layers.{LAYER}.self_attn.o_proj"


def damaged_llama() -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """(original, compressed). The planted head is halved, a small change of its matrix; the gate
    of a layer whose MLP puts out nothing is ruined; every other layer is a little off."""
    module, tokenizer = planted_llama()
    module.model.layers[0].mlp.down_proj.weight.data.zero_()
    other = copy_of(module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for layer in other.model.layers:
            for part in layer.modules():
                if isinstance(part, torch.nn.Linear):
                    part.weight.data *= 1 + 0.001 * torch.randn_like(part.weight)
        other.model.layers[0].mlp.gate_proj.weight.data.normal_()
    attention = other.model.layers[LAYER].self_attn
    own = slice(HEAD * attention.head_dim, (HEAD + 1) * attention.head_dim)
    attention.o_proj.weight.data[:, own] *= 0.5
    return (module, tokenizer), (other, tokenizer)


@pytest.fixture(scope="module")
def arms() -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    return damaged_llama()


def find(arms: tuple[Any, Any], **options: Any) -> Any:
    return find_vulnerable_layers(*arms, PROMPTS, openings=[OPENING], **options)


def test_the_layer_that_lost_the_refusals_is_first(arms: Any) -> None:
    report = find(arms)
    first, second = report.tried[:2]
    gap = report.original_log_odds - report.compressed_log_odds
    assert gap > 1
    assert first.name == CULPRIT
    assert first.restored.mean == pytest.approx(gap, rel=0.1)
    assert first.damaged.mean == pytest.approx(-gap, rel=0.1)
    assert first.causal == pytest.approx(gap, rel=0.1)
    assert second.causal < 0.1 * first.causal
    assert report.recommended(1) == (CULPRIT,)


def test_weight_and_activation_errors_stand_beside_and_do_not_rank(arms: Any) -> None:
    report = find(arms)
    by_name = {layer.name: layer for layer in report.layers}
    gate = by_name["model.layers.0.mlp.gate_proj"]
    assert max(report.layers, key=lambda layer: layer.weight_error) is gate
    assert gate.weight_error > 1
    assert gate.activation_error > 1
    assert gate.causal == pytest.approx(0, abs=1e-4)
    assert by_name["model.layers.0.self_attn.q_proj"].activation_error < 0.01
    # Everything behind the halved head is off by what it is off.
    assert by_name["lm_head"].activation_error > 0.1
    assert by_name["lm_head"].weight_error == 0
    assert -1 <= report.rank_correlation <= 1


def test_every_linear_layer_is_there_once(arms: Any) -> None:
    report = find(arms)
    assert len(report) == len({layer.name for layer in report}) == 3 * 7 + 1
    assert all(layer.restored and layer.damaged for layer in report)
    assert report.passes == 2 * (1 + 2) + 2 * 22


def test_decoder_layers(arms: Any) -> None:
    report = find(arms, unit="block")
    assert next(layer.name for layer in report) == f"model.layers.{LAYER}"
    assert len(report) == 3
    elements = sum(p.numel() for p in arms[0][0].model.layers[0].parameters())
    assert {layer.elements for layer in report} == {elements}
    assert next(iter(report)).activation_error > 0.1


def test_gpt2() -> None:
    module, tokenizer = planted_gpt2()
    other = copy_of(module)
    other.transformer.h[LAYER].attn.c_proj.weight.data *= 0.5
    report = find(((module, tokenizer), (other, tokenizer)))
    assert next(iter(report)).name == f"transformer.h.{LAYER}.attn.c_proj"
    assert next(iter(report)).weight_error == pytest.approx(0.5)


def test_a_bound_on_the_passes_looks_into_the_costliest_decoder_layers(arms: Any) -> None:
    counts: list[tuple[int, int]] = []
    report = find(arms, at_most=7, progress=lambda done, total: counts.append((done, total)))
    assert counts[-1] == (7, 7)
    assert {layer.name.rpartition(".self_attn")[0] or layer.name for layer in report.tried} >= {
        f"model.layers.{LAYER}"
    }
    assert report.tried[0].name == CULPRIT
    assert len(report.tried) == 7
    assert len(report) == 22
    assert "7 of 22 linear layers" in report.text()


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_layers_are_exchanged_in_both_directions(bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    from pytest_compsec.compression import bitsandbytes

    module, tokenizer = planted_llama()
    options: dict[str, Any] = {"bits": 4, "type": "nf4", "double_quant": False}
    other = bitsandbytes.apply(copy_of(module), options if bits == 4 else {"bits": 8}, "cpu")
    report = find(((module, tokenizer), (other, tokenizer)), unit="block")
    low, high = (0.02, 0.2) if bits == 4 else (0.0005, 0.03)
    assert all(low < layer.weight_error < high for layer in report)
    total = sum(layer.causal for layer in report)
    gap = report.original_log_odds - report.compressed_log_odds
    assert total == pytest.approx(gap, abs=max(0.1, 0.3 * abs(gap)))


def test_layers_in_another_float_type_are_exchanged(arms: Any) -> None:
    module, tokenizer = arms[0]
    other = copy_of(module).to(torch.bfloat16)
    other.model.layers[LAYER].self_attn.o_proj.weight.data *= 0.5
    for unit in ("matrix", "block"):
        report = find(((module, tokenizer), (other, tokenizer)), unit=unit)
        assert CULPRIT.startswith(next(iter(report)).name)
        assert next(iter(report)).restored.mean > 1


def test_both_models_are_as_before_also_after_an_error(arms: Any) -> None:
    modules = [model for model, _ in arms]
    before = [bytes_of(module) for module in modules]

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find(arms, progress=stop)
    assert all(map(is_untouched, modules, before))
    find(arms, unit="block")
    assert all(map(is_untouched, modules, before))


def test_the_report_is_plain_data_and_a_table(arms: Any) -> None:
    report = find(arms)
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["layers"][0]["name"] == CULPRIT
    assert data["layers"][0]["causal"] == pytest.approx(report.tried[0].causal)
    assert data["openings"]["source"] == "given"
    lines = report.text(top=3).splitlines()
    assert CULPRIT in lines[2]
    assert "Spearman" in lines[-1]


def test_identical_models_have_nothing_to_recommend(arms: Any) -> None:
    report = find((arms[0], (copy_of(arms[0][0]), arms[0][1])))
    assert report.recommended(5) == ()
    assert report.rank_correlation is None
    assert {layer.weight_error for layer in report} == {0.0}


def test_removed_layers_cannot_be_restored(arms: Any) -> None:
    shorter = copy_of(arms[0][0])
    del shorter.model.layers[2]
    with pytest.raises(LayersDifferError, match=r"3 decoder layers and the compressed model 2"):
        find((arms[0], (shorter, arms[0][1])))
    narrow = copy_of(arms[0][0])
    narrow.model.layers[1].mlp.up_proj = torch.nn.Linear(64, 96, bias=False)
    with pytest.raises(LayersDifferError, match="96 x 64"):
        find((arms[0], (narrow, arms[0][1])))


def test_models_that_read_the_prompts_differently_are_not_mixed(arms: Any) -> None:
    from tests.unit.tiny_model import make_tokenizer

    other = make_tokenizer()
    other.chat_template = other.chat_template.replace("user", "human") + " "
    with pytest.raises(MeasurementError, match="different tokens"):
        find((arms[0], (arms[1][0], other)))


@pytest.mark.parametrize(
    "options", [{"unit": "head"}, {"at_most": 0}, {"unit": "block", "at_most": 3}]
)
def test_wrong_arguments(arms: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|at least 1"):
        find(arms, **options)
