"""The schema of ``compsec.yaml``. Every model refuses unknown keys and silent conversions.

A variant is another source, or one derivation of its original; the derivations come from
:data:`pytest_compsec.compression.methods.METHODS`, so a new method needs no change here.
Validation needs the context ``{"root": Path}``, the directory that holds the file.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    JsonValue,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from pytest_compsec.compression.methods import methods_of, sections
from pytest_compsec.compression.options.base import Options, named_prompt_sets
from pytest_compsec.config.backdoors import BackdoorEntry
from pytest_compsec.config.data_files import DataEntry
from pytest_compsec.config.endpoints import EndpointEntry
from pytest_compsec.config.judges import DEFAULT_JUDGE, JUDGE_OPTIONS, JudgeEntry
from pytest_compsec.config.sections import (
    DTYPES,
    Placement,
    Section,
    SourceEntry,
    check_adapter,
    check_endpoint,
    check_file,
    check_runtime,
    check_source,
    check_weights,
)
from pytest_compsec.config.signatures import SignatureEntry, SigstoreIdentity, check_signature
from pytest_compsec.config.source_text import is_file, path_of

BUILTIN_PROMPTS = ("benign", "harmful", "jailbreak")

__all__ = ["BUILTIN_PROMPTS", "DTYPES", "Config", "Defaults", "ModelEntry", "Placement",
           "PromptEntry", "Section", "SourceEntry", "VariantEntry", "VariantFields",
           "known_keys"]  # fmt: skip


class VariantFields(Placement):
    """A compressed form: another source, a server that answers for one, or exactly one derivation
    of the original."""

    source: str | None = None
    """Where the files are: a directory, a ``.gguf`` file, ``pkg:package/path``,
    ``python:module:function``, or a Hugging Face id."""
    weights: str | None = None
    """The ``.safetensors`` file that fills the module of a ``python:`` source."""
    revision: str | None = None
    """The 40-hex commit of a Hugging Face id."""
    allow_moving_revision: bool = False
    """Lets ``compsec pin`` resolve a branch or a tag, and record the commit in the lock."""
    adapter: str | None = None
    """Directory of a LoRA adapter on top of the source."""
    runtime: Literal["llama-cpp"] | None = None
    """Runs a ``.gguf`` file in llama.cpp as it is; left out, transformers dequantizes it."""
    endpoint: EndpointEntry | None = None
    """The server that answers, in place of files."""
    signature: SignatureEntry | None = None
    """By whom the files must be signed, checked before anything is opened."""

    @model_validator(mode="after")
    def _one_origin(self, info: ValidationInfo) -> VariantFields:
        if self.endpoint is not None:
            check_endpoint(self)
            return self
        choices = " or ".join(repr(section) for section in sections())
        derivations = [name for name in sections() if getattr(self, name) is not None]
        if self.source is None and not derivations:
            raise ValueError(
                f"names no source: give it 'source', 'endpoint', or derive it with {choices}"
            )
        if len(derivations) + (self.source is not None) > 1:
            named = ["source"] * (self.source is not None) + derivations
            raise ValueError(f"has {' and '.join(map(repr, named))}: exactly one of them decides")
        if self.source is not None:
            check_source(self.source, self.revision, self.allow_moving_revision, self.adapter, info)
            check_runtime(self.source, self.adapter, self.runtime)
            check_weights(self.source, self.weights, self.adapter, info)
            moving = self.allow_moving_revision
            check_signature(self.source, self.revision, moving, self.signature, info)
        elif any(
            (self.revision, self.allow_moving_revision, self.runtime, self.weights, self.signature)
        ):
            raise ValueError(
                "'revision', 'weights', 'signature' and 'runtime' belong to a variant with its own "
                "'source'; a derived variant takes the original's"
            )
        elif self.adapter is not None:
            check_adapter(self.adapter)
        return self

    @property
    def is_derived(self) -> bool:
        """Whether it is made from the original, by a recipe."""
        return self.source is None and self.endpoint is None

    def as_source(self) -> SourceEntry | None:
        """The variant's own source, or None for a derived variant."""
        if self.endpoint is not None:
            return SourceEntry.model_construct(endpoint=self.endpoint)
        if self.source is None:
            return None
        # Validated already, with the root in its context; validating again would lack the root.
        return SourceEntry.model_construct(
            source=self.source,
            weights=self.weights,
            revision=self.revision,
            allow_moving_revision=self.allow_moving_revision,
            adapter=self.adapter,
            runtime=self.runtime,
            signature=self.signature,
            dtype=self.dtype,
            device=self.device,
        )

    def derivation(self) -> tuple[str, Options] | None:
        """``(section, options)`` of a derived variant, or None for one with its own source."""
        for section in sections():
            options = getattr(self, section)
            if options is not None:
                assert isinstance(options, Options)
                return section, options
        return None


def _derivation_type(section: str) -> Any:
    options: list[Any] = [method.options for method in methods_of(section).values()]
    union = functools.reduce(operator.or_, options)
    if len(options) > 1:
        union = Annotated[union, Field(discriminator="method")]
    return union | None if len(options) == 1 else Annotated[union, ...] | None


if TYPE_CHECKING:
    VariantEntry = VariantFields
else:
    VariantEntry = create_model(
        "VariantEntry",
        __base__=VariantFields,
        __doc__=VariantFields.__doc__,
        **{section: (_derivation_type(section), None) for section in sections()},
    )


class ModelEntry(Placement):
    """One original and its compressed forms, which share system prompt and template arguments."""

    original: SourceEntry
    """The model before compression."""
    compressed: dict[str, VariantEntry]
    """The compressed forms by name; ``MODEL-NAME`` is the pair in test ids and reports."""
    task: Literal["text-generation", "image-classification", "text-classification"] = (
        "text-generation"
    )
    """What kind of model it is; checks for another kind leave it alone."""
    system: str | None = None
    """System prompt of both models, in front of every prompt."""
    chat_template_kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    """Further arguments of the chat template, for both models."""
    evaluation_data: str | None = None
    """The samples of a classifier with their labels: ``.safetensors`` for images, ``.jsonl``
    for texts."""
    backdoor: BackdoorEntry | None = None
    """The trigger that the backdoor checks put on inputs, and its target."""

    @model_validator(mode="after")
    def _only_files_here_derive(self) -> ModelEntry:
        derived = [name for name, variant in self.compressed.items() if variant.is_derived]
        if self.original.endpoint is not None and derived:
            raise ValueError(
                "the original is served (endpoint), and nothing can be derived from a model whose "
                f"weights are not here, but {', '.join(derived)} has neither 'source' nor "
                "'endpoint'. Give it one, or name the original's files with 'source'"
            )
        if self.original.runtime is not None and derived:
            raise ValueError(
                f"the original runs in {self.original.runtime}, which nothing can be derived from, "
                f"but {', '.join(derived)} names no 'source' of its own. Leave 'runtime' out"
            )
        return self

    @model_validator(mode="after")
    def _parts_fit_the_task(self, info: ValidationInfo) -> ModelEntry:
        if self.evaluation_data is not None:
            suffix = ".jsonl" if self.task == "text-classification" else ".safetensors"
            check_file(self.evaluation_data, (suffix,), "evaluation_data", info)
        problem = self.backdoor.problem_with(self.task) if self.backdoor is not None else None
        problem = problem or task_problem(self)
        if problem is not None:
            raise ValueError(problem)
        return self

    @field_validator("compressed")
    @classmethod
    def _has_a_variant(cls, value: dict[str, VariantEntry]) -> dict[str, VariantEntry]:
        if not value:
            raise ValueError("holds no variant: name at least one compressed form")
        return value

    @field_validator("chat_template_kwargs")
    @classmethod
    def _finite(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if not _is_finite(value):
            raise ValueError("holds a number that is not finite")
        return value


class PromptEntry(Section):
    """A user's own prompt set: a JSONL, CSV or text file, its columns mapped by ``fields``."""

    file: str = Field(min_length=1)
    """A JSONL, CSV or text file, pinned by its bytes."""
    fields: dict[str, str] = Field(default_factory=dict)
    """Names of our fields, each with the column of the file that holds it."""
    select: Literal["safe", "unsafe"] | None = None
    """Which half of a file with both kinds of prompts is the set."""

    @field_validator("file")
    @classmethod
    def _exists(cls, value: str, info: ValidationInfo) -> str:
        root: Path = info.context["root"] if info.context else Path.cwd()
        if not is_file(path_of(value, root)):
            raise ValueError(f"{value!r} is no file (paths are relative to this file)")
        return value


class Defaults(Section):
    """Settings of every check that its marker does not set."""

    max_new_tokens: int = Field(default=64, ge=1, le=8192)
    """The most tokens of an answer."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Of every verdict and interval."""
    batch_size: int | None = Field(default=None, ge=1, le=65536)
    """How many prompts go through a model at once; left out, as many as the free
    memory holds."""


class Config(Section):
    """All of ``compsec.yaml``."""

    version: Literal[1]
    """The version of this format."""
    models: dict[str, ModelEntry]
    """The models under test by name."""
    prompts: dict[str, PromptEntry] = Field(default_factory=dict)
    """Prompt sets of your own by name, beside the built-in ``harmful``, ``benign``,
    ``jailbreak``."""
    data: dict[str, DataEntry] = Field(default_factory=dict)
    """Data files of your own by name, for the checks that name one."""
    judge: JudgeEntry = DEFAULT_JUDGE
    """What decides whether an answer is a refusal: a name, or a mapping of one kind of judge to
    its options."""
    calibration: str | None = Field(default=None, min_length=1)
    """The file that ``compsec calibrate`` wrote: how often this judge errs, which verdicts
    then count in."""
    defaults: Defaults = Field(default_factory=Defaults)
    """Settings of every check that its marker does not set."""

    def unusable_methods(self, task: str, variant: VariantEntry) -> Iterator[str]:
        """What is wrong with a variant's method for models of this task."""
        derivation = variant.derivation()
        if derivation is None:
            return
        section, options = derivation
        name = str(options.model_dump()["method"])
        method = methods_of(section)[name]
        if task != "text-generation" and getattr(options, "keep_in_full_precision", None) == "auto":
            yield (
                "'keep_in_full_precision: auto' chooses layers by refusals, which only language "
                "models have: list the layers by name"
            )
        if task not in method.tasks:
            fitting = [one.name for one in methods_of(section).values() if task in one.tasks]
            yield (
                f"'{section}: {{method: {name}}}' does not work on {task} models; "
                f"these do: {', '.join(fitting) or 'none'}"
            )

    def unusable_prompt_sets(self, variant: VariantEntry) -> Iterator[str]:
        """What is wrong with the prompt sets that a variant's recipe names."""
        derivation = variant.derivation()
        values = derivation[1].model_dump() if derivation is not None else {}
        for option, name in named_prompt_sets(values).items():
            if name in BUILTIN_PROMPTS:
                yield (
                    f"'{option}: {name}' names a built-in set, from which verdicts come: a model "
                    "fitted to the test says nothing. Name a set of your own under 'prompts'"
                )
            elif name not in self.prompts:
                known = ", ".join(self.prompts) or "none"
                yield f"'{option}: {name}' is no set under 'prompts' (there: {known})"

    @field_validator("models")
    @classmethod
    def _has_a_model(cls, value: dict[str, ModelEntry]) -> dict[str, ModelEntry]:
        if not value:
            raise ValueError("holds no model")
        return value


def task_problem(entry: ModelEntry) -> str | None:
    """What of a model does not go with its task; None when all of it does."""
    sources = [entry.original, *(variant.as_source() for variant in entry.compressed.values())]
    named = [source for source in sources if source is not None]
    if entry.task == "text-generation":
        if any(source.weights is not None for source in named):
            return (
                "a python: source needs 'task: image-classification' or "
                "'task: text-classification': language models come as Hugging Face directories or "
                ".gguf files"
            )
        if entry.evaluation_data is not None:
            return "'evaluation_data' belongs to classifiers; language models are asked 'prompts'"
        return None
    for source in named:
        if source.endpoint is not None:
            return "an 'endpoint' answers as a language model; a classifier needs its files"
        if source.runtime is not None or source.source.lower().endswith(".gguf"):
            return f"{source.source!r} is a .gguf file, which holds language models only"
        if source.adapter is not None:
            return "an 'adapter' belongs to a language model; merge it into the classifier"
    if any(variant.adapter is not None for variant in entry.compressed.values()):
        return "an 'adapter' belongs to a language model; merge it into the classifier"
    if entry.system is not None or entry.chat_template_kwargs:
        return "'system' and 'chat_template_kwargs' belong to language models"
    return None


def _is_finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(_is_finite(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(_is_finite(item) for item in value)
    return True


def known_keys(path: tuple[str | int, ...]) -> tuple[str, ...]:
    """The keys that the file allows at a path, for suggestions; empty when any name is allowed."""
    model: type[BaseModel]
    if path == ():
        model = Config
    elif path == ("defaults",):
        model = Defaults
    elif path == ("judge",):
        model = JudgeEntry
    elif path[0] == "judge" and len(path) == 2 and path[1] in JUDGE_OPTIONS:
        model = JUDGE_OPTIONS[str(path[1])]
    elif path[0] == "prompts" and len(path) == 2:
        model = PromptEntry
    elif path[0] == "data" and len(path) == 2:
        model = DataEntry
    elif path[0] == "models" and len(path) == 2:
        model = ModelEntry
    elif path[0] == "models" and len(path) == 3 and path[2] == "original":
        model = SourceEntry
    elif path[0] == "models" and len(path) == 3 and path[2] == "backdoor":
        model = BackdoorEntry
    elif (
        path[0] == "models" and path[-1] == "endpoint" and len(path) == 4 + (path[2] != "original")
    ):
        model = EndpointEntry
    elif path[0] == "models" and "signature" in path[3:]:
        model = SigstoreIdentity if path[-1] == "sigstore" else SignatureEntry
    elif path[0] == "models" and len(path) == 4 and path[2] == "compressed":
        model = VariantEntry
    elif path[0] == "models" and len(path) in (5, 6) and path[2] == "compressed":
        methods = methods_of(str(path[4]))
        name = str(path[5]) if len(path) == 6 else next(iter(methods), "")
        if name not in methods:
            return ()
        model = methods[name].options
    else:
        return ()
    return tuple(model.model_fields)
