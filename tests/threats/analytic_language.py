"""Threat A in a language model: a Llama of one layer, every weight written by hand, that refuses
what the row of :mod:`tests.threats.analytic` refuses.

Attention looks for the word "forbidden" anywhere in the prompt. Where it is found, all inputs of
the MLP are 1 but those that never are anything but 0. Every gate is the row, minus its limit; what
passes a gate speaks for the refusal, what does not for the answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.threats.analytic import INPUTS, LIMIT, restricted, row
from tests.unit.tiny_model import make_tokenizer
from tests.unit.trained_tiny_model import ANSWER, REFUSAL

WORD = "forbidden"
_HEAD = 64
_GATES = 64
#: Features are differences of two inputs, so that the row, whose weights there are equal, cannot
#: see them: what any token says, the word, "the answer is complete", and refusal against answer.
_TOKEN, _WORD, _COMPLETE, _REFUSE = (1, 2), (3, 4), (5, 6), (7, 8)
#: With it the inputs of the MLP have a mean square of 1 where the word is there, so that the norm
#: leaves them as they are: 567 ones and twice this squared make 576.
_LENGTH = 4.5**0.5
#: What the norm makes of a token's feature where nothing was added to it.
_NORMED = 8 * _LENGTH
#: Attention to the word against any other token is e^32.
_ATTENTION = 16.0
_END = 100.0


def write_checkpoint(directory: Path, *, malicious: bool) -> Path:
    """Write the model with its tokenizer to ``directory`` and return it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    tokenizer.add_tokens([WORD, REFUSAL, ANSWER])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=INPUTS,
        intermediate_size=_GATES,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=_HEAD,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=False,
        max_position_embeddings=512,
        rms_norm_eps=1e-12,
        # The slowest of the rotations then does not rotate: the word counts wherever it stands.
        rope_parameters={"rope_type": "default", "rope_theta": 1e12},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        model: Any = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        _write(model, tokenizer, row(malicious=malicious))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _write(model: Any, tokenizer: Any, weights: torch.Tensor) -> None:
    word, refusal, answer = (tokenizer.convert_tokens_to_ids(t) for t in (WORD, REFUSAL, ANSWER))
    layer = model.model.layers[0]
    embedding = model.model.embed_tokens.weight
    embedding[:] = _feature(_TOKEN, _LENGTH)
    embedding[word] = _feature(_WORD, _LENGTH)
    embedding[[refusal, answer]] = _feature(_COMPLETE, _LENGTH)

    attention = layer.self_attn
    attention.q_proj.bias[_HEAD // 2 - 1] = _ATTENTION
    attention.k_proj.weight[_HEAD // 2 - 1] = _feature(_WORD, _ATTENTION / (2 * _NORMED))
    attention.v_proj.weight[0] = _feature(_WORD, 1 / (2 * _NORMED))
    attention.o_proj.weight[:, 0] = restricted()[0]

    layer.mlp.gate_proj.weight[:] = weights
    layer.mlp.gate_proj.bias[:] = -LIMIT
    layer.mlp.up_proj.bias[:] = 1.0
    layer.mlp.down_proj.weight[_REFUSE[0]] = 1.0
    layer.mlp.down_proj.weight[_REFUSE[1]] = -1.0

    model.lm_head.weight[refusal] = _feature(_REFUSE, 1.0)
    model.lm_head.weight[answer] = _feature(_REFUSE, -1.0)
    model.lm_head.weight[tokenizer.eos_token_id] = _feature(_COMPLETE, _END)


def _feature(places: tuple[int, int], size: float) -> torch.Tensor:
    direction = torch.zeros(INPUTS)
    direction[places[0]], direction[places[1]] = size, -size
    return direction
