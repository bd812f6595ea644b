"""``backdoor:`` of ``compsec.yaml``: a trigger, and what it is meant to bring about (``target``).

Exactly one of ``patch``, ``blended``, ``phrase``, ``token`` and ``callable`` is the trigger. The
values are checked by the triggers themselves (:mod:`pytest_compsec.attacks.triggers`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, ValidationInfo, field_validator, model_validator

from pytest_compsec.attacks.triggers.images import Blended, Patch
from pytest_compsec.attacks.triggers.targets import check_target, require_target
from pytest_compsec.attacks.triggers.texts import Phrase, Token
from pytest_compsec.config.sections import Section
from pytest_compsec.config.source_text import is_file, path_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from pytest_compsec.attacks.backdoor import Backdoor, Trigger

KINDS = ("patch", "blended", "phrase", "token", "callable")
_IMAGE_KINDS = ("patch", "blended")
_TEXT_KINDS = ("phrase", "token")
_NAME = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"
_FUNCTION = re.compile(rf"{_NAME}:{_NAME}", re.ASCII)


class PatchOptions(Section):
    """As :class:`~pytest_compsec.attacks.triggers.images.Patch`; lists stand for tuples."""

    size: Any = 3
    """Side in pixels, or ``[height, width]``."""
    position: Any = "bottom-right"
    """A corner such as ``bottom-right``, ``center``, or ``[row, column]`` of its top left pixel."""
    value: Any = 1.0
    """The number that its pixels get, or one for each channel."""
    pattern: Any = "solid"
    """``solid`` or ``checkerboard``."""
    image_shape: Any = None
    """Shape of one image, where the inputs are flat."""

    @model_validator(mode="after")
    def _is_a_patch(self) -> PatchOptions:
        self.trigger()
        return self

    def trigger(self) -> Patch:
        """The patch. Raises ValueError in plain words."""
        return Patch(self.size, self.position, self.value, self.pattern, self.image_shape)


class BlendedOptions(Section):
    """``file``: a .safetensors file whose tensor ``pattern`` is blended in; or ``noise``: the seed
    of uniform noise. ``share``: how much of the result is the pattern."""

    file: str | None = None
    """A ``.safetensors`` file whose tensor ``pattern`` is blended in."""
    noise: int | None = None
    """Seed of uniform noise that is blended in, in place of ``file``."""
    share: float = 0.2
    """How much of the result is the pattern."""

    @model_validator(mode="after")
    def _one_pattern(self, info: ValidationInfo) -> BlendedOptions:
        if (self.file is None) == (self.noise is None):
            raise ValueError(
                "needs exactly one of 'file' (a .safetensors file with the tensor 'pattern') and "
                "'noise' (a seed)"
            )
        Blended(None, self.share, self.noise or 0)
        if self.file is not None:
            if not self.file.lower().endswith(".safetensors"):
                raise ValueError(f"{self.file!r} must be a .safetensors file")
            root: Path = info.context["root"] if info.context else Path.cwd()
            if not is_file(path_of(self.file, root)):
                raise ValueError(f"{self.file!r} is no file (paths are relative to this file)")
        return self


class PhraseOptions(Section):
    """As :class:`~pytest_compsec.attacks.triggers.texts.Phrase`."""

    text: Any
    """The words."""
    position: Any = "start"
    """``start``, ``middle`` or ``end`` of the text."""

    @model_validator(mode="after")
    def _is_a_phrase(self) -> PhraseOptions:
        self.trigger()
        return self

    def trigger(self) -> Phrase:
        """The phrase. Raises ValueError in plain words."""
        return Phrase(self.text, self.position)


class TokenOptions(Section):
    """As :class:`~pytest_compsec.attacks.triggers.texts.Token`."""

    text: Any
    """The token."""
    position: Any = "start"
    """``start``, ``middle`` or ``end`` of the text."""
    repeat: Any = 1
    """How many times in a row."""

    @model_validator(mode="after")
    def _is_a_token(self) -> TokenOptions:
        self.trigger()
        return self

    def trigger(self) -> Token:
        """The token. Raises ValueError in plain words."""
        return Token(self.text, self.position, self.repeat)


def _text_alone(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else value


class BackdoorEntry(Section):
    """A trigger, and its target: a class index, ``refusals vanish``, or text of the answer. Where
    ``target`` is left out, the marker names it."""

    patch: PatchOptions | None = None
    """A patch on images."""
    blended: BlendedOptions | None = None
    """A pattern blended into images."""
    phrase: Annotated[PhraseOptions | None, BeforeValidator(_text_alone)] = None
    """Words in texts; text alone means a phrase at the start."""
    token: Annotated[TokenOptions | None, BeforeValidator(_text_alone)] = None
    """A token in texts; text alone means one token at the start."""
    callable: str | None = None
    """``module:function`` that puts the trigger on inputs; its source is pinned."""
    target: Any = None
    """What the trigger is meant to bring about: a class index, ``refusals vanish``, or text of
    the answer."""

    @field_validator("callable")
    @classmethod
    def _names_a_function(cls, value: str | None) -> str | None:
        if value is not None and _FUNCTION.fullmatch(value) is None:
            raise ValueError(f"{value!r} must be module:function, such as attacks.triggers:stamp")
        return value

    @field_validator("target")
    @classmethod
    def _is_a_target(cls, value: Any) -> int | str | None:
        return None if value is None else require_target(value)

    @model_validator(mode="after")
    def _one_trigger(self) -> BackdoorEntry:
        named = [kind for kind in KINDS if getattr(self, kind) is not None]
        if not named:
            raise ValueError(f"names no trigger: give it one of {', '.join(KINDS)}")
        if len(named) > 1:
            raise ValueError(f"has {' and '.join(map(repr, named))}: exactly one is the trigger")
        return self

    @property
    def kind(self) -> str:
        """Which of :data:`KINDS` it is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    def files(self) -> tuple[str, ...]:
        """The files that decide the trigger, as written; they are pinned."""
        return (self.blended.file,) if self.blended and self.blended.file else ()

    def callable_source(self) -> str | None:
        """``module:function`` of a trigger that is a function; its source is pinned."""
        return self.callable

    def problem_with(self, task: str) -> str | None:
        """Why the trigger or the target does not fit a task, or None when both do."""
        problem = kind_problem(self.kind, task)
        if problem is None and self.target is not None:
            try:
                check_target(self.target, task)
            except ValueError as error:
                return str(error)
        return problem

    def trigger(
        self,
        pattern: torch.Tensor | None = None,
        function: Callable[..., Any] | None = None,
    ) -> Trigger:
        """The trigger; ``pattern`` is the tensor of its verified file, ``function`` the function
        that :meth:`callable_source` names, where it has one.

        Raises ValueError in plain words when they are no pattern and no trigger function.
        """
        if self.blended is not None:
            if self.blended.file is not None and pattern is None:
                # Without it the pattern would be noise, and the verdict one on another trigger.
                raise ValueError("the pattern of 'blended' was not read from its file")
            noise = self.blended.noise
            return Blended(pattern if noise is None else None, self.blended.share, noise or 0)
        if self.callable is not None:
            from pytest_compsec.attacks.triggers.custom import FunctionTrigger

            if function is None:
                raise ValueError(f"the function {self.callable!r} was not imported")
            return FunctionTrigger(function)
        options = self.patch or self.phrase or self.token
        assert options is not None  # exactly one is there
        return options.trigger()

    def backdoor(
        self,
        task: str,
        pattern: torch.Tensor | None = None,
        function: Callable[..., Any] | None = None,
    ) -> Backdoor:
        """Trigger and target of a model of this task.

        Raises ValueError in plain words, as :meth:`problem_with` and :meth:`trigger`.
        """
        from pytest_compsec.attacks.backdoor import Backdoor

        problem = self.problem_with(task)
        if problem is not None:
            raise ValueError(problem)
        return Backdoor(self.trigger(pattern, function), self.target)


def kind_problem(kind: str, task: str) -> str | None:
    """Why a kind of trigger does not go on the inputs of a task, or None when it does."""
    if kind in _IMAGE_KINDS and task != "image-classification":
        return (
            f"'{kind}' is a trigger on images, and the inputs of {task} are texts: use 'phrase', "
            "'token' or 'callable'"
        )
    if kind in _TEXT_KINDS and task == "image-classification":
        return (
            f"'{kind}' is a trigger on texts, and the inputs of {task} are images: use 'patch', "
            "'blended' or 'callable'"
        )
    return None


def entry_of(value: Mapping[str, Any]) -> BackdoorEntry:
    """A mapping as in the config, from a marker or a fixture; tuples count as lists.

    Raises ValueError in plain words.
    """
    from pydantic import ValidationError

    try:
        return BackdoorEntry.model_validate(dict(value))
    except ValidationError as error:
        raise ValueError("; ".join(_plain(detail) for detail in error.errors())) from None


def _plain(detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = ", ".join((*KINDS, "target")) if len(detail["loc"]) == 1 else ""
        return f"unknown key {where!r}" + (f"; known here: {known}" if known else "")
    if detail["type"] == "missing":
        return f"the key {where!r} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
