"""Structured removals that cannot be, or that did not happen, and options that say nothing."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from pytest_compsec.compression.decoder_parts import attentions, mlps
from pytest_compsec.compression.heads import keep_groups
from pytest_compsec.compression.methods import validated_options
from pytest_compsec.compression.structure import Removed, Structure, check_removed, remember_dense
from pytest_compsec.errors import NotCompressedError
from tests.unit.compression.pruning_subjects import gpt2, llama, pruned, texts

REMOVALS: list[dict[str, Any]] = [
    {"method": "heads", "share": 0.5},
    {"method": "channels", "share": 0.25},
    {"method": "layers", "drop": [1, 2]},
]


@pytest.fixture(scope="module")
def dense() -> Any:
    return llama()


@pytest.mark.parametrize("values", REMOVALS, ids=lambda values: values["method"])
@pytest.mark.parametrize("fault", ["nothing", "silenced only"])
def test_an_apply_that_removes_nothing_is_caught(
    dense: Any, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], fault: str
) -> None:
    def faulty(module: Any, options: Any, device: str, *, calibration: Any) -> Any:
        if fault == "silenced only":
            remember_dense(module)
            for layer in module.model.layers:
                torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
                torch.nn.init.zeros_(layer.mlp.down_proj.weight)
        return module

    name = f"pytest_compsec.compression.{values['method']}"
    monkeypatch.setattr(importlib.import_module(name), "apply", faulty)
    with pytest.raises(NotCompressedError, match=f"not pruned as the recipe says.*{name[27:]}"):
        pruned(dense, **values)


def test_heads_removed_in_half_of_the_layers_are_caught(
    dense: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_compsec.compression import heads

    def faulty(module: Any, options: Any, device: str, *, calibration: Any) -> Any:
        remember_dense(module)
        for layer in attentions(module)[::2]:
            keep_groups(layer, torch.tensor([0, 1]))
        return module

    monkeypatch.setattr(heads, "apply", faulty)
    with pytest.raises(NotCompressedError, match="but layer 1 has 8 of 8"):
        pruned(dense, method="heads", share=0.5)


@pytest.mark.parametrize(
    ("asked", "done", "message"),
    [
        (REMOVALS[0], {"share": 0.25}, r"50\.0000% of the heads .* layer 0 has 6 of 8"),
        (REMOVALS[1], {"share": 0.2}, r"25\.0000% of the channels .* layer 0 has 38 of 48"),
        (REMOVALS[2], {"drop": [1]}, "2 of 4 layers were to be removed, and 3 are left"),
    ],
)
def test_removing_less_than_promised_is_caught(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], done: dict[str, Any], message: str
) -> None:
    module = importlib.import_module(f"pytest_compsec.compression.{asked['method']}")
    real = module.apply
    monkeypatch.setattr(
        module,
        "apply",
        lambda subject, options, device, **extra: real(
            subject, {**options, **done}, device, **extra
        ),
    )
    # A hidden size that six heads divide, since the config must be able to say what is left.
    with pytest.raises(NotCompressedError, match=message):
        pruned(llama(hidden_size=48, head_dim=8), **asked)


def test_a_layer_less_with_as_many_parameters_is_no_compression() -> None:
    dense, now = (Structure(layers, (), (), elements=100) for layers in (2, 1))
    with pytest.raises(NotCompressedError, match="has 100 parameters, and had 100"):
        check_removed(dense, now, Removed("layers", count=1))


def test_a_number_of_heads_that_no_config_may_have_is_refused(dense: Any) -> None:
    with pytest.raises(NotCompressedError, match=r"allows no config.*64.*6.*another share"):
        pruned(dense, method="heads", share=0.25)


def test_weights_that_the_config_would_build_otherwise_are_refused(dense: Any) -> None:
    subject = copy.deepcopy(dense)
    for layer in subject.model.layers:
        layer.self_attn.sinks = torch.nn.Parameter(torch.zeros(8))
    with pytest.raises(NotCompressedError, match=r"config of LlamaForCausalLM cannot say.*sinks"):
        pruned(subject, method="heads", share=0.5)


def test_a_setting_that_moves_with_its_layer_and_not_in_the_config_is_refused(dense: Any) -> None:
    subject = copy.deepcopy(dense)
    subject.model.layers[3].self_attn.sliding_window = 4
    with pytest.raises(NotCompressedError, match=r"sliding_window of decoder layer 1\.self_attn"):
        pruned(subject, method="layers", drop=[0, 1])


@pytest.mark.parametrize("values", REMOVALS[:2], ids=lambda values: values["method"])
def test_a_layout_without_these_parts_is_refused_by_name(values: dict[str, Any]) -> None:
    missing = {"heads": "'self_attn'", "channels": "'gate_proj'"}[values["method"]]
    with pytest.raises(NotCompressedError, match=f"layout not understood: .*{missing}"):
        pruned(gpt2(), **values)


def test_a_model_without_decoder_layers_is_refused() -> None:
    with pytest.raises(NotCompressedError, match="layout not understood: Linear has no transform"):
        pruned(torch.nn.Linear(4, 4), method="layers", drop=[0])


def test_projections_that_are_no_whole_heads_are_refused(dense: Any) -> None:
    subject = copy.deepcopy(dense)
    subject.model.layers[2].self_attn.q_proj = torch.nn.Linear(64, 128)
    with pytest.raises(NotCompressedError, match=r"decoder layer 2: q_proj, k_proj.*have 128, 32"):
        pruned(subject, method="heads", share=0.5)


def test_layers_that_differ_are_refused(dense: Any) -> None:
    subject = copy.deepcopy(dense)
    mlp = mlps(subject)[1]
    mlp.module.gate_proj, mlp.module.up_proj = torch.nn.Linear(64, 40), torch.nn.Linear(64, 40)
    mlp.module.down_proj = torch.nn.Linear(40, 64)
    with pytest.raises(NotCompressedError, match="layers differ in their numbers of channels"):
        pruned(subject, method="channels", share=0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "heads", "share": 0.9}, r"removes all 4 groups of heads .* at most 0\.75"),
        ({"method": "channels", "share": 0.99}, "removes all 48 channels"),
        ({"method": "layers", "drop": [0, 4]}, "'drop' lists layer 4, .* 0 to 3"),
        ({"method": "layers", "drop": [0, 1, 2, 3]}, "4 layers were to be removed, .* has 4"),
    ],
)
def test_what_is_not_there_cannot_be_removed(
    dense: Any, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(NotCompressedError, match=message):
        pruned(dense, **values)


def test_layers_by_influence_need_texts(dense: Any) -> None:
    with pytest.raises(NotCompressedError, match="name a prompt set in 'calibration'"):
        pruned(dense, method="layers", count=1, calibration=texts(()))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "wanda", "calibration": "c"}, "takes either 'sparsity"),
        ({"method": "wanda", "sparsity": 0.5, "pattern": "2:4", "calibration": "c"}, "either"),
        ({"method": "wanda", "sparsity": 0.5}, "calibration"),
        ({"method": "taylor", "sparsity": 0.5}, "calibration"),
        ({"method": "taylor", "sparsity": 1.0, "calibration": "c"}, "less than 1"),
        ({"method": "two-four", "sparsity": 0.5}, "sparsity"),
        ({"method": "layer-magnitude", "sparsity": 0.5, "per": "column"}, "per"),
        ({"method": "heads", "share": 0.0}, "greater than 0"),
        ({"method": "heads", "share": 0.5, "keep_in_full_precision": ["a"]}, "keep_in_full"),
        ({"method": "layers"}, "takes either 'drop"),
        ({"method": "layers", "count": 1}, "belong together"),
        ({"method": "layers", "drop": [1], "calibration": "c"}, "belong together"),
        ({"method": "layers", "drop": [1], "count": 1, "calibration": "c"}, "takes either"),
        ({"method": "layers", "drop": []}, "different layers by number"),
        ({"method": "layers", "drop": [1, 1]}, "different layers by number"),
        ({"method": "layers", "drop": [-1]}, "different layers by number"),
    ],
)
def test_options_that_say_too_little_or_too_much_are_errors(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        validated_options("prune", values)
