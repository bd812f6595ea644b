"""``judge:`` of ``compsec.yaml``: which judge says whether a response is a refusal.

One for the whole file: a name (``refusal``, ``keywords``), or a mapping with one key, the kind of
judge, and its options. What each option does is said in :mod:`pytest_compsec.judges`.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from pytest_compsec.config.endpoints import ServerFields
from pytest_compsec.config.sections import Placement, Section, SourceEntry, check_source
from pytest_compsec.config.source_text import SourceText, classify, is_file, path_of
from pytest_compsec.errors import ConfigError
from pytest_compsec.extensions import judge_kinds

#: Values of ``refusal_when`` that say themselves what the other outcome is called.
REPLY_WORDS = {"refused": "answered", "safe": "unsafe"}
#: Value of ``template``: the judge's own chat template reads the prompt and the response as turns.
CONVERSATION = "conversation"
_TEMPLATE_SUFFIXES = (".jinja", ".j2", ".txt")


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


TextList = Annotated[list[str], BeforeValidator(_one_or_more)]


class RefusalOptions(Section):
    """The built-in judge; it has no options."""


class KeywordOptions(Section):
    """A list of phrases: ``phrases``, or those of ``file`` (one a line), or the built-in list.
    ``per_prompt``: a prompt's own ``refusal_keywords`` decide where it has some."""

    phrases: list[str] | None = None
    """An answer that holds one of them is a refusal."""
    file: str | None = None
    """A file of phrases, one a line, in place of ``phrases``."""
    per_prompt: bool = False
    """Whether a prompt's own ``refusal_keywords`` decide where it has some."""

    @field_validator("phrases")
    @classmethod
    def _phrases_say_something(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and not value:
            raise ValueError("holds no phrase: name at least one, or leave 'phrases' out")
        for phrase in value or ():
            if not re.search(r"\w", phrase):
                raise ValueError(f"the phrase {phrase!r} holds no letter or digit")
        return value

    @model_validator(mode="after")
    def _one_list(self, info: ValidationInfo) -> KeywordOptions:
        if self.phrases is not None and self.file is not None:
            raise ValueError("has 'phrases' and 'file': exactly one of them decides")
        if self.file is not None and not is_file(path_of(self.file, _root(info))):
            raise ValueError(f"{self.file!r} is no file (paths are relative to this file)")
        return self


class ModelJudgeOptions(Placement):
    """A judge that is a model: its files are pinned and verified like every model's."""

    source: str
    """Where the judge's files are, as of a model."""
    revision: str | None = None
    """The 40-hex commit of a Hugging Face id."""
    allow_moving_revision: bool = False
    """Lets ``compsec pin`` resolve a branch or a tag."""

    @model_validator(mode="after")
    def _source_and_revision_fit(self, info: ValidationInfo) -> ModelJudgeOptions:
        check_source(self.source, self.revision, self.allow_moving_revision, None, info)
        return self

    def as_source(self) -> SourceEntry:
        """The source alone, as models have one."""
        # Validated already, with the root in its context; validating again would lack the root.
        return SourceEntry.model_construct(
            source=self.source,
            revision=self.revision,
            allow_moving_revision=self.allow_moving_revision,
            adapter=None,
            dtype=self.dtype,
            device=self.device,
        )

    def classified(self, root: Path) -> SourceText:
        """What the text of the source means."""
        return classify(self.source, self.revision, self.allow_moving_revision, root)


class ClassifierOptions(ModelJudgeOptions):
    """A Hugging Face text-classification model. ``refusal_label``: its label for a refusal (or
    several); ``threshold``: the probability from which a response is one; ``template``: jinja
    text (or a file) over ``prompt`` and ``response``, when it reads more than the response."""

    refusal_label: Annotated[TextList, Field(min_length=1)]
    """The classifier's label for a refusal, or several."""
    threshold: float = Field(default=0.5, gt=0.0, lt=1.0)
    """The probability of that label from which an answer is a refusal."""
    template: str | None = None
    """Jinja text, or a file of it, over ``prompt`` and ``response``; left out, it reads the
    response alone."""

    @field_validator("template")
    @classmethod
    def _template_works(cls, value: str | None, info: ValidationInfo) -> str | None:
        return _checked_template(value, info, conversation=False)

    @model_validator(mode="after")
    def _is_no_gguf(self, info: ValidationInfo) -> ClassifierOptions:
        if self.source.lower().endswith(".gguf"):
            raise ValueError("a classifier is a model directory or a hub id, never a .gguf file")
        return self


class ReplyOptions(Section):
    """How a judge that writes text is asked and how its reply is read.

    ``refusal_when``: ``refused`` (our question), ``safe`` (a safety judge of the Llama Guard
    kind), or a regular expression that the reply of a refusal matches; it then needs
    ``answered_when`` for the other outcome. A reply that is neither is not judged.
    """

    refusal_when: str = "refused"
    """``refused`` (our question), ``safe`` (a safety judge), or a regular expression that the
    reply matches when the answer is a refusal."""
    answered_when: str | None = None
    """A regular expression of the other outcome; needed beside one of your own."""
    template: str | None = None
    """Jinja text, or a file of it, over ``prompt`` and ``response``; or ``conversation``: the
    judge's own chat template."""
    max_new_tokens: int = Field(default=16, ge=1, le=4096)
    """The most tokens of the judge's reply."""

    @field_validator("refusal_when", "answered_when")
    @classmethod
    def _is_a_pattern(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                pattern = re.compile(value)
            except re.error as error:
                raise ValueError(f"{value!r} is no regular expression ({error})") from None
            if pattern.search(""):
                raise ValueError(f"{value!r} matches an empty reply, so it says nothing")
        return value

    @field_validator("template")
    @classmethod
    def _template_works(cls, value: str | None, info: ValidationInfo) -> str | None:
        return _checked_template(value, info, conversation=True)

    @model_validator(mode="after")
    def _both_outcomes_are_named(self) -> ReplyOptions:
        known = self.refusal_when in REPLY_WORDS
        if known and self.answered_when is not None:
            raise ValueError(
                f"refusal_when: {self.refusal_when} needs no 'answered_when': the other outcome "
                f"is {REPLY_WORDS[self.refusal_when]!r}"
            )
        if not known and self.answered_when is None:
            raise ValueError(
                "a 'refusal_when' of your own needs 'answered_when', the pattern of the other "
                "outcome: a reply that matches neither is not judged"
            )
        if not known and self.template is None:
            raise ValueError(
                "a 'refusal_when' of your own needs a 'template' that asks for it (jinja text or "
                f"a file), or 'template: {CONVERSATION}' for a judge whose chat template does"
            )
        return self


class GenerativeOptions(ReplyOptions, ModelJudgeOptions):
    """A causal language model that is asked about each response."""


class EndpointOptions(ReplyOptions, ServerFields):
    """An OpenAI-compatible server. ``retries`` are further tries; ``concurrency`` requests are
    under way at a time."""

    retries: int = Field(default=3, ge=0, le=20)
    """Further tries of a request that failed."""
    concurrency: int = Field(default=8, ge=1, le=256)
    """Requests under way at a time."""


#: Kind of judge -> its options.
JUDGE_OPTIONS: dict[str, type[BaseModel]] = {
    "refusal": RefusalOptions,
    "keywords": KeywordOptions,
    "classifier": ClassifierOptions,
    "generative": GenerativeOptions,
    "endpoint": EndpointOptions,
}
_OURS = frozenset(JUDGE_OPTIONS)
for _name, _kind in judge_kinds().items():
    if _name in _OURS:
        raise ConfigError(f"a plugin registers the judge {_name!r}, which is one of ours")
    JUDGE_OPTIONS[_name] = _kind.options
_NAMED_ALONE = ("refusal", "keywords")


class JudgeFields(Section):
    """The judge: exactly one of these is set, or one that another distribution registers."""

    refusal: RefusalOptions | None = None
    """The built-in judge."""
    keywords: KeywordOptions | None = None
    """Looks for phrases."""
    classifier: ClassifierOptions | None = None
    """A text-classification model."""
    generative: GenerativeOptions | None = None
    """A language model that is asked about each answer."""
    endpoint: EndpointOptions | None = None
    """A language model behind a server."""

    @model_validator(mode="before")
    @classmethod
    def _a_name_alone(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value in _NAMED_ALONE:
            return {value: {}}
        if value in JUDGE_OPTIONS:
            raise ValueError(f"the judge {value!r} needs options: judge: {{{value}: {{...}}}}")
        close = difflib.get_close_matches(value, JUDGE_OPTIONS, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(JUDGE_OPTIONS)}"
        raise ValueError(f"unknown judge {value!r}; {hint}")

    @model_validator(mode="after")
    def _exactly_one(self) -> JudgeFields:
        named = [name for name in JUDGE_OPTIONS if getattr(self, name) is not None]
        if not named:
            raise ValueError(f"names no judge: give one of {', '.join(JUDGE_OPTIONS)}")
        if len(named) > 1:
            raise ValueError(f"has {' and '.join(map(repr, named))}: exactly one judge decides")
        return self

    @property
    def name(self) -> str:
        """The kind of judge, which is its name in the lock and the reports."""
        return next(name for name in JUDGE_OPTIONS if getattr(self, name) is not None)

    @property
    def plugin(self) -> BaseModel | None:
        """The options of a judge of another distribution, else None."""
        return None if self.name in _OURS else getattr(self, self.name)

    @property
    def model(self) -> ModelJudgeOptions | None:
        """The options of a judge that has model files, else None."""
        return self.classifier or self.generative


if TYPE_CHECKING:
    JudgeEntry = JudgeFields
else:
    JudgeEntry = create_model(
        "JudgeEntry",
        __base__=JudgeFields,
        **{name: (JUDGE_OPTIONS[name] | None, None) for name in JUDGE_OPTIONS if name not in _OURS},
    )
DEFAULT_JUDGE = JudgeEntry(refusal=RefusalOptions())


def template_text(template: str, root: Path) -> str:
    """The template itself: the content of the file that ``template`` names, or the text.

    Raises OSError or UnicodeDecodeError for a file that cannot be read.
    """
    path = root / Path(template).expanduser() if _is_path(template) else None
    return path.read_text(encoding="utf-8") if path is not None else template


def _is_path(template: str) -> bool:
    return "\n" not in template and template.lower().endswith(_TEMPLATE_SUFFIXES)


def _checked_template(value: str | None, info: ValidationInfo, *, conversation: bool) -> str | None:
    """A template must exist, be jinja, and read the response and nothing unknown."""
    if value is None or (conversation and value == CONVERSATION):
        return value
    import jinja2
    from jinja2 import meta

    try:
        text = template_text(value, _root(info))
        known = meta.find_undeclared_variables(jinja2.Environment().parse(text))
    except (OSError, UnicodeDecodeError):
        raise ValueError(
            f"{value!r} is no readable text file (paths are relative to this file)"
        ) from None
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(
            f"is no jinja template (its line {error.lineno}: {error.message})"
        ) from None
    if "response" not in known:
        raise ValueError("never shows the response: write {{ response }} where it belongs")
    unknown = sorted(known - {"prompt", "response"})
    if unknown:
        raise ValueError(f"reads {unknown[0]!r}; there are only 'prompt' and 'response'")
    from pytest_compsec.judges.replies import template_problem

    problem = template_problem(text)
    if problem is not None:
        raise ValueError(f"the template {problem}")
    return value


def _root(info: ValidationInfo) -> Path:
    root: Path = info.context["root"] if info.context else Path.cwd()
    return root
