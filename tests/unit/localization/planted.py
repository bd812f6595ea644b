"""Tiny models of many architectures, and one in which a single head says whether it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

from tests.unit.tiny_model import make_tokenizer

PROMPTS = [f"Do the forbidden thing {number}{'!' * (number % 3)}" for number in range(6)]
#: The token that opens a refusal in the planted models.
OPENING = 40
#: Where the planted head is.
LAYER, HEAD = 1, 2

SIZES: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED: dict[str, Any] = {**SIZES, "num_key_value_heads": 2}


def _gpt2(names: Any) -> Any:
    config = names.GPT2Config(
        vocab_size=259, n_embd=64, n_layer=3, n_head=4, n_positions=256,
        tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return names.GPT2LMHeadModel(config)


def _opt(names: Any) -> Any:
    sizes = {key: value for key, value in SIZES.items() if key != "intermediate_size"}
    config = names.OPTConfig(**sizes, ffn_dim=128, word_embed_proj_dim=64)
    return names.OPTForCausalLM(config)


def _plain(name: str, sizes: dict[str, Any], **more: Any) -> Callable[[Any], Any]:
    def make(names: Any) -> Any:
        kind = "Gemma3Text" if name == "Gemma3" else name
        config = getattr(names, f"{kind}Config")(**sizes, **more)
        return getattr(names, f"{name}ForCausalLM")(config)

    return make


MAKERS: dict[str, Callable[[Any], Any]] = {
    "llama": _plain("Llama", GROUPED),
    "mistral": _plain("Mistral", GROUPED, sliding_window=8),
    "qwen2": _plain("Qwen2", GROUPED),
    "qwen3": _plain("Qwen3", GROUPED, head_dim=32),
    "gemma2": _plain("Gemma2", GROUPED, head_dim=8, sliding_window=8),
    "gemma3": _plain("Gemma3", GROUPED, head_dim=8, sliding_window=8),
    "phi": _plain("Phi", SIZES),
    "phi3": _plain("Phi3", GROUPED),
    "neox": _plain("GPTNeoX", SIZES),
    "falcon": _plain("Falcon", SIZES, multi_query=True, new_decoder_architecture=False),
    "gpt2": _gpt2,
    "opt": _opt,
}


def tiny(name: str, seed: int = 0) -> Any:
    """A random causal language model with 3 layers of 4 heads, in evaluation mode."""
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MAKERS[name](transformers)
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.data.normal_(std=0.1)
    return model.eval().requires_grad_(False)


def planted_llama() -> tuple[Any, Any]:
    """(module, tokenizer): head HEAD of layer LAYER always writes the direction that makes OPENING
    the likeliest token; no other head writes much. Its value is the same for every prompt, because
    it comes from a bias."""
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = transformers.LlamaConfig(**GROUPED, attention_bias=True)
        model: Any = transformers.LlamaForCausalLM(config)
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.data.normal_(std=0.1)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.data *= 0.02
        attention: Any = model.model.layers[LAYER].self_attn
        width = attention.head_dim
        # Heads 2 and 3 read key-value head 1.
        attention.v_proj.bias.data[width : 2 * width] = 1.0
        direction = model.lm_head.weight.data[OPENING]
        direction *= 2 / direction.norm()
        own = slice(HEAD * width, (HEAD + 1) * width)
        # All inputs are 1: together they write a vector of length 1.
        attention.o_proj.weight.data[:, own] = direction[:, None] / (2 * width)
    return model.eval().requires_grad_(False), make_tokenizer()


def planted_gpt2() -> tuple[Any, Any]:
    """As :func:`planted_llama`, with fused projections that are stored transposed."""
    model = tiny("gpt2", seed=2)
    for block in model.transformer.h:
        block.attn.c_proj.weight.data *= 0.02
    attention = model.transformer.h[LAYER].attn
    own = slice(HEAD * 16, (HEAD + 1) * 16)
    attention.c_attn.bias.data[128 + HEAD * 16 : 128 + (HEAD + 1) * 16] = 1.0
    direction = model.lm_head.weight.data[OPENING]
    direction *= 2 / direction.norm()
    attention.c_proj.weight.data[own] = direction[None, :] / 32
    return model, make_tokenizer()


def bytes_of(module: Any) -> dict[str, torch.Tensor]:
    """A copy of all parameters and buffers."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def is_untouched(module: Any, before: dict[str, torch.Tensor]) -> bool:
    """Bit-identical weights, no hook, nothing put in the place of a forward."""
    after = module.state_dict()
    return (
        list(after) == list(before)
        and all(torch.equal(after[name], value) for name, value in before.items())
        and not any(
            part._forward_hooks or part._forward_pre_hooks or "forward" in part.__dict__
            for part in module.modules()
        )
    )


def copy_of(module: Any) -> Any:
    return copy.deepcopy(module)
