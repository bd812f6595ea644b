"""A served model answers: a :class:`pytest_compsec.models.loaded.LoadedModel` of which nothing is
here. The chat template, the tokenizer and the decoding are the server's own; it is asked at
temperature 0 and with a fixed seed."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_compsec.errors import LoadError
from pytest_compsec.generation.chat import RESERVED
from pytest_compsec.generation.settings import Answer, GenerationSettings
from pytest_compsec.generation.under_system import spoken
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.served.concurrently import concurrently
from pytest_compsec.models.served.facts import CANARY, require_model
from pytest_compsec.models.served.pin import SERVED, not_here
from pytest_compsec.models.served.replies import answer_of
from pytest_compsec.models.served.requests import (
    UNKNOWN_FIELD,
    ChatServer,
    Message,
    RefusedError,
)

if TYPE_CHECKING:
    from pytest_compsec.models.served.pin import Served

#: The most likely tokens that are asked for, as many as the protocol allows.
TOP_LOGPROBS = 20
_LOGPROBS = {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
#: From the most that a server may know to what all know: vLLM's way to name tokens by id, the
#: protocol's log-probabilities, none.
ASKED_BESIDE: tuple[Mapping[str, Any], ...] = (
    {**_LOGPROBS, "return_tokens_as_token_ids": True},
    _LOGPROBS,
    {},
)


@dataclasses.dataclass(frozen=True, eq=False)
class ServedModel:
    """One arm behind a server. ``generate`` and ``perplexities`` work; whatever looks inside raises
    MeasurementError."""

    arm: Arm
    server: ChatServer
    dialect: Dialect
    device: str = SERVED
    dtype: str = SERVED

    @property
    def module(self) -> NoReturn:
        """There is none. Raises MeasurementError."""
        raise not_here(self.arm.name, self.server.served.pin, "Its layers are")

    @property
    def tokenizer(self) -> NoReturn:
        """There is none. Raises MeasurementError."""
        raise not_here(self.arm.name, self.server.served.pin, "Its tokenizer is")

    @property
    def weights(self) -> NoReturn:
        """There are none. Raises MeasurementError."""
        raise not_here(self.arm.name, self.server.served.pin, "Its weights are")

    def serving(self, arm: Arm) -> ServedModel:
        """The same server for another arm with the same pin."""
        return dataclasses.replace(self, arm=arm)

    def messages(self, prompt: str) -> list[Message]:
        """The conversation that asks one prompt."""
        prompt, system = spoken(prompt, self.arm.system)
        before = [] if system is None else [_said("system", system)]
        return [*before, _said("user", prompt)]

    @property
    def template(self) -> dict[str, Any]:
        """The fields of a request that hand on the arm's template arguments.

        Raises LoadError for an argument that is this package's, or the server's, to decide.
        """
        values = dict(self.arm.chat_template_kwargs)
        reserved = sorted(RESERVED.intersection(values))
        if reserved:
            raise LoadError(
                f"chat_template_kwargs: {', '.join(reserved)} cannot be set here; give only "
                "variables that the chat template itself reads, such as enable_thinking"
            )
        return {"chat_template_kwargs": values} if values else {}

    def generate(
        self,
        prompts: Sequence[str],
        settings: GenerationSettings = GenerationSettings(),  # noqa: B008 (frozen)
        *,
        on_answers: Callable[[Sequence[int], Sequence[Answer]], None] | None = None,
    ) -> list[Answer]:
        """Ask each prompt, several at a time; ``on_answers`` hears of every answer at once.

        With ``settings.shuffle`` they are asked in an order drawn at random, so that the server
        computes them in other company. ``settings.batch_size`` changes nothing.

        Raises IntegrityError when another model answers, MeasurementError when no answer can be
        had: what was answered before is handed on first.
        """
        if not prompts:
            return []
        beside = {**self.template, **self.dialect.of(self.server, self.template)}
        answers: dict[int, Answer] = {}

        def ask(place: int) -> Answer:
            prompt = prompts[place]
            reply = self.server.complete(
                self.messages(prompt), max_tokens=settings.max_new_tokens, extra=beside
            )
            require_model(self.arm.name, self.server.served.pin, reply)
            shown = prompt if len(prompt) <= 40 else prompt[:39] + "…"
            return answer_of(reply, f"{self.arm.name}, prompt {place} ({shown!r})")

        def finished(done: list[tuple[int, Answer]]) -> None:
            answers.update(done)
            if on_answers is not None:
                on_answers([place for place, _ in done], [answer for _, answer in done])

        places = list(range(len(prompts)))
        if settings.shuffle is not None:
            random.Random(settings.shuffle).shuffle(places)
        concurrency = self.server.served.concurrency
        concurrently(places, ask, concurrency=concurrency, finished=finished)
        return [answers[place] for place in range(len(prompts))]

    def perplexities(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float | None]:
        """Perplexity of each answer to its prompt, from the server's log-probabilities of prompt
        tokens (vLLM's ``prompt_logprobs``); None where too few tokens are left.

        Raises NoLikelihoodError for a server that has none.
        """
        from pytest_compsec.models.served.likelihood import perplexities

        return perplexities(self, prompts, answers)


class Dialect:
    """Which further fields a server takes, found out once. Safe to use from several threads."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._known: Mapping[str, Any] | None = None

    def of(self, server: ChatServer, template: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields that ask for log-probabilities, as far as the server takes them.

        Raises what it says to a request with ``template`` alone.
        """
        with self._guard:
            if self._known is None:
                self._known = self._found(server, template)
            return self._known

    def _found(self, server: ChatServer, template: Mapping[str, Any]) -> Mapping[str, Any]:
        for fields in ASKED_BESIDE:
            try:
                server.complete(CANARY, max_tokens=1, extra={**template, **fields})
            except RefusedError as error:
                if not fields or error.status not in UNKNOWN_FIELD:
                    raise
                continue
            return fields
        raise AssertionError("the last request asks for nothing beside")


def open_served(arm: Arm) -> ServedModel:
    """The model of a served arm; asks nothing yet. Raises as :class:`ChatServer`."""
    assert arm.served is not None
    if arm.recipe is not None or arm.adapter is not None:
        raise LoadError(f"{arm.name} is served: nothing can be made from it here")
    return ServedModel(arm, ChatServer(arm.name, arm.served), Dialect())


def served_key(served: Served) -> tuple[Any, ...]:
    """What two arms must share to be asked through one client."""
    return (served.pin.digest, served.api_key_env, served.timeout, served.retries,
            served.concurrency)  # fmt: skip


def _said(role: str, text: str) -> Message:
    return {"role": role, "content": text}
