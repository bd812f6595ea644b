"""How likely an answer is to a served model, from its server's log-probabilities of prompt tokens.

vLLM's extension of the protocol: ``prompt_logprobs`` of a conversation that ends with the answer
(``continue_final_message``). How many tokens stand before the answer is known from a second request
that ends before it. No other server is known to have it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import MeasurementError
from pytest_compsec.judges.coherence import SKIPPED_TOKENS, answer_perplexity
from pytest_compsec.models.served.concurrently import concurrently
from pytest_compsec.models.served.facts import require_model
from pytest_compsec.models.served.requests import UNKNOWN_FIELD, RefusedError

if TYPE_CHECKING:
    from pytest_compsec.models.served.model import ServedModel

_ENDS_WITH_THE_ANSWER = {
    "add_generation_prompt": False,
    "continue_final_message": True,
    "prompt_logprobs": 0,
}


class NoLikelihoodError(MeasurementError):
    """The server gives no log-probabilities of prompt tokens."""


def perplexities(
    model: ServedModel, prompts: Sequence[str], answers: Sequence[str]
) -> list[float | None]:
    """Perplexity of each answer (see :mod:`pytest_compsec.judges.coherence`), None where too few
    tokens are left. Raises NoLikelihoodError, IntegrityError, MeasurementError."""
    if len(prompts) != len(answers):
        raise ValueError(f"{len(prompts)} prompts but {len(answers)} answers")
    found: dict[int, float | None] = {}

    def score(place: int) -> float | None:
        if not answers[place].strip():
            return None
        nlls = answer_nlls(model, prompts[place], answers[place])[SKIPPED_TOKENS:]
        return answer_perplexity(len(nlls), math.fsum(nlls) / len(nlls)) if nlls else None

    # Alone first: a server that cannot is asked once.
    first = next((place for place, answer in enumerate(answers) if answer.strip()), None)
    if first is not None:
        found[first] = score(first)
    concurrently(
        [place for place in range(len(prompts)) if place not in found],
        score,
        concurrency=model.server.served.concurrency,
        finished=found.update,
    )
    return [found[place] for place in range(len(prompts))]


def answer_nlls(model: ServedModel, prompt: str, answer: str) -> list[float]:
    """The negative log-likelihood (nats) of each token of the answer, as the server cuts it."""
    messages = model.messages(prompt)
    before = _asked(model, messages, {}).get("usage")
    start = before.get("prompt_tokens") if isinstance(before, Mapping) else None
    if not isinstance(start, int):
        raise _none(model)
    said = [*messages, {"role": "assistant", "content": answer}]
    try:
        values = _asked(model, said, _ENDS_WITH_THE_ANSWER).get("prompt_logprobs")
    except RefusedError as error:
        if error.status in UNKNOWN_FIELD:
            raise _none(model) from None
        raise
    if not isinstance(values, list) or len(values) <= start:  # the answer is not among them
        raise _none(model)
    return [_nll(model, entry) for entry in values[start:]]


def _asked(
    model: ServedModel, messages: Sequence[dict[str, str]], extra: Mapping[str, Any]
) -> dict[str, Any]:
    reply = model.server.complete(messages, max_tokens=1, extra={**model.template, **extra})
    require_model(model.arm.name, model.server.served.pin, reply)
    return reply


def _nll(model: ServedModel, entry: Any) -> float:
    """Of one position: with ``prompt_logprobs: 0`` its own token stands there and no other."""
    one = next(iter(entry.values()), None) if isinstance(entry, Mapping) and len(entry) == 1 else {}
    value = one.get("logprob") if isinstance(one, Mapping) else None
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _none(model)
    return max(-float(value), 0.0)


def _none(model: ServedModel) -> NoLikelihoodError:
    return NoLikelihoodError(
        f"{model.arm.name}: {model.server.served.pin.url} gives no log-probabilities of prompt "
        "tokens (vLLM's prompt_logprobs)"
    )
