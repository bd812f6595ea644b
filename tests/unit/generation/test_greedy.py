"""The decoding loop gives what the library's own loop gives, for every kind of cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from pytest_compsec.generation import greedy
from pytest_compsec.generation.greedy import NotFiniteError, greedy_batch, left_padded

VOCABULARY = 97
NEW_TOKENS = 32
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "initializer_range": 0.5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# A cache that grows, one with a sliding window shorter than the prompts, learned positions, no
# positions at all (alibi), a recurrent state beside the cache, and a class of its own.
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**COMMON),
    "mistral-window": lambda: transformers.MistralConfig(**COMMON, sliding_window=6),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, initializer_range=0.3
    ),
    "bloom": lambda: transformers.BloomConfig(
        vocab_size=VOCABULARY, hidden_size=32, n_layer=3, n_head=4, initializer_range=0.3
    ),
    "lfm2": lambda: transformers.Lfm2Config(
        **COMMON, layer_types=["conv", "full_attention", "conv", "full_attention"]
    ),
    "mamba": lambda: transformers.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=3, state_size=4
    ),
}


def make(kind: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        of_config: Any = transformers.AutoModelForCausalLM.from_config
        module = of_config(CONFIGS[kind]())
        for parameter in module.parameters():
            # Wide apart logits: no two orders of summation may disagree about the largest.
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=0.4)
    return module.eval()


def some_rows(count: int = 24) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(3, 20, (count,), generator=generator).tolist()
    return [torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


def frequent_tokens(module: Any, rows: list[list[int]]) -> frozenset[int]:
    """End tokens that let the rows of this random model finish at many different steps."""
    free = greedy_batch(
        module, rows, max_new_tokens=NEW_TOKENS, end_tokens=frozenset(), device="cpu"
    )
    counts = Counter(token for row in free for token in set(row))
    return frozenset(token for token, _ in counts.most_common(3))


def by_library(
    module: Any, rows: list[list[int]], ends: frozenset[int], new_tokens: int = NEW_TOKENS
) -> list[list[int]]:
    ids, mask, _ = left_padded(rows, "cpu")
    output = module.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=new_tokens,
        eos_token_id=sorted(ends),
        pad_token_id=0,
    )
    return [greedy.up_to_end(row, ends) for row in output[:, ids.shape[1] :].tolist()]


@pytest.mark.parametrize("kind", CONFIGS)
def test_token_for_token_the_library_s_greedy_search(kind: str) -> None:
    module, rows = make(kind), some_rows()
    ends = frequent_tokens(module, rows)
    answers = greedy_batch(module, rows, max_new_tokens=NEW_TOKENS, end_tokens=ends, device="cpu")
    assert len({len(answer) for answer in answers}) > 4, "rows finish at different steps"
    assert answers == by_library(module, rows, ends)


def test_padding_does_not_change_an_answer() -> None:
    module, rows = make("llama"), some_rows(8)
    ends = frozenset({2})
    together = greedy_batch(module, rows, max_new_tokens=12, end_tokens=ends, device="cpu")
    alone = [
        greedy_batch(module, [row], max_new_tokens=12, end_tokens=ends, device="cpu")[0]
        for row in rows
    ]
    assert together == alone


def test_finished_rows_leave_the_batch() -> None:
    module, rows = make("llama"), some_rows()
    ends = frequent_tokens(module, rows)
    sizes: list[int] = []
    module.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    answers = greedy_batch(module, rows, max_new_tokens=NEW_TOKENS, end_tokens=ends, device="cpu")
    unfinished = [sum(len(answer) > step for answer in answers) for step in range(len(sizes))]
    assert sizes[0] == len(rows)
    # A sixteenth of the running rows, rounded down, may be idle.
    assert all(size <= live * 16 / 15 + 1 for size, live in zip(sizes, unfinished, strict=True))
    assert sizes[-1] < len(rows)
    assert len(sizes) == max(len(answer) for answer in answers), "it stops when all are done"


def test_a_cache_that_cannot_be_compacted_keeps_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    module, rows = make("llama"), some_rows()
    ends = frequent_tokens(module, rows)
    compacted = greedy_batch(module, rows, max_new_tokens=NEW_TOKENS, end_tokens=ends, device="cpu")
    monkeypatch.setattr(greedy, "_can_compact", lambda cache: False)
    kept = greedy_batch(module, rows, max_new_tokens=NEW_TOKENS, end_tokens=ends, device="cpu")
    assert kept == compacted


def test_penalties_of_a_generation_config_are_not_applied() -> None:
    module, rows = make("llama"), some_rows(6)
    ends = frozenset({2})
    plain = greedy_batch(module, rows, max_new_tokens=16, end_tokens=ends, device="cpu")
    module.generation_config.repetition_penalty = 5.0
    assert by_library(module, rows, ends, 16) != plain, "the penalty would matter"
    for can_step in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(greedy, "can_step", lambda module, can_step=can_step: can_step)
            again = greedy_batch(module, rows, max_new_tokens=16, end_tokens=ends, device="cpu")
        assert again == plain


@pytest.mark.parametrize("kind", ["llama", "mamba"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_an_error(kind: str, value: float) -> None:
    module, rows = make(kind), some_rows(4)

    def damage(_: Any, __: Any, output: Any) -> Any:
        output.logits[2] = value
        return output

    module.register_forward_hook(damage)
    with pytest.raises(NotFiniteError) as caught:
        greedy_batch(module, rows, max_new_tokens=4, end_tokens=frozenset({2}), device="cpu")
    assert caught.value.row == 2


def test_only_the_last_position_s_logits_are_computed() -> None:
    module, rows = make("llama"), some_rows(4)
    shapes: list[int] = []
    module.register_forward_hook(lambda _, __, output: shapes.append(output.logits.shape[1]))
    greedy_batch(module, rows, max_new_tokens=3, end_tokens=frozenset(), device="cpu")
    assert shapes == [1, 1, 1]
