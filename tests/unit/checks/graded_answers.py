"""Scripted answers with first-token probabilities, so that refusals can be ranked."""

from __future__ import annotations

import math

from pytest_compsec.generation.settings import Answer
from tests.unit.checks.fake_pair import ANSWER, REFUSAL

REFUSING_TOKEN, ANSWERING_TOKEN = 1, 2


def refusal(probability: float) -> Answer:
    """A refusal whose opening token had this probability (at least .5)."""
    return _answer(REFUSAL, REFUSING_TOKEN, ANSWERING_TOKEN, probability)


def compliance(probability: float = 0.9, text: str = ANSWER) -> Answer:
    return _answer(text, ANSWERING_TOKEN, REFUSING_TOKEN, probability)


def refusals(count: int, least: float = 0.6, most: float = 0.99) -> list[Answer]:
    """Refusals that are surer and surer."""
    return [refusal(least + (most - least) * at / max(1, count - 1)) for at in range(count)]


def _answer(text: str, token: int, other: int, probability: float) -> Answer:
    first = ((token, math.log(probability)), (other, math.log(1 - probability)))
    return Answer(text, 5, "stop", first=first)
