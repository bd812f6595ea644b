"""What a user types for a model on the command line, as an entry of ``compsec.yaml``."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import yaml

from pytest_compsec.config.source_text import PACKAGE_PREFIX, is_commit
from pytest_compsec.errors import ConfigError

#: Compressions that have a name of their own; ``prune50`` and its like are computed.
DERIVATIONS = {
    "int8": "quantize: {method: bitsandbytes, bits: 8}",
    "nf4": "quantize: {method: bitsandbytes, bits: 4, type: nf4}",
    "fp4": "quantize: {method: bitsandbytes, bits: 4, type: fp4}",
    "bf16": "quantize: {method: cast, dtype: bfloat16}",
    "fp16": "quantize: {method: cast, dtype: float16}",
}
_PRUNE = re.compile(r"prune([1-9][0-9]?)")
_HUB = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)?)(?:@(\S+))?")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._+-]+")


@dataclasses.dataclass(frozen=True)
class Item:
    """``name`` as it will be called, ``body`` the inside of its YAML flow mapping."""

    name: str
    body: str


def derivation(text: str) -> Item | None:
    """The derived variant that a name stands for, or None."""
    if text in DERIVATIONS:
        return Item(text, DERIVATIONS[text])
    match = _PRUNE.fullmatch(text)
    if match is None:
        return None
    return Item(text, f"prune: {{method: magnitude, sparsity: {int(match[1]) / 100:g}}}")


def source(text: str, folder: Path, resolve: Callable[[str, str | None], str]) -> Item:
    """A source: path, ``pkg:`` path, or ``org/name[@revision]``. Paths are made relative to
    ``folder``; ``resolve(repository, revision)`` gives the commit of a hub revision.

    Raises ConfigError when there is no such path.
    """
    if text.startswith(PACKAGE_PREFIX):
        return Item(name_of(text), f"source: {scalar(text)}")
    path = Path(text).expanduser()
    if path.exists():
        return Item(name_of(path.resolve().name), f"source: {scalar(_relative(path, folder))}")
    match = _HUB.fullmatch(text)
    looks_local = text.startswith((".", "/", "~")) or text.lower().endswith(".gguf")
    if match is None or looks_local or ("/" not in match[1] and match[2] is None):
        known = ", ".join([*DERIVATIONS, "prune50"])
        raise ConfigError(
            f"{text!r} is no file or directory here, no pkg:package/path, no hub id "
            f"(org/name@revision), and no method ({known})"
        )
    revision = match[2]
    commit = revision if revision and is_commit(revision) else resolve(match[1], revision)
    return Item(
        name_of(match[1].rpartition("/")[2]),
        f"source: {scalar(match[1])}, revision: {scalar(commit)}",
    )


def _relative(path: Path, folder: Path) -> str:
    if path.is_absolute():
        return path.as_posix()
    relative = Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
    return relative if relative.startswith(("./", "../")) else f"./{relative}"


def name_of(text: str) -> str:
    """A name that is allowed in ``compsec.yaml``, made from a path or id."""
    base = text.rstrip("/").rpartition("/")[2]
    if base.lower().endswith(".gguf"):
        base = base[: -len(".gguf")]
    cleaned = _NOT_IN_NAMES.sub("-", base).strip("._+-")
    return cleaned[:48].rstrip("._+-") or "model"


def scalar(text: str) -> str:
    """A YAML scalar inside a flow mapping that reads as exactly this text."""
    try:
        plain = yaml.safe_load(f"{{a: {text}}}") == {"a": text}
    except yaml.YAMLError:
        plain = False
    return text if plain and text.isascii() else json.dumps(text, ensure_ascii=False)
