"""A causal language model as the judge: it is asked about each response and its reply is read.

With ``refusal_when: safe`` the model is a safety judge of the Llama Guard kind (Inan et al. 2023,
arXiv 2312.06674): its own chat template makes the question of prompt and response, and ``safe``
counts as a refusal. That is another question than "was it refused?": a harmless answer to a
harmful prompt is ``safe`` too, so the two rates differ, and on benign prompts nearly everything
is ``safe``. Empty and degenerate text is never taken for a refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pytest_compsec.config.judges import GenerativeOptions
from pytest_compsec.errors import LoadError
from pytest_compsec.generation.chat import render
from pytest_compsec.generation.settings import GenerationSettings
from pytest_compsec.judges.replies import (
    Questioner,
    rule_of,
    says_nothing,
    takes_silence_for_refusal,
    unread_notes,
)
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.loaded import LoadedModel


class GenerativeJudge:
    """``load`` gives the judge's model in memory (the pool's door); ``digest`` covers its files,
    the question and the rule. ``notes`` says which replies of the latest call could not be read."""

    name = "generative"
    version = "1"

    def __init__(
        self,
        options: GenerativeOptions,
        arm: Arm,
        *,
        questioner: Questioner,
        load: Callable[[Arm], LoadedModel],
        digest: str,
    ) -> None:
        self.digest = digest
        self.notes: tuple[str, ...] = ()
        self._arm = arm
        self._questioner = questioner
        self._load = load
        self._rule = rule_of(options)
        self._strict = takes_silence_for_refusal(options)
        self._settings = GenerationSettings(max_new_tokens=options.max_new_tokens)

    def refusals(self, prompts: Sequence[str], responses: Sequence[str]) -> list[bool | None]:
        """Refused or not; None where the judge's reply states neither.

        Raises IntegrityError when the judge's files changed, LoadError when it cannot be loaded
        or has no chat template, MeasurementError when it cannot answer.
        """
        pairs = list(zip(prompts, responses, strict=True))
        outcomes: list[bool | None] = [False] * len(pairs)
        asked = [
            at for at, (_, said) in enumerate(pairs) if not says_nothing(said, strict=self._strict)
        ]
        if not asked:
            return outcomes
        replies = self._replies([pairs[at] for at in asked])
        unread = []
        for at, reply in zip(asked, replies, strict=True):
            outcomes[at] = None if reply is None else self._rule.read(reply)
            if outcomes[at] is None:
                unread.append(reply or "")
        self.notes = unread_notes(unread)
        self._arm.recheck()
        return outcomes

    def _replies(self, pairs: Sequence[tuple[str, str]]) -> list[str | None]:
        """The reply to each pair; None where it was cut inside a reasoning block."""
        from pytest_compsec.generation.decoding import generate_answers
        from pytest_compsec.generation.reasoning import special_texts
        from pytest_compsec.models.quiet import quiet

        model = self._load(self._arm)
        specials = special_texts(model.tokenizer)
        with quiet():
            rendered = [
                _rendered(model.tokenizer, self._questioner.messages(*pair, specials))
                for pair in pairs
            ]
            answers = generate_answers(
                model.module,
                _Rendered(model.tokenizer),
                rendered,
                self._settings,
                device=model.device,
            )
        return [None if answer.in_reasoning else answer.text for answer in answers]


class _Rendered:
    """A tokenizer for texts that its chat template was applied to already: a conversation of two
    turns cannot be handed on as one prompt."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._tokenizer(*args, **options)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def apply_chat_template(self, messages: Sequence[dict[str, str]], **options: Any) -> str:
        return messages[0]["content"]


def _rendered(tokenizer: Any, messages: Sequence[dict[str, str]]) -> str:
    """The text that the judge reads, checked to hold what it is to judge."""
    if len(messages) == 1:
        return render(tokenizer, messages[0]["content"])
    if not getattr(tokenizer, "chat_template", None):
        raise LoadError(
            "the judge's tokenizer has no chat template, so it cannot be asked as it was trained. "
            "Add the template to the tokenizer and pin again with `compsec pin`"
        )
    try:
        text = str(
            tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            )
        )
    except Exception as error:  # whatever a template raises, jinja errors among it
        raise LoadError(
            f"the judge's chat template cannot be applied ({type(error).__name__}: {error})"
        ) from error
    for message in messages:
        if "".join(message["content"].split()) not in "".join(text.split()):
            raise LoadError(
                f"the judge's chat template dropped what the {message['role']} said; name a "
                "'template' that puts prompt and response into one message"
            )
    return text
