"""What ``compsec.lock`` says of a pair beyond its digests: which kind of file is which, and the
settings under which it is asked. It tells a changed template from changed weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec.models.arm import digest_of

if TYPE_CHECKING:
    from pytest_compsec.models.lock import Lock
    from pytest_compsec.models.pair import ModelPair


def pins_of(lock: Lock, original: str, compressed: str) -> dict[str, Any]:
    """The pins of the arms with these names, JSON-safe: ``{"original": {role: sha256},
    "compressed": {...}, "settings": {...}}``. Empty where the lock has no such model.

    A role's digest is over the names and contents of all its files; that of a derived variant is
    its original's. A system prompt is given by its sha256, not by its text.
    """
    model = lock.models.get(original)
    if model is None:
        return {}
    variant = model.variants.get(compressed.removeprefix(f"{original}-"))
    arms = {"original": model.original, "compressed": variant or model.original}
    system = model.settings.system
    found: dict[str, Any] = {}
    for name, arm in arms.items():
        source = arm.files or model.original.files
        roles: dict[str, list[list[str]]] = {}
        for file in source.files if source is not None else ():
            roles.setdefault(file.role, []).append([file.name, file.sha256])
        found[name] = {role: digest_of(sorted(files)) for role, files in sorted(roles.items())}
    found["settings"] = {
        "system prompt": None if system is None else _sha256(system),
        "chat_template_kwargs": dict(model.settings.chat_template_kwargs),
    }
    return found


def pins_of_pair(pair: ModelPair, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Today's pins of ``pair``; ``provenance`` names its arms."""
    return pins_of(pair.lock, provenance["original"]["name"], provenance["compressed"]["name"])


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
