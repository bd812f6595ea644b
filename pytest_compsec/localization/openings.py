"""Which tokens open a model's refusals: learned from its own answers, where it refuses enough."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from pytest_compsec.localization.subject import Subject

#: So many tokens of an answer are enough to see whether it refuses.
ANSWER_TOKENS = 24


@dataclasses.dataclass(frozen=True)
class Openings:
    """Token ids, how each reads, and where they come from."""

    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    source: Literal["given", "learned", "built-in"]

    def to_json(self) -> dict[str, Any]:
        return {"tokens": list(self.tokens), "texts": list(self.texts), "source": self.source}


def find_openings(
    subject: Subject,
    prompts: Sequence[str],
    given: Sequence[int] | None = None,
    *,
    benign: Sequence[str] = (),
    judge: Any = None,
) -> Openings:
    """``given``, or what opens the refusals among the subject's own short answers to ``prompts``
    and to ``benign`` ones (:func:`pytest_compsec.judges.log_odds.learned_openings`), as ``judge``
    (the built-in judge of refusals) sees them; the built-in list where that is too little.

    Raises ValueError for given openings that are no token ids.
    """
    from pytest_compsec.generation.decoding import generate_answers
    from pytest_compsec.generation.settings import GenerationSettings
    from pytest_compsec.judges.log_odds import builtin_openings, learned_openings
    from pytest_compsec.judges.refusal import RefusalJudge

    if given is not None:
        if not given or not all(isinstance(token, int) and token >= 0 for token in given):
            raise ValueError(f"openings={given!r} must be a list of token ids")
        return _openings(subject, given, "given")
    asked = [*prompts, *benign]
    answers = generate_answers(
        subject.module,
        subject.tokenizer,
        asked,
        GenerationSettings(max_new_tokens=ANSWER_TOKENS),
        device=subject.device,
        system=subject.system,
        chat_template_kwargs=subject.chat_template_kwargs,
    )
    judged = (judge or RefusalJudge()).refusals(asked, [answer.text for answer in answers])
    first = [
        (answer.first[0][0], refused)
        for answer, refused in zip(answers, judged, strict=True)
        if answer.first
    ]
    learned = learned_openings(
        [token for token, refused in first if refused],
        [token for token, refused in first if refused is False],
    )
    if learned:
        return _openings(subject, learned, "learned")
    return _openings(subject, builtin_openings(subject.tokenizer), "built-in")


def _openings(
    subject: Subject, tokens: Sequence[int], source: Literal["given", "learned", "built-in"]
) -> Openings:
    chosen = tuple(sorted(set(tokens)))
    return Openings(chosen, tuple(str(subject.tokenizer.decode([one])) for one in chosen), source)
