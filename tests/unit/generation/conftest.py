"""A tiny random Llama, loaded once, for what needs a real module."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.tiny_model import make_tiny_checkpoint, make_tokenizer


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny-for-generation"))


@pytest.fixture
def module(tiny_weights: Any) -> Any:
    """A fresh module for each test, so that a test may damage it."""
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(tiny_weights)
    return loaded.eval()


@pytest.fixture
def tokenizer() -> Any:
    return make_tokenizer()
