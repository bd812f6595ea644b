"""Load ``compsec.yaml``; all that is wrong is reported at once, as ``file:line: message``."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pytest_compsec.config.data_files import BUILTIN_DATA
from pytest_compsec.config.pairs import NAME, pair_id
from pytest_compsec.config.positions import MAX_BYTES, Document, Problem, read_document
from pytest_compsec.config.schema import BUILTIN_PROMPTS, Config, known_keys
from pytest_compsec.errors import ConfigError

CONFIG_NAME = "compsec.yaml"
LOCK_NAME = "compsec.lock"


@dataclasses.dataclass(frozen=True)
class LoadedConfig:
    """A valid config, the file it came from (``path``) and the directory that relative paths in it
    start from (``root``). ``lines`` maps a path of keys to its line in the file."""

    config: Config
    path: Path
    root: Path
    lines: Mapping[tuple[str | int, ...], int] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def lock_path(self) -> Path:
        """``compsec.lock`` beside the config."""
        return self.path.with_name(LOCK_NAME)

    def where(self, *keys: str | int) -> str:
        """``file:line`` of a path of keys, for messages."""
        return f"{self.path}:{self.lines.get(keys, 1)}"


def load_config(path: Path) -> LoadedConfig:
    """Read and validate a config.

    Raises ConfigError with one ``file:line: message`` per line for everything that is wrong.
    """
    path = Path(path)
    document = read_document(read_text(path))
    problems = list(document.problems)
    config: Config | None = None
    if isinstance(document.value, dict):
        problems += _name_problems(document)
        try:
            config = Config.model_validate(document.value, context={"root": path.resolve().parent})
            problems += _recipe_problems(config, document)
        except ValidationError as error:
            problems += [_problem(detail, document) for detail in error.errors()]
    elif document.value is not None:
        problems.append(Problem(1, "must be a mapping that begins with 'version: 1'"))
    if problems or config is None:
        problems.sort(key=lambda problem: problem.line)
        unique = dict.fromkeys(f"{path}:{item.line}: {item.message}" for item in problems)
        raise ConfigError("\n".join(unique))
    return LoadedConfig(config, path, path.resolve().parent, document.lines)


def read_text(path: Path) -> str:
    """The text of a config. Raises ConfigError where it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such file. `compsec init ORIGINAL COMPRESSED...` writes one"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}:1: cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}:1: is larger than {MAX_BYTES // 1024} KiB; the wrong file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8 text") from None


def _name_problems(document: Document) -> Iterator[Problem]:
    """Names and pair ids, read from the raw values so that other errors do not hide them."""
    seen: dict[str, str] = {}
    models = _mapping(document.value.get("models"))
    for model, entry in models.items():
        yield from _bad_name(document, ("models", model))
        for variant in _mapping(_mapping(entry).get("compressed")):
            path = ("models", model, "compressed", variant)
            yield from _bad_name(document, path)
            identifier = pair_id(model, variant)
            origin = f"variant {variant!r} of model {model!r}"
            if identifier in seen:
                yield Problem(
                    document.line(path),
                    f"{origin} and {seen[identifier]} are both {identifier!r} in test names: "
                    "rename one of them",
                )
            seen.setdefault(identifier, origin)
    for name in _mapping(document.value.get("prompts")):
        yield from _bad_name(document, ("prompts", name))
        if name in BUILTIN_PROMPTS:
            yield Problem(
                document.line(("prompts", name)),
                f"{name!r} is the name of a built-in prompt set: choose another name",
            )
    for name in _mapping(document.value.get("data")):
        yield from _bad_name(document, ("data", name))
        if name in BUILTIN_DATA:
            yield Problem(
                document.line(("data", name)),
                f"{name!r} is the name of built-in data: choose another name",
            )


def _recipe_problems(config: Config, document: Document) -> Iterator[Problem]:
    """Recipes that do not fit their model's task, or that name prompt sets which are not there or
    from which verdicts come."""
    for name, model in config.models.items():
        for key, variant in model.compressed.items():
            keys = ("models", name, "compressed", key)
            for problem in (
                *config.unusable_prompt_sets(variant),
                *config.unusable_methods(model.task, variant),
            ):
                yield Problem(document.line(keys), f"{'.'.join(keys)}: {problem}")


def _bad_name(document: Document, path: tuple[str, ...]) -> Iterator[Problem]:
    if NAME.fullmatch(path[-1]) is None:
        yield Problem(
            document.line(path),
            f"the name {path[-1]!r} must be 1 to 64 of the characters A-Z a-z 0-9 . _ + - "
            "and begin with a letter or a digit",
        )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _problem(detail: ErrorDetails, document: Document) -> Problem:
    location = tuple(detail["loc"])
    line = document.line(location)
    where = ".".join(str(part) for part in location)
    kind = detail["type"]
    context = detail.get("ctx", {})
    if kind == "extra_forbidden":
        known = known_keys(location[:-1])
        return Problem(line, f"unknown key {str(location[-1])!r}{_suggest(location[-1], known)}")
    if kind == "missing":
        inside = f" in {'.'.join(map(str, location[:-1]))}" if location[:-1] else ""
        return Problem(line, f"the key {str(location[-1])!r} is missing{inside}")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        known = tuple(str(context.get("expected_tags", "")).replace("'", "").split(", "))
        tag = context.get("tag")
        if tag is None:
            return Problem(line, f"{where}: names no 'method'; known: {', '.join(known)}")
        return Problem(line, f"{where}: unknown method {tag!r}{_suggest(tag, known)}")
    if kind == "value_error":
        return Problem(line, f"{where}: {context['error']}")
    if location == ("version",):
        return Problem(
            line, f"'version' is {detail['input']!r}; this release reads version 1 of this file"
        )
    found = detail["input"]
    quotes = " (put it in quotes)" if kind == "string_type" and found is not None else ""
    return Problem(line, f"{where}: {_plain(detail['msg'])}; found {_shown(found)}{quotes}")


def _plain(message: str) -> str:
    message = message.replace("Input should be", "must be").replace("a valid string", "text")
    return re.sub(r"a valid dictionary( or instance of \w+)?", "a mapping", message)


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _suggest(name: object, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known here: {', '.join(known)}" if known else ""
