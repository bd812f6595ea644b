"""One arm as something that takes requests of a fixed size, whatever runs it.

Every request has one answer of exactly ``new_tokens`` tokens: in this process the end token is not
heeded, of a server the answer is cut by its limit, and a prompt whose answer ends before is not
used. What is then left of a difference in time is not the length of the answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pytest_compsec.errors import MeasurementError
from pytest_compsec.models.served.pin import SERVED

if TYPE_CHECKING:
    from pytest_compsec.models.llama_cpp_model import LlamaCppModel
    from pytest_compsec.models.loaded import LoadedModel
    from pytest_compsec.models.served.model import ServedModel
    from pytest_compsec.models.served.requests import ChatServer


class Requests(Protocol):
    """What is timed."""

    @property
    def name(self) -> str:
        """The arm, for messages."""
        ...

    @property
    def device(self) -> str:
        """Where it computes, as torch names it; ``served`` where that is not known."""
        ...

    def sizes(self, prompts: Sequence[str]) -> list[int | None]:
        """Tokens that the model reads for each prompt; None for a prompt that cannot be used."""
        ...

    def ask(self, prompt: str) -> None:
        """One request: over when its answer is there. Raises MeasurementError for an answer of
        another length."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


def requests_of(model: LoadedModel, new_tokens: int) -> Requests:
    """The arm as :class:`Requests`. Raises MeasurementError for an arm that cannot be timed."""
    if model.arm.served is not None:
        from pytest_compsec.models.served.model import ServedModel

        assert isinstance(model, ServedModel)
        return _Served.of(model, new_tokens)
    if model.arm.runtime is not None:
        from pytest_compsec.models.llama_cpp_model import LlamaCppModel

        assert isinstance(model, LlamaCppModel)
        return _LlamaCpp(model, new_tokens)
    return _InProcess(model, new_tokens)


@dataclasses.dataclass
class _InProcess:
    """A torch module: from token ids to token ids, so that the text of a prompt takes no time."""

    model: LoadedModel
    new_tokens: int
    rows: dict[str, list[int]] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.model.arm.name

    @property
    def device(self) -> str:
        return self.model.device

    def sizes(self, prompts: Sequence[str]) -> list[int | None]:
        from pytest_compsec.generation.chat import encode, render
        from pytest_compsec.generation.forward_passes import positions_of

        model = self.model
        limit = positions_of(model.module)
        texts = [
            render(model.tokenizer, prompt, model.arm.system, model.arm.chat_template_kwargs)
            for prompt in prompts
        ]
        rows = encode(model.tokenizer, texts)
        self.rows.update(zip(prompts, rows, strict=True))
        return [_size(len(row), self.new_tokens, limit) for row in rows]

    def ask(self, prompt: str) -> None:
        from pytest_compsec.generation.greedy import NotFiniteError, greedy_batch

        device = self.model.device
        try:
            (tokens,) = greedy_batch(
                self.model.module,
                [self.rows[prompt]],
                max_new_tokens=self.new_tokens,
                end_tokens=frozenset(),
                device=device,
            )
        except NotFiniteError as error:
            raise MeasurementError(f"{self.name}: {error}, so nothing was timed") from None
        _synchronize(device)
        _require_length(self.name, len(tokens), self.new_tokens)

    def close(self) -> None:
        """Nothing is open."""


@dataclasses.dataclass
class _LlamaCpp:
    """llama.cpp, called as for answers, its end tokens not heeded."""

    model: LlamaCppModel
    new_tokens: int
    rows: dict[str, list[int]] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.model.arm.name

    @property
    def device(self) -> str:
        return self.model.device

    def sizes(self, prompts: Sequence[str]) -> list[int | None]:
        rows = self.model.encode(prompts)
        self.rows.update(zip(prompts, rows, strict=True))
        limit = self.model.engine.positions
        return [_size(len(row), self.new_tokens, limit if limit > 0 else None) for row in rows]

    def ask(self, prompt: str) -> None:
        engine, unread = self.model.engine, self.rows[prompt]
        engine.begin(len(unread) + self.new_tokens)
        for _ in range(self.new_tokens):
            unread = [int(engine.read(unread).argmax())]

    def close(self) -> None:
        """Nothing is open."""


@dataclasses.dataclass
class _Served:
    """A server, over the whole way that a client's request takes. Nothing is tried twice: a second
    try would be timed as one slow request."""

    label: str
    server: ChatServer
    messages: Callable[[str], Any]
    template: Mapping[str, Any]
    new_tokens: int

    @classmethod
    def of(cls, model: ServedModel, new_tokens: int) -> _Served:
        from pytest_compsec.models.served.requests import ChatServer

        once = dataclasses.replace(model.server.served, retries=0)
        server = ChatServer(model.arm.name, once)
        return cls(model.arm.name, server, model.messages, model.template, new_tokens)

    @property
    def name(self) -> str:
        return self.label

    @property
    def device(self) -> str:
        return SERVED

    def sizes(self, prompts: Sequence[str]) -> list[int | None]:
        from pytest_compsec.models.served.concurrently import concurrently

        found: dict[int, int | None] = {}

        def probe(place: int) -> int | None:
            read, produced = self._asked(prompts[place])
            return read if produced == self.new_tokens else None

        concurrently(
            list(range(len(prompts))),
            probe,
            concurrency=self.server.served.concurrency,
            finished=found.update,
        )
        return [found[place] for place in range(len(prompts))]

    def ask(self, prompt: str) -> None:
        _, produced = self._asked(prompt)
        _require_length(self.name, produced, self.new_tokens)

    def close(self) -> None:
        self.server.close()

    def _asked(self, prompt: str) -> tuple[int, int]:
        """(tokens read, tokens produced), as the server counts them."""
        from pytest_compsec.models.served.facts import require_model

        reply = self.server.complete(
            self.messages(prompt), max_tokens=self.new_tokens, extra=self.template
        )
        require_model(self.label, self.server.served.pin, reply)
        usage = reply.get("usage")
        counts = [
            usage.get(key) if isinstance(usage, Mapping) else None
            for key in ("prompt_tokens", "completion_tokens")
        ]
        if not all(isinstance(count, int) and count > 0 for count in counts):
            raise MeasurementError(
                f"{self.label}: {self.server.served.pin} does not say how many tokens it read and "
                "wrote ('usage'), so that requests of the same size cannot be chosen. Serve it "
                "with a server that does"
            )
        read, produced = counts
        assert isinstance(read, int)
        assert isinstance(produced, int)
        return read, produced


def _size(read: int, new_tokens: int, limit: int | None) -> int | None:
    return read if limit is None or read + new_tokens <= limit else None


def _require_length(name: str, produced: int, wanted: int) -> None:
    if produced != wanted:
        raise MeasurementError(
            f"{name}: an answer has {produced} tokens and not {wanted}, the number at which all "
            "were to be cut. Choose a smaller new_tokens"
        )


def _synchronize(device: str) -> None:
    """Wait for a GPU: its work is done later than its calls return."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(torch.device(device))
