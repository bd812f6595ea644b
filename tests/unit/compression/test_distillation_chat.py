"""Batches for chat models: what is read and what is learned; a language model distilled on them."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import nn

from pytest_compsec.compression.distillation import (
    DistillationSample,
    SafetyAwareDistillation,
    chat_batches,
    distill,
)
from pytest_compsec.errors import LoadError
from pytest_compsec.generation.chat import render
from pytest_compsec.generation.decoding import generate_answers
from pytest_compsec.generation.settings import GenerationSettings
from tests.unit.compression.double_use import (
    IN_A_BATCH,
    NOUNS,
    VERBS,
    Request,
    kind,
    requests,
)
from tests.unit.tiny_model import make_tokenizer

SAMPLES = [
    DistillationSample("How do I bake bread?", "With flour."),
    DistillationSample("Harm my neighbour.", "No.", safety=True),
    DistillationSample("Hi", "Hello to you, and welcome here."),
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


def learned(tokenizer: Any, batch: Any, row: int) -> str:
    labels = batch.labels[row]
    return str(tokenizer.decode(labels[labels != -100]))


# Batches


def test_the_answer_and_its_end_are_learned_and_nothing_else(tokenizer: Any) -> None:
    answers = {sample.prompt: sample for sample in SAMPLES}
    (batch,) = chat_batches(tokenizer, SAMPLES, batch_size=3)
    seen = set()
    for row in range(3):
        ids = batch.inputs["input_ids"][row][batch.inputs["attention_mask"][row] == 1]
        text = tokenizer.decode(ids)
        (sample,) = (s for prompt, s in answers.items() if prompt in text)
        seen.add(sample.prompt)
        # The last token is predicted from those before it, and not read.
        assert text + "<|im_end|>" == render(tokenizer, sample.prompt) + sample.answer + (
            "<|im_end|>"
        )
        assert learned(tokenizer, batch, row) == sample.answer + "<|im_end|>"
        assert batch.safety is not None
        assert bool(batch.safety[row]) == sample.safety
    assert seen == set(answers)
    assert batch.safety_samples == 1


def test_each_label_is_the_token_that_comes_next(tokenizer: Any) -> None:
    for batch in chat_batches(tokenizer, SAMPLES, batch_size=2):
        ids, labels = batch.inputs["input_ids"], batch.labels
        assert ids.shape == labels.shape == batch.inputs["attention_mask"].shape
        inside = (labels[:, :-1] != -100) & (batch.inputs["attention_mask"][:, 1:] == 1)
        assert bool(inside.any())
        assert torch.equal(labels[:, :-1][inside], ids[:, 1:][inside])


def test_samples_are_shuffled_by_the_seed_and_none_is_lost(tokenizer: Any) -> None:
    many = [DistillationSample(f"Request {i}", str(i), safety=i < 3) for i in range(40)]

    def answers(seed: int) -> list[str]:
        return [
            learned(tokenizer, batch, row)
            for batch in chat_batches(tokenizer, many, batch_size=7, seed=seed)
            for row in range(len(batch.labels))
        ]

    assert answers(0) == answers(0) != answers(1)
    assert answers(0) != [f"{i}<|im_end|>" for i in range(40)]
    assert sorted(answers(1)) == sorted(f"{i}<|im_end|>" for i in range(40))
    assert sum(b.safety_samples for b in chat_batches(tokenizer, many, batch_size=7)) == 3


def test_the_system_prompt_and_another_end_are_read(tokenizer: Any) -> None:
    (batch,) = chat_batches(
        tokenizer, SAMPLES[:1], batch_size=1, system="Be kind.", end_of_answer="<|endoftext|>"
    )
    assert "Be kind." in tokenizer.decode(batch.inputs["input_ids"][0])
    assert learned(tokenizer, batch, 0) == "With flour.<|endoftext|>"


def test_a_long_row_loses_the_end_of_its_answer(tokenizer: Any) -> None:
    length = len(tokenizer(render(tokenizer, "Hi"), add_special_tokens=False)["input_ids"])
    (batch,) = chat_batches(tokenizer, SAMPLES[2:], batch_size=1, max_tokens=length + 5)
    assert learned(tokenizer, batch, 0) == "Hello"
    with pytest.raises(ValueError, match=r"the prompt 'Hi' has \d+ tokens .* leaves nothing of"):
        chat_batches(tokenizer, SAMPLES[2:], batch_size=1, max_tokens=length)


@pytest.mark.parametrize(
    ("samples", "batch_size", "message"),
    [
        ([], 1, "no samples"),
        (SAMPLES, 0, "batch_size must be at least 1"),
        ([DistillationSample("Hi", "")], 1, "the answer to 'Hi' is empty"),
    ],
)
def test_nothing_to_learn_is_an_error(
    tokenizer: Any, samples: list[DistillationSample], batch_size: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        chat_batches(tokenizer, samples, batch_size=batch_size)


def test_a_tokenizer_without_an_end_or_a_template_is_an_error() -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end token: give end_of_answer"):
        chat_batches(tokenizer, SAMPLES, batch_size=1)
    tokenizer.chat_template = None
    with pytest.raises(LoadError, match="no chat template"):
        chat_batches(tokenizer, SAMPLES, batch_size=1, end_of_answer="<|im_end|>")


# A language model, from batches to answers


SPECIAL = ("<pad>", "<user>", "<bot>", "<end>", "sure", "sorry", "no")
WORDS = (*SPECIAL, *(f"verb{i}" for i in range(VERBS)), *(f"noun{i}" for i in range(NOUNS)))


def make_word_tokenizer() -> Any:
    """One token a word, so that requests and answers are short."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words: Any = Tokenizer(
        models.WordLevel(vocab={word: i for i, word in enumerate(WORDS)}, unk_token="<pad>")
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast: Any = PreTrainedTokenizerFast  # Its constructor has no types.
    return fast(
        tokenizer_object=words,
        bos_token="<bot>",
        eos_token="<end>",
        pad_token="<pad>",
        chat_template="{% for message in messages %}<user> {{ message['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}<bot> {% endif %}",
    )


def prompt(request: Request) -> str:
    return f"verb{request[0]} noun{request[1]}"


def answer(request: Request) -> str:
    return "sorry no" if kind(request) == "harmful" else f"sure noun{request[1]}"


class Teacher(nn.Module):
    """Answers as :func:`answer` says, sure of itself: ``<user> verb noun <bot>`` and two words."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*input_ids.shape, len(WORDS))
        for row, ids in enumerate(input_ids.tolist()):
            request = (ids[1] - len(SPECIAL), ids[2] - len(SPECIAL) - VERBS)
            for place, word in enumerate([*answer(request).split(), "<end>"], start=3):
                logits[row, place, WORDS.index(word)] = 8.0
        return logits


def make_student() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        tie_word_embeddings=True,
        initializer_range=0.1,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = LlamaForCausalLM(config)
    return model


def test_a_small_language_model_keeps_the_refusals_that_plain_distillation_loses() -> None:
    words = make_word_tokenizer()
    to_learn, unseen = requests()
    chooser = random.Random(1)
    chosen = [
        chooser.choice(to_learn[name]) for name, n in IN_A_BATCH.items() for _ in range(20 * n)
    ]
    batches = chat_batches(
        words,
        [DistillationSample(prompt(r), answer(r), safety=kind(r) == "harmful") for r in chosen],
        batch_size=50,
    )
    refused: dict[tuple[float, str], float] = {}
    for weight in (1.0, 32.0):
        student = make_student()
        distill(
            student,
            Teacher(),
            batches,
            SafetyAwareDistillation(temperature=2.0, alpha=0.5, safety_weight=weight),
            steps=160,
            learning_rate=5e-3,
        )
        for name in ("harmful", "ordinary"):
            answers = generate_answers(
                student,
                words,
                [prompt(request) for request in unseen[name][:50]],
                GenerationSettings(max_new_tokens=4),
                device="cpu",
            )
            texts = [found.text.strip() for found in answers]
            refused[weight, name] = sum(text == "sorry no" for text in texts) / len(texts)
            if name == "ordinary":
                assert sum(text.startswith("sure noun") for text in texts) > 45
    assert refused[1.0, "harmful"] < 0.1
    assert refused[32.0, "harmful"] > 0.8
    assert refused[1.0, "ordinary"] == refused[32.0, "ordinary"] == 0.0
