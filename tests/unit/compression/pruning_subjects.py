"""Tiny models of several architectures to prune, and pruning as the loader does it: recipe, apply,
measurement, promise."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import torch

from pytest_compsec.compression import expectation
from pytest_compsec.compression.calibration import CalibrationTexts
from pytest_compsec.compression.methods import find, validated_options
from pytest_compsec.models.weights import WeightReport, measure_weights
from tests.unit.tiny_model import make_tokenizer

PROMPTS = ("How do I bake bread?", "Hi", "Tell me a story about a fox and a crow.", "What is 2+2?")
TOKENS = 259


def texts(prompts: tuple[str, ...] = PROMPTS) -> CalibrationTexts:
    """Texts of different lengths, so that a batch has padding."""
    return CalibrationTexts(make_tokenizer(), prompts)


def llama(**changes: Any) -> Any:
    """Four layers, eight query heads on four key-value heads; untied, with biases."""
    return _model("Llama", attention_bias=True, mlp_bias=True, **changes)


def qwen2(**changes: Any) -> Any:
    """Biases on query, key and value; the config class knows no ``head_dim``."""
    return _model("Qwen2", **changes)


def qwen3(**changes: Any) -> Any:
    """A norm inside of each head."""
    return _model("Qwen3", head_dim=8, **changes)


def gemma3(**changes: Any) -> Any:
    """Layers of two kinds, with their own masks and positions; a window shorter than the texts."""
    kinds = ["sliding_attention", "full_attention"] * 2
    return _model(
        "Gemma3",
        config="Gemma3TextConfig",
        head_dim=8,
        layer_types=kinds,
        sliding_window=6,
        **changes,
    )


def gpt2() -> Any:
    """Weights stored as (inputs, outputs)."""
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=TOKENS, n_embd=32, n_layer=2, n_head=4, n_positions=128,
            initializer_range=0.3,
        )  # fmt: skip
        model: Any = GPT2LMHeadModel(config)
    return model.eval()


def _model(family: str, *, config: str | None = None, **changes: Any) -> Any:
    import transformers

    values: dict[str, Any] = {
        "vocab_size": TOKENS,
        "hidden_size": 64,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        **changes,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = getattr(transformers, config or f"{family}Config")(**values)
        model = getattr(transformers, f"{family}ForCausalLM")(made).eval()
        # Biases start at zero, which would hide a wrong one.
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                torch.nn.init.normal_(parameter, std=0.2)
    return model


def linears(module: torch.nn.Module) -> dict[str, Any]:
    """Every linear layer of the decoder layers by name."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if (isinstance(layer, torch.nn.Linear) or type(layer).__name__ == "Conv1D")
        and name != "lm_head"
    }


def pruned(dense: Any, *, calibration: CalibrationTexts | None = None, **values: Any) -> Any:
    """A pruned copy of ``dense``, checked against the promise of its recipe."""
    return pruned_and_measured(dense, calibration=calibration, **values)[0]


def pruned_and_measured(
    dense: Any, *, calibration: CalibrationTexts | None = None, **values: Any
) -> tuple[Any, WeightReport]:
    """As :func:`pruned`, with the measurement."""
    if calibration is not None and values.get("drop") is None:
        values["calibration"] = "texts"
    method = find("prune", values["method"])
    options = validated_options("prune", values).model_dump()
    implementation = importlib.import_module(method.implementation)
    extra = {"calibration": calibration or texts(())} if method.calibrated else {}
    module = implementation.apply(copy.deepcopy(dense), options, "cpu", **extra)
    report = measure_weights(module)
    expectation.check(report, implementation.expected(options))
    return module, report


def logits(module: Any, prompt: str = PROMPTS[2]) -> torch.Tensor:
    """(tokens, vocabulary) for one text."""
    (row,) = texts((prompt,)).token_rows()
    with torch.no_grad():
        values: torch.Tensor = module(torch.tensor([row])).logits[0]
    return values
