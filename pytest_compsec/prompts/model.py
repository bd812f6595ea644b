"""The two records of this room: one prompt, and a named set of them with its digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """One request, as the user of a model would type it.

    ``id`` is unique within its set and stable between versions; ``category`` groups prompts that
    are alike (the clusters of the statistics). ``refusal_keywords`` are phrases of which one marks
    a refusal of this prompt; only the keyword judge reads them.
    """

    id: str
    text: str
    category: str
    refusal_keywords: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptSet:
    """Prompts in a fixed order. ``source`` says where they came from (built-in, or a path)."""

    name: str
    version: str
    prompts: tuple[Prompt, ...]
    digest: str
    source: str


def prompt_digest(prompts: Iterable[Prompt]) -> str:
    """SHA-256 (hex) over the canonical JSON of ``[id, category, text]`` of each prompt, in order;
    a prompt with keywords of its own adds their list as a fourth item.

    It covers what a model is asked and how results are grouped, so the same prompts in another
    file format, with other spacing or key order, have the same digest.
    """
    rows: list[list[str | list[str]]] = []
    for prompt in prompts:
        rows.append([prompt.id, prompt.category, prompt.text])
        if prompt.refusal_keywords:
            rows[-1].append(list(prompt.refusal_keywords))
    canonical = json.dumps(rows, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def make_prompt_set(name: str, version: str, prompts: Iterable[Prompt], source: str) -> PromptSet:
    """A :class:`PromptSet` whose digest is computed from its prompts."""
    ordered = tuple(prompts)
    return PromptSet(
        name=name, version=version, prompts=ordered, digest=prompt_digest(ordered), source=source
    )
