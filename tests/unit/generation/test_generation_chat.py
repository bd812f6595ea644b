"""Chat templates: applied, checked, and never silently wrong."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_compsec.errors import LoadError
from pytest_compsec.generation.chat import encode, render

THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)


def test_system_prompt_comes_before_the_prompt(tokenizer: Any) -> None:
    text = render(tokenizer, "Hello there", "Be brief.")
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello there<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_no_second_begin_token_is_added(tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
    )
    text = render(tokenizer, "Hello")
    assert tokenizer(text)["input_ids"][:2] == [tokenizer.bos_token_id] * 2, "the fault is planted"
    assert encode(tokenizer, [text])[0][:2].count(tokenizer.bos_token_id) == 1


def test_template_settings_reach_the_template(tokenizer: Any) -> None:
    tokenizer.chat_template = THINKING
    assert "<think>" not in render(tokenizer, "Hello")
    assert render(tokenizer, "Hello", None, {"enable_thinking": False}).endswith("</think>\n\n")


def test_a_setting_that_no_template_reads_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = THINKING
    with pytest.raises(LoadError, match=r"does not read enable_thinkng; it reads enable_thinking$"):
        render(tokenizer, "Hello", None, {"enable_thinkng": False})


@pytest.mark.parametrize("key", ["tokenize", "chat_template", "add_generation_prompt", "padding"])
def test_reserved_settings_are_refused(tokenizer: Any, key: str) -> None:
    with pytest.raises(LoadError, match=f"{key} cannot be set here"):
        render(tokenizer, "Hello", None, {key: True})


def test_no_template_says_what_to_do(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(LoadError, match=r"no chat template .*compsec pin"):
        render(tokenizer, "Hello")


def test_template_that_refuses_a_system_prompt(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{{ messages[0]['content'] }}"
    )
    assert render(tokenizer, "Hello") == "Hello"
    with pytest.raises(LoadError, match=r"refuses a system prompt.*Remove `system:`"):
        render(tokenizer, "Hello", "Be brief.")


def test_template_that_drops_the_system_prompt(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}"
    )
    with pytest.raises(LoadError, match="dropped the system prompt"):
        render(tokenizer, "Hello", "Be brief.")


def test_template_for_other_content_drops_the_prompt(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}user:{% for part in m['content'] %}{{ part.text }}{% endfor %}"
        "{% endfor %}"
    )
    with pytest.raises(LoadError, match="dropped the prompt"):
        render(tokenizer, "Hello")


def test_template_may_trim_a_prompt(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages[0]['content'] | trim }}"
    assert render(tokenizer, "  Hello  ") == "Hello"


def test_the_date_in_a_template_is_always_the_same(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "\n{%- if true %}Today: {{ strftime_now('%d %b %Y') }} {{ strftime_now('%Y-%m-%d') }}\n"
        "{% endif %}{{ messages[0]['content'] }}"
    )
    assert render(tokenizer, "Hello") == "Today: 01 Jan 2025 2025-01-01\nHello"
    tokenizer.chat_template = "\n{{ strftime_now('%B') }} {{ messages[0]['content'] }}"
    assert render(tokenizer, "Hello") == "\nJanuary Hello", "nothing else of it changes"
