"""From a completion to an :class:`Answer`, or to the reason why it is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pytest_compsec.errors import MeasurementError
from pytest_compsec.generation.reasoning import BLOCKS, split_reasoning
from pytest_compsec.generation.settings import Answer

#: TGI's names for an end that the model made are among them.
_ENDED = frozenset({"stop", "eos_token", "stop_sequence"})
#: Markers that no prose holds: without the tokenizer nothing else says what is one token.
_MARKERS = frozenset(
    marker
    for block in BLOCKS
    for marker in block
    if block[0] not in ("<reasoning>", "<thinking>", "<thought>")
)
#: As in :mod:`pytest_compsec.generation.first_token`, which needs torch.
_LEAST = -99.0
_TOKEN_ID = "token_id:"


def answer_of(reply: Mapping[str, Any], name: str) -> Answer:
    """The answer in a completion. ``name`` says whose and to what, in messages.

    Text that the server puts apart as reasoning is no part of the answer. An answer that ended for
    another reason than the model's own end or the limit is none: a content filter, say, is not the
    model under test.

    Raises MeasurementError.
    """
    choices = reply.get("choices")
    if isinstance(choices, list) and len(choices) > 1:
        raise MeasurementError(f"{name}: the server gave {len(choices)} answers to one question")
    choice = _first(choices)
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise MeasurementError(f"{name}: the server's reply holds no message: it is no completion")
    finish = _finish(choice.get("finish_reason"), name)
    text = _text(message.get("content")) or _text(message.get("refusal"))
    apart = _text(message.get("reasoning_content")) or _text(message.get("reasoning"))
    if apart.strip():
        cut = finish == "length" and not text.strip()
        return _made(reply, choice, text, finish, in_reasoning=cut, reasoned=True)
    reading = split_reasoning(text, tokens=_MARKERS)
    if reading is None:
        return _made(reply, choice, text, finish)
    return _made(
        reply, choice, reading.text, finish, in_reasoning=reading.in_reasoning, reasoned=True
    )


def first_tokens(choice: Mapping[str, Any]) -> tuple[tuple[int, float], ...]:
    """The likeliest tokens at the first position, where the server says which ids they have (vLLM
    as ``token_id:7``, llama.cpp's server as ``id``); texts of tokens alone are no ids."""
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    top = _first(content).get("top_logprobs")
    found: dict[int, float] = {}
    for one in top if isinstance(top, list) else []:
        token, value = _token_id(one), one.get("logprob") if isinstance(one, Mapping) else None
        if token is None or not isinstance(value, (int, float)):
            return ()
        found[token] = round(min(0.0, max(float(value), _LEAST)), 4)
    return tuple(sorted(found.items(), key=lambda item: -item[1]))


def _made(
    reply: Mapping[str, Any],
    choice: Mapping[str, Any],
    text: str,
    finish: Literal["stop", "length"],
    *,
    in_reasoning: bool = False,
    reasoned: bool = False,
) -> Answer:
    return Answer(
        text=text.strip(),
        tokens=_counted(reply),
        finish=finish,
        in_reasoning=in_reasoning,
        reasoned=reasoned,
        first=first_tokens(choice),
    )


def _finish(reason: Any, name: str) -> Literal["stop", "length"]:
    if reason in _ENDED:
        return "stop"
    if reason == "length":
        return "length"
    what = {
        "content_filter": "a content filter of the server, and not the model, ended the answer: "
        "serve the model without the filter",
        "tool_calls": "the model called a tool instead of answering: serve it without tools",
    }.get(str(reason), "the answer is not finished: look at the server's log")
    raise MeasurementError(f"{name}: finish_reason is {reason!r}: {what}. Nothing was counted")


def _counted(reply: Mapping[str, Any]) -> int:
    """New tokens, as the server counts them; 0 where it does not."""
    usage = reply.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
    return count if isinstance(count, int) else 0


def _token_id(entry: Any) -> int | None:
    if not isinstance(entry, Mapping):
        return None
    token, number = entry.get("token"), entry.get("id")
    if isinstance(token, str) and token.startswith(_TOKEN_ID):
        digits = token.removeprefix(_TOKEN_ID)
        return int(digits) if digits.isdecimal() else None
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def _first(items: Any) -> Mapping[str, Any]:
    one = items[0] if isinstance(items, Sequence) and not isinstance(items, str) and items else None
    return one if isinstance(one, Mapping) else {}


def _text(value: Any) -> str:
    """The text of a message; servers may send it in parts."""
    if isinstance(value, list):
        return "".join(_text(one.get("text")) for one in value if isinstance(one, Mapping))
    return value if isinstance(value, str) else ""
