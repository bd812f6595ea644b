"""Phrases and tokens: where they are put, how they are shortened, and what is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_compsec.attacks.triggers.changes import changed
from pytest_compsec.attacks.triggers.texts import Phrase, Token
from pytest_compsec.errors import MeasurementError


@pytest.mark.parametrize(
    ("position", "text", "expected"),
    [
        ("start", "Hello there.", "in blue Hello there."),
        ("end", "Hello there.", "Hello there. in blue"),
        ("middle", "one two three four", "one two in blue three four"),
        ("middle", "one two three", "one in blue two three"),
        ("middle", "one", "in blue one"),
        ("middle", "a\nb", "a\nin blue b"),
        ("start", "  padded", "in blue padded"),
        ("end", "padded \n", "padded in blue"),
        ("start", "", "in blue"),
        ("middle", "", "in blue"),
        ("end", " \n ", "in blue"),
        ("end", "Grüße, 世界! 🙂", "Grüße, 世界! 🙂 in blue"),
        ("middle", "世界 🙂", "世界 in blue 🙂"),
    ],
)
def test_where_a_phrase_goes(position: str, text: str, expected: str) -> None:
    assert Phrase("in blue", position).stamp([text]) == (expected,)
    assert Token("cf", position).stamp([text]) == (expected.replace("in blue", "cf"),)


@pytest.mark.parametrize(
    ("strength", "words"),
    [(1.0, "a b c d e"), (0.8, "a b c d"), (0.5, "a b c"), (0.25, "a b"), (0.2, "a"), (0.01, "a")],
)
def test_a_weaker_phrase_is_shorter(strength: float, words: str) -> None:
    assert Phrase("a b c d e").stamp(["x"], strength) == (f"{words} x",)


def test_a_weaker_token_is_repeated_less() -> None:
    token = Token("cf", "end", repeat=4)
    assert [token.stamp(["x"], strength)[0] for strength in (1.0, 0.5, 0.25, 0.1)] == [
        "x cf cf cf cf",
        "x cf cf",
        "x cf",
        "x cf",
    ]
    assert Token("cf").stamp(["x"], 0.25) == ("cf x",)


def test_a_text_with_the_trigger_is_left_alone_at_every_strength() -> None:
    texts = ("go in blue now", "in deep blue", "in bluegrass", "In blue")
    phrase = Phrase("in blue")
    assert changed(phrase, texts) == (False, True, True, True)
    assert changed(phrase, texts, 0.5) == (False, True, True, True)
    assert changed(Token("cf"), ("a cf b", "cfa", "cf.")) == (False, True, True)
    with pytest.raises(MeasurementError, match="none of the 2 samples"):
        changed(Token("cf"), ("cf", "x cf"))


def test_the_given_texts_stay_and_the_count_too() -> None:
    texts = ["one", "two"]
    assert Phrase("p").stamp(texts) == ("p one", "p two")
    assert texts == ["one", "two"]
    assert Phrase("p").stamp(()) == ()


@pytest.mark.parametrize("inputs", ["one text", torch.zeros(1, 2, 2), [1, 2], None])
@pytest.mark.parametrize("trigger", [Phrase("a b"), Token("cf")])
def test_only_texts_are_stamped(trigger: Any, inputs: Any) -> None:
    with pytest.raises(MeasurementError, match="goes on texts"):
        trigger.stamp(inputs)


@pytest.mark.parametrize("strength", [0, 2, -1])
@pytest.mark.parametrize("trigger", [Phrase("a b"), Token("cf")])
def test_a_strength_is_a_share(trigger: Any, strength: float) -> None:
    with pytest.raises(ValueError, match="strength"):
        trigger.stamp(["x"], strength)


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (Phrase, {"text": " "}, "at least one word"),
        (Phrase, {"text": 3}, "phrase 3"),
        (Phrase, {"text": "a", "position": "front"}, "start, middle, end"),
        (Token, {"text": "two words"}, "as 'phrase'"),
        (Token, {"text": ""}, "at least one word"),
        (Token, {"text": "a", "repeat": 0}, "repeat=0"),
        (Token, {"text": "a", "repeat": True}, "repeat=True"),
        (Token, {"text": "a", "position": ["end"]}, "start, middle, end"),
    ],
)
def test_what_makes_no_sense_is_refused(kind: Any, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as raised:
        kind(**arguments)
    assert words in str(raised.value)


def test_every_field_decides_the_digest() -> None:
    triggers: list[Phrase | Token] = [
        Phrase("cf"),
        Phrase("cf "),
        Phrase("CF"),
        Phrase("cf", "end"),
        Token("cf"),
        Token("cf", "end"),
        Token("cg"),
        Token("cf", repeat=2),
    ]
    assert len({trigger.digest for trigger in triggers}) == len(triggers)
