"""The project's own prompt sets, read from the package and checked against their digests.

``jailbreak`` has no file of its own: it is made when it is loaded, from the harmful prompts and the
transforms of :mod:`pytest_compsec.attacks.prompts`. Its digest covers the finished texts, so that a
change of either shows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_compsec.errors import CompsecError, IntegrityError

from .files import prompts_from_rows
from .model import PromptSet, make_prompt_set
from .tables import parse_rows

INDEX = "sets.json"

#: Sets that wrap the prompts of another: their entry names the other's file.
WRAPPED = {"jailbreak": "harmful"}


@dataclass(frozen=True)
class SetEntry:
    """What ``sets.json`` says of one set; ``digest`` as :func:`prompt_digest` computes it. ``file``
    holds its prompts, or for a set of :data:`WRAPPED` those that are wrapped."""

    version: str
    file: str
    description: str
    digest: str


def builtin_names() -> tuple[str, ...]:
    """The names that :func:`load_builtin` knows, sorted."""
    return tuple(sorted(read_index(_data())))


def load_builtin(name: str) -> PromptSet:
    """The built-in set ``name``.

    Raises:
        CompsecError: there is no such set.
        IntegrityError: its prompts are not those that ``sets.json`` records.
    """
    return load_from(_data(), name)


def load_from(directory: Path, name: str) -> PromptSet:
    """:func:`load_builtin` from another data directory."""
    index = read_index(directory)
    if name not in index:
        raise CompsecError(
            f"no built-in prompt set {name!r}. Built in: {', '.join(sorted(index))}. "
            "For your own prompts give the path of a file."
        )
    entry = index[name]
    prompts = read_set(directory, name, entry)
    if prompts.digest != entry.digest:
        raise IntegrityError(
            f"built-in prompt set {name!r} (version {entry.version}): the prompts in {entry.file} "
            f"{'give it' if name in WRAPPED else 'have'} the digest {prompts.digest}, {INDEX} "
            f"records {entry.digest}. The installed "
            "package was changed: reinstall pytest-compsec, and put prompts of your own in a file "
            "of their own."
        )
    return prompts


def read_set(directory: Path, name: str, entry: SetEntry) -> PromptSet:
    """The prompts of ``entry``, their digest computed but not compared."""
    try:
        data = directory.joinpath(entry.file).read_bytes()
    except OSError as error:
        raise IntegrityError(
            f"built-in prompt set {name!r}: {entry.file} cannot be read ({error.strerror}). "
            "Reinstall pytest-compsec."
        ) from error
    rows = parse_rows(data, suffix=Path(entry.file).suffix, label=entry.file)
    prompts = prompts_from_rows(
        rows, label=entry.file, name=WRAPPED.get(name, name), version=entry.version
    )
    if name in WRAPPED:
        # Not above: the transforms are of a later room, and only this set needs them.
        from pytest_compsec.attacks.prompts.wrapping import wrapped

        prompts = make_prompt_set(name, entry.version, wrapped(prompts.prompts), source="")
    return replace(prompts, source=f"builtin:{name}")


def read_index(directory: Path) -> Mapping[str, SetEntry]:
    """``sets.json`` of ``directory``: set name to its entry."""
    raw = json.loads(directory.joinpath(INDEX).read_text(encoding="utf-8"))
    return {name: SetEntry(**entry) for name, entry in raw.items()}


def _data() -> Path:
    return Path(__file__).parent / "data"
