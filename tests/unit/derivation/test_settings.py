"""The same weights under another config, class or buffer are another model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from pytest_compsec.derivation.compare import Comparison, compare
from pytest_compsec.derivation.limits import LIMITS
from pytest_compsec.derivation.settings import other_settings
from pytest_compsec.localization.weight_error import LayersDifferError
from tests.unit.tiny_model import make_tokenizer


@pytest.fixture(scope="module")
def original() -> torch.nn.Module:
    return made()


def made(kind: str = "Llama", **changes: Any) -> torch.nn.Module:
    """A model with its biases; the same weights for the same shapes."""
    import transformers

    config: Any = {
        "vocab_size": len(make_tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        **changes,
    }
    if kind in ("Llama", "Qwen3"):
        config.setdefault("attention_bias", True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model_class = getattr(transformers, f"{kind}ForCausalLM")
        return model_class(getattr(transformers, f"{kind}Config")(**config)).eval()  # type: ignore[no-any-return]


def compared(original: torch.nn.Module, other: torch.nn.Module) -> Comparison:
    return compare(original, other, {}, LIMITS)


def test_the_same_model_has_the_same_settings(original: torch.nn.Module) -> None:
    other = copy.deepcopy(original)
    config: Any = other.config
    config.dtype, config.use_cache, config.eos_token_id = "bfloat16", False, 5
    config.rms_norm_eps *= 1 + 1e-8  # as single precision holds it
    found = compared(original, other)
    assert (found.rows, found.others, found.settings) == ((), (), ())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_act", "gelu"),
        ("rms_norm_eps", 1e-3),
        ("num_attention_heads", 8),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 500.0}),
    ],
)
def test_a_setting_that_computes_otherwise_is_named(
    original: torch.nn.Module, field: str, value: Any
) -> None:
    other = copy.deepcopy(original)
    setattr(other.config, field, value)
    (found,) = other_settings(original, other)
    assert found.startswith(field)
    assert "the original has" in found


def test_rotary_frequencies_are_compared(original: torch.nn.Module) -> None:
    other = made(rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    found = compared(original, other)
    assert any("inv_freq" in name for name in found.others)
    assert found.settings[0].startswith("rope_parameters.rope_theta: 500.0")


def test_another_class_over_the_same_weights_is_not_compared() -> None:
    llama, mistral = made(attention_bias=False), made("Mistral", sliding_window=8)
    assert llama.state_dict().keys() == mistral.state_dict().keys()
    with pytest.raises(LayersDifferError, match=r"LlamaForCausalLM.*MistralForCausalLM"):
        compared(llama, mistral)


@pytest.mark.parametrize("name", ["q_proj", "k_proj", "v_proj", "o_proj"])
def test_an_edited_bias_is_named(original: torch.nn.Module, name: str) -> None:
    other = copy.deepcopy(original)
    bias = f"model.layers.0.self_attn.{name}.bias"
    with torch.no_grad():
        other.get_parameter(bias)[3] += 0.1
    assert compared(original, other).others == (bias,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_an_extra_or_missing_buffer_or_parameter_is_named(
    original: torch.nn.Module, dtype: torch.dtype
) -> None:
    other = copy.deepcopy(original)
    other.get_submodule("model").register_buffer("steering", torch.ones(4, dtype=dtype))
    assert compared(original, other).others == ("model.steering",)
    assert compared(other, original).others == ("model.steering",)
    changed = copy.deepcopy(other)
    changed.get_buffer("model.steering")[2] = 7
    assert compared(other, changed).others == ("model.steering",)


def test_an_output_layer_of_its_own_is_compared() -> None:
    """The original ties it to the embedding; the compressed model brings another."""
    tied = made(tie_word_embeddings=True)
    untied = made(tie_word_embeddings=False)
    untied.load_state_dict(tied.state_dict())
    assert compared(tied, untied).rows == ()
    with torch.no_grad():
        untied.get_parameter("lm_head.weight")[7] *= 1.5
    assert [(row.layer, row.row) for row in compared(tied, untied).rows] == [("lm_head", 7)]
    assert [(row.layer, row.row) for row in compared(untied, tied).rows] == [("lm_head", 7)]
