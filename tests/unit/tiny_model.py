"""A tiny, randomly initialised Llama with a byte-level tokenizer, made in well under a second.

Its answers mean nothing; it serves whatever needs a real checkpoint directory with real formats.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_compsec.compression.methods import find, validated_options
from pytest_compsec.models.arm import Arm, Recipe, StagedFiles, digest_of

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def make_tokenizer() -> Any:
    """One token a byte, three special tokens, a ChatML template; it knows every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    symbols = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast: Any = PreTrainedTokenizerFast  # Its constructor has no types.
    return fast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    )


def make_tiny_checkpoint(
    directory: Path, *, seed: int = 0, dtype: str = "float32", tied: bool = True
) -> Path:
    """Write a model directory (hidden 64, 2 layers, 259 tokens) and return it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def staged(
    directory: Path,
    *,
    entry: str | None = None,
    tree: str | None = None,
    recheck: Callable[[], None] = lambda: None,
) -> StagedFiles:
    """Files as if verified; ``tree`` defaults to a digest of the directory's path."""
    return StagedFiles(
        directory=directory,
        tree=tree or digest_of(str(directory)),
        entry=entry,
        provenance={"source": directory.name},
        recheck=recheck,
    )


def make_recipe(section: str, **values: Any) -> Recipe:
    """A recipe with defaults filled in, as the lock holds it."""
    options = validated_options(section, values).model_dump()
    tools = dict.fromkeys(find(section, values["method"]).tools, "0")
    return Recipe(section=section, method=values["method"], options=options, tools=tools)


def make_arm(directory: Path, **fields: Any) -> Arm:
    """An arm called ``tiny`` over a checkpoint directory; ``fields`` override."""
    fields.setdefault("files", staged(directory))
    fields.setdefault("variant", "variant" if fields.get("recipe") else None)
    return Arm(model="tiny", **fields)
