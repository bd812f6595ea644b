"""A tiny Llama in a GGUF file: every type of block that the format's tools write, random weights.

Hidden 256, so that a row holds whole blocks of k-quants; one layer, 4 heads, 2 of keys and values,
and a byte-level tokenizer with one merge. Written by the ``gguf`` package, as the files of the
world are. Where that package cannot quantize (k-quants), the blocks are random bits with scales
chosen so that the weights have the size of real ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.unit.tiny_model import CHAT_TEMPLATE, SPECIAL_TOKENS

HIDDEN, INNER, HEADS, KEY_HEADS, POSITIONS = 256, 512, 4, 2, 512
HEAD = HIDDEN // HEADS

#: type: bits per weight in the file, of which codes. From the sizes in the format's description:
#: bytes of a block / weights of a block.
BITS: dict[str, tuple[float, int]] = {
    "Q8_0": (8 * 34 / 32, 8),
    "Q4_0": (8 * 18 / 32, 4),
    "Q4_1": (8 * 20 / 32, 4),
    "Q5_0": (8 * 22 / 32, 5),
    "Q2_K": (8 * 84 / 256, 2),
    "Q3_K": (8 * 110 / 256, 3),
    "Q4_K": (8 * 144 / 256, 4),
    "Q5_K": (8 * 176 / 256, 5),
    "Q6_K": (8 * 210 / 256, 6),
}
# Where the float16 scales of a k-quant block are (byte offset), and what they are set to here.
_SCALES: dict[str, dict[int, float]] = {
    "Q2_K": {80: 8e-3, 82: 12e-3},
    "Q3_K": {108: 2.5e-3},
    "Q4_K": {0: 4e-4, 2: 30e-4},
    "Q5_K": {0: 2e-4, 2: 31e-4},
    "Q6_K": {208: 8e-5},
}
_SHAPES = {
    "blk.0.attn_q.weight": (HIDDEN, HIDDEN),
    "blk.0.attn_k.weight": (KEY_HEADS * HEAD, HIDDEN),
    "blk.0.attn_v.weight": (KEY_HEADS * HEAD, HIDDEN),
    "blk.0.attn_output.weight": (HIDDEN, HIDDEN),
    "blk.0.ffn_gate.weight": (INNER, HIDDEN),
    "blk.0.ffn_up.weight": (INNER, HIDDEN),
    "blk.0.ffn_down.weight": (HIDDEN, INNER),
}


def vocabulary() -> list[str]:
    from tokenizers import pre_tokenizers

    return [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet()), "th"]


def random_blocks(
    kind: str, shape: tuple[int, int], generator: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Rows of blocks, ``[outputs, bytes of a row]``."""
    import gguf

    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    if kind not in _SCALES:
        weights = generator.normal(0.0, 0.1, shape).astype(np.float32)
        quantized: npt.NDArray[np.uint8] = gguf.quantize(weights, gguf.GGMLQuantizationType[kind])
        return quantized
    rows, blocks = shape[0], shape[1] // block
    raw = generator.integers(0, 256, (rows, blocks, size), dtype=np.uint8)
    for offset, value in _SCALES[kind].items():
        raw[:, :, offset : offset + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)
    return raw.reshape(rows, blocks * size)


def write_tiny_gguf(
    path: Path,
    kind: str = "Q8_0",
    *,
    seed: int = 0,
    last_norm: float = 1.0,
    replaced: Mapping[str, npt.NDArray[np.uint8]] | None = None,
) -> dict[str, npt.NDArray[np.uint8]]:
    """Write the file and return the blocks of its matrices. ``last_norm`` is the weight of the
    final norm; ``replaced`` blocks take the place of random ones."""
    import gguf

    generator = np.random.default_rng(seed)
    writer: Any = gguf.GGUFWriter(path, "llama")
    _write_shape(writer)
    _write_tokenizer(writer, gguf)
    words = generator.normal(0.0, 0.2, (len(vocabulary()), HIDDEN)).astype(np.float16)
    writer.add_tensor("token_embd.weight", words)
    blocks: dict[str, npt.NDArray[np.uint8]] = {}
    for name, shape in _SHAPES.items():
        blocks[name] = random_blocks(kind, shape, generator)
        blocks[name] = (replaced or {}).get(name, blocks[name])
        writer.add_tensor(name, blocks[name], raw_dtype=gguf.GGMLQuantizationType[kind])
    for name in ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"):
        writer.add_tensor(name, np.ones(HIDDEN, np.float32))
    writer.add_tensor("output_norm.weight", np.full(HIDDEN, last_norm, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return blocks


def _write_shape(writer: Any) -> None:
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(vocabulary()))


def _write_tokenizer(writer: Any, gguf: Any) -> None:
    words = vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types(
        [
            gguf.TokenType.CONTROL if word in SPECIAL_TOKENS else gguf.TokenType.NORMAL
            for word in words
        ]
    )
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(words.index("<|im_start|>"))
    writer.add_eos_token_id(words.index("<|im_end|>"))
    writer.add_pad_token_id(words.index("<|endoftext|>"))
    # The template writes the first token already; whoever obeys this adds a second one.
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
