"""What computes with the weights: the same weights under other settings are another model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

#: Fields of ``config.json`` that say where a model comes from or how it is trained, saved or
#: prompted, and change no logit of it. ``tie_word_embeddings``: the matrices themselves are
#: compared.
_NO_EFFECT = frozenset(
    (
        "architectures",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "id2label",
        "initializer_range",
        "is_encoder_decoder",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pretraining_tp",
        "problem_type",
        "quantization_config",
        "return_dict",
        "sep_token_id",
        "tie_word_embeddings",
        "tokenizer_class",
        "torch_dtype",
        "transformers_version",
        "unk_token_id",
        "use_cache",
    )
)


def other_settings(original: torch.nn.Module, compressed: torch.nn.Module) -> tuple[str, ...]:
    """Fields that both configs have and that differ, such as ``rope_parameters.rope_theta: 10000.0,
    the original has 500000.0``. Modules without a config have none.

    Fields that only one of them has are read by no model of this architecture: what it reads, its
    config class fills in.
    """
    before, after = _fields(original), _fields(compressed)
    return tuple(
        f"{name}: {after[name]!r}, the original has {before[name]!r}"
        for name in sorted(before.keys() & after.keys())
        if not _same(before[name], after[name])
    )


def _fields(module: torch.nn.Module) -> dict[str, Any]:
    config: Any = getattr(module, "config", None)
    return dict(_flat(config.to_dict())) if hasattr(config, "to_dict") else {}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name in _NO_EFFECT or name.startswith("_") or "dropout" in name:
            continue
        if isinstance(value, Mapping):
            # Of a section that only one of the two has, this is the field that differs.
            yield name, "settings" if value else None
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _same(before: Any, after: Any) -> bool:
    numbers = [isinstance(value, (int, float)) for value in (before, after)]
    if all(numbers):
        # GGUF holds numbers of single precision.
        return math.isclose(before, after, rel_tol=1e-6)
    if isinstance(before, (list, tuple)) and isinstance(after, (list, tuple)):
        return len(before) == len(after) and all(map(_same, before, after))
    return bool(before == after)
