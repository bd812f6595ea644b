"""What of a server's reply is the model's answer."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_compsec.errors import MeasurementError
from pytest_compsec.models.served.replies import answer_of


def reply(content: Any, finish: Any = "stop", **message: Any) -> dict[str, Any]:
    choice = {"message": {"content": content, **message}, "finish_reason": finish}
    return {"choices": [choice], "usage": {"completion_tokens": 12}}


@pytest.mark.parametrize(
    ("given", "text", "finish", "in_reasoning", "reasoned"),
    [
        (reply(" Yes. "), "Yes.", "stop", False, False),
        (reply("Yes", "eos_token"), "Yes", "stop", False, False),
        (reply("Yes and", "length"), "Yes and", "length", False, False),
        (reply(None), "", "stop", False, False),
        (reply([{"type": "text", "text": "Yes"}]), "Yes", "stop", False, False),
        (reply(None, refusal="I can't."), "I can't.", "stop", False, False),
        # As vLLM and SGLang put reasoning apart, and as they leave it in.
        (reply("Yes", reasoning_content="Hm."), "Yes", "stop", False, True),
        (reply("Yes", reasoning="Hm."), "Yes", "stop", False, True),
        (reply(None, "length", reasoning_content="Hm"), "", "length", True, True),
        (reply("<think>Hm.</think>Yes"), "Yes", "stop", False, True),
        (reply("Hm.</think>Yes"), "Yes", "stop", False, True),
        (reply("<think>Hm", "length"), "", "length", True, True),
    ],
)
def test_the_answer_without_its_reasoning(
    given: dict[str, Any], text: str, finish: str, in_reasoning: bool, reasoned: bool
) -> None:
    answer = answer_of(given, "a")
    assert (answer.text, answer.finish) == (text, finish)
    assert (answer.in_reasoning, answer.reasoned) == (in_reasoning, reasoned)
    assert answer.tokens == 12


@pytest.mark.parametrize("finish", ["content_filter", "tool_calls", "abort", None])
def test_an_answer_that_something_else_ended_is_none(finish: Any) -> None:
    with pytest.raises(MeasurementError, match=r"arm, prompt 3: finish_reason is"):
        answer_of(reply("I can't help with that.", finish), "arm, prompt 3")


def test_log_probabilities_are_bounded_and_ranked() -> None:
    top = [
        {"token": "token_id:4", "logprob": -9999.0},
        {"token": "token_id:5", "logprob": -0.25},
        {"token": "token_id:6", "logprob": 1e-9},
    ]
    given = reply("Yes")
    given["choices"][0]["logprobs"] = {"content": [{"top_logprobs": top}]}
    assert answer_of(given, "a").first == ((6, 0.0), (5, -0.25), (4, -99.0))
    top.append({"token": "Yes", "logprob": -3.0})  # one without an id: no ranking by halves
    assert answer_of(given, "a").first == ()
