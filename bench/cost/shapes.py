"""The sizes of a llama-like decoder that decide what answering with it costs.

Read from a transformers ``config.json``: grouped-query attention, a gated MLP of three matrices,
RMS norms, an embedding that the vocabulary head may share. ``PUBLISHED`` holds the sizes of models
that nobody needs to download to know what they cost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class ModelShape:
    """Sizes in elements. ``intermediate`` is the inner width of the gated MLP."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool

    @property
    def attention_matrices(self) -> int:
        """Parameters of the four projections of one layer: queries and output for all heads, keys
        and values for the shared ones."""
        return self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)

    @property
    def mlp_matrices(self) -> int:
        """Parameters of gate, up and down projection of one layer."""
        return 3 * self.hidden * self.intermediate

    @property
    def layer_matrices(self) -> int:
        """Parameters of the matrices of all layers: what quantization packs."""
        return self.layers * (self.attention_matrices + self.mlp_matrices)

    @property
    def head_matrix(self) -> int:
        """Parameters of the matrix that turns a hidden state into logits, tied or not."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters, norms included; a tied embedding counts once."""
        embeddings = self.head_matrix * (1 if self.tied else 2)
        norms = (2 * self.layers + 1) * self.hidden
        return self.layer_matrices + embeddings + norms

    @property
    def cache_elements(self) -> int:
        """Elements of the key-value cache for one token: keys and values of every layer."""
        return 2 * self.layers * self.kv_heads * self.head_dim


def shape_of(config: Mapping[str, Any], name: str = "") -> ModelShape:
    """The shape that a ``config.json`` of a llama-like decoder describes.

    Raises ValueError for a config that lacks a size, has a bias on its projections or several
    experts: its cost is not what this model counts.
    """
    needed = (
        "num_hidden_layers",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "vocab_size",
    )
    missing = [key for key in needed if not isinstance(config.get(key), int)]
    if missing:
        raise ValueError(f"the config of {name or 'the model'} has no {', '.join(missing)}")
    for key in ("attention_bias", "mlp_bias", "num_local_experts", "num_experts"):
        if config.get(key):
            raise ValueError(f"the config of {name or 'the model'} has {key}: not counted here")
    heads = int(config["num_attention_heads"])
    hidden = int(config["hidden_size"])
    return ModelShape(
        name=name or str(config.get("_name_or_path", "")),
        layers=int(config["num_hidden_layers"]),
        hidden=hidden,
        intermediate=int(config["intermediate_size"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or hidden // heads),
        vocabulary=int(config["vocab_size"]),
        # The default of transformers' PretrainedConfig is True, that of LlamaConfig False.
        tied=bool(config.get("tie_word_embeddings", False)),
    )


#: Facts. SmolLM2: the config.json of HuggingFaceTB/SmolLM2-135M-Instruct. Llama 3.1: the
#: config.json of meta-llama/Llama-3.1-{8B,70B,405B}-Instruct, which agree with table 3 of "The
#: Llama 3 Herd of Models" (arXiv 2407.21783). The first upload of the 405B model doubled its
#: key and value heads to 16, for tensor parallelism; the paper and later uploads have 8.
PUBLISHED: dict[str, ModelShape] = {
    shape.name: shape
    for shape in (
        ModelShape("SmolLM2-135M", 30, 576, 1536, 9, 3, 64, 49_152, tied=True),
        ModelShape("Llama-3.1-8B", 32, 4096, 14_336, 32, 8, 128, 128_256, tied=False),
        ModelShape("Llama-3.1-70B", 80, 8192, 28_672, 64, 8, 128, 128_256, tied=False),
        ModelShape("Llama-3.1-405B", 126, 16_384, 53_248, 128, 8, 128, 128_256, tied=False),
    )
}
