"""What the YAML blocks of the documentation are, and the parts of ``compsec.yaml`` made whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pytest_compsec.config.schema import Config, ModelEntry
from tests.docs.fences import Fence

_STUB: dict[str, Any] = {
    "original": {"source": "./original"},
    "compressed": {"int8": {"quantize": {"method": "bitsandbytes", "bits": 8}}},
}
_CLASSIFIER = {
    "task": "image-classification",
    "original": {"source": "python:nets:build", "weights": "./net.safetensors"},
}
_TEXT_CLASSIFIER = {"task": "text-classification"}
_PLACES = {"<40 hex>": "a" * 40, "COMMIT": "a" * 40}


def kind(fence: Fence) -> str:
    """``compsec``, ``github`` (also some steps of a job alone), ``gitlab``, ``pre-commit``."""
    if isinstance(yaml.safe_load(_filled(fence.text).partition("\n---\n")[0]), list):
        return "github"
    keys = set(_parts(fence.text)[0])
    if "jobs" in keys:
        return "github"
    if keys == {"repos"}:
        return "pre-commit"
    if any(isinstance(part, dict) and "script" in part for part in _parts(fence.text)[0].values()):
        return "gitlab"
    return "compsec"


def configs(fence: Fence) -> Iterator[str]:
    """Every ``compsec.yaml`` that a block shows, whole."""
    for part in _parts(fence.text):
        yield yaml.safe_dump(_whole(part), sort_keys=False)


def write_with_its_files(text: str, folder: Path) -> Path:
    """A config in a folder with all files that it names; nobody opens them here."""
    for name in re.findall(r"(?:\./|: )([\w./-]+\.\w+|\./[\w./-]+)", text):
        path = folder / name
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    for name in re.findall(r"\./([\w./-]+)", text):
        path = folder / name
        if not path.suffix or path.suffix[1:].isdigit():
            path.mkdir(parents=True, exist_ok=True)
    (folder / "compsec.yaml").write_text(text, encoding="utf-8")
    return folder / "compsec.yaml"


def _filled(text: str) -> str:
    """With what stands for a commit replaced by one."""
    for place, value in _PLACES.items():
        text = text.replace(place, value)
    return text


def _parts(text: str) -> list[dict[str, Any]]:
    """One mapping; where a key stands twice (alternatives), one for each."""
    text = _filled(text)
    chunks: list[str] = []
    for line in text.splitlines(keepends=True):
        if line == "---\n" or re.match(r"[\w\"-]", line) or not chunks:
            chunks.append("")
        chunks[-1] += "" if line == "---\n" else line
    keys = [chunk.partition(":")[0] for chunk in chunks if re.match(r"[\w\"-]", chunk)]
    if len(keys) == len(set(keys)):
        return [yaml.safe_load(text)]
    return [part for chunk in chunks if (part := yaml.safe_load(chunk))]


def _whole(part: dict[str, Any]) -> dict[str, Any]:
    """A part of a config in the smallest one that has a place for it."""
    keys = set(part)
    if keys <= set(Config.model_fields):
        return {"version": 1, "models": {"assistant": _STUB}, **part}
    if keys <= set(ModelEntry.model_fields):
        return {"version": 1, "models": {"assistant": {**_STUB, **_task(part), **part}}}
    if all(isinstance(value, dict) for value in part.values()):
        if any("original" in value for value in part.values()):
            return {"version": 1, "models": part}
        return {
            "version": 1,
            "models": {"assistant": {**_STUB, "compressed": part}},
            "prompts": {name: {"file": f"./{name}.jsonl"} for name in _selections(part)},
        }
    raise ValueError(f"is no part of a compsec.yaml: {', '.join(keys)}")


def _task(part: dict[str, Any]) -> dict[str, Any]:
    """What kind of model has such a part."""
    backdoor = part.get("backdoor", {})
    if set(backdoor) & {"phrase", "token"}:
        return _TEXT_CLASSIFIER
    if "evaluation_data" in part or backdoor or "fine-pruning" in str(part):
        return _CLASSIFIER
    return {}


def _selections(part: dict[str, Any]) -> set[str]:
    """Prompt sets that recipes name."""
    recipes = [recipe for variant in part.values() for recipe in variant.values()]
    return {recipe["selection"] for recipe in recipes if "selection" in recipe}
