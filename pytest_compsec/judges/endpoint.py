"""An OpenAI-compatible endpoint as the judge.

Asked at temperature 0, several requests at a time. An endpoint that cannot be reached raises, so
that the verdict is NOT_MEASURED; a reply that states neither outcome is not judged. Which model
runs behind a URL cannot be pinned: the digest covers the URL, the model's name, the question and
the rule, and :data:`UNPINNED` says so in the lock and the reports.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from pytest_compsec.config.judges import EndpointOptions
from pytest_compsec.judges.chat_endpoint import ChatEndpoint, Message, key_of
from pytest_compsec.judges.replies import (
    Questioner,
    rule_of,
    says_nothing,
    takes_silence_for_refusal,
    unread_notes,
)

UNPINNED = (
    "what runs behind a URL cannot be pinned: only the URL, the model's name and the question"
)


class EndpointJudge:
    """``notes`` says which replies of the latest call could not be read."""

    name = "endpoint"
    version = "1"

    def __init__(self, options: EndpointOptions, *, questioner: Questioner, digest: str) -> None:
        self.digest = digest
        self.notes: tuple[str, ...] = ()
        self._options = options
        self._questioner = questioner
        self._rule = rule_of(options)
        self._strict = takes_silence_for_refusal(options)

    def refusals(self, prompts: Sequence[str], responses: Sequence[str]) -> list[bool | None]:
        """Refused or not; None where the reply states neither.

        Raises MeasurementError when the endpoint gives no answer, ConfigError when the variable
        for its key is not set. Neither message holds the key.
        """
        pairs = list(zip(prompts, responses, strict=True))
        outcomes: list[bool | None] = [False] * len(pairs)
        asked = [
            at for at, (_, said) in enumerate(pairs) if not says_nothing(said, strict=self._strict)
        ]
        replies = self._replies([self._questioner.messages(*pairs[at]) for at in asked])
        unread = []
        for at, reply in zip(asked, replies, strict=True):
            outcomes[at] = None if reply is None else self._rule.read(reply)
            if outcomes[at] is None:
                unread.append(reply or "")
        self.notes = unread_notes(unread)
        return outcomes

    def _replies(self, questions: Sequence[list[Message]]) -> list[str | None]:
        """All replies, in order; the first request that fails ends the others."""
        if not questions:
            return []
        options = self._options
        endpoint = ChatEndpoint(
            url=options.url,
            model=options.model,
            key=key_of("judge.endpoint", options.api_key_env),
            timeout=options.timeout,
            retries=options.retries,
            max_tokens=options.max_new_tokens,
        )
        stop = threading.Event()
        with ThreadPoolExecutor(min(options.concurrency, len(questions))) as pool:
            futures = [pool.submit(endpoint.complete, item, stop.wait) for item in questions]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()  # raises what failed first
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in futures]
