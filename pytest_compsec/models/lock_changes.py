"""What differs between two locks, line by line, for the person who reviews a new pin."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pytest_compsec.models.agreement import pinned_sources
from pytest_compsec.models.arm import TEXT_GENERATION, Recipe
from pytest_compsec.models.lock import ArmPin, CodePin, Lock
from pytest_compsec.models.oms.pin import signature_facts

_Facts = dict[tuple[str, str], str]


def describe(old: Lock | None, new: Lock) -> Iterator[str]:
    """``added``, ``removed`` and ``changed`` lines; changed ones with the value before and after.
    Nothing when the locks are equal."""
    before = _facts(old) if old is not None else {}
    after = _facts(new)
    for key in [*before, *(key for key in after if key not in before)]:
        what = f"{key[0]}: {key[1]}"
        if key not in after:
            yield f"removed  {what}\n           was {before[key]}"
        elif key not in before:
            yield f"added    {what}\n           now {after[key]}"
        elif before[key] != after[key]:
            yield f"changed  {what}\n           was {before[key]}\n           now {after[key]}"


def _facts(lock: Lock) -> _Facts:
    """Everything in a lock as ``(part, item) -> value``."""
    facts: _Facts = {}
    for name, judge in lock.judges.items():
        facts[f"judge {name}", "digest"] = f"{judge.digest} (version {judge.version})"
        if judge.note is not None:
            facts[f"judge {name}", "note"] = judge.note
        for tool, version in judge.tools.items():
            facts[f"judge {name}", f"version of {tool}"] = version
    if lock.calibration is not None:
        pin = lock.calibration
        facts["calibration", pin.file] = f"sha256 {pin.sha256} ({pin.size} bytes)"
    if lock.tensors is not None:
        sidecar = lock.tensors
        facts["digests of tensors", sidecar.file] = (
            f"sha256 {sidecar.sha256} ({sidecar.size} bytes)"
        )
    for name, prompts in lock.prompts.items():
        facts[f"prompts {name}", "digest"] = (
            f"{prompts.digest} (version {prompts.version}, {prompts.count} prompts)"
        )
    for name, data in lock.data.items():
        facts[f"data {name}", "sha256"] = (
            f"{data.sha256} (version {data.version}, {data.size} bytes)"
        )
    for name, model in lock.models.items():
        settings = model.settings
        facts[name, "max_new_tokens"] = str(settings.max_new_tokens)
        if settings.system is not None:
            facts[name, "system"] = json.dumps(settings.system)
        if settings.chat_template_kwargs:
            facts[name, "chat_template_kwargs"] = json.dumps(settings.chat_template_kwargs)
        if model.task != TEXT_GENERATION:
            facts[name, "task"] = model.task
        if model.backdoor is not None:
            facts[name, "backdoor"] = model.backdoor.settings
            if model.backdoor.code is not None:
                facts[name, "backdoor's trigger"] = code_text(model.backdoor.code)
        facts |= _arm_facts(name, model.original)
        for key, arm in model.variants.items():
            facts |= _arm_facts(f"{name}-{key}", arm)
    for part, source in pinned_sources(lock):
        facts[part, "source"] = source.source
        if source.commit is not None:
            facts[part, "commit"] = f"{source.commit} (revision {source.revision or 'main'})"
        for file in source.files:
            facts[part, file.name] = (
                f"sha256 {file.sha256} ({file.size} bytes, {file.role}, {file.provenance})"
            )
    return facts


def _arm_facts(label: str, arm: ArmPin) -> _Facts:
    facts = {(label, "dtype"): arm.dtype}
    if arm.code is not None:
        facts[label, "code"] = code_text(arm.code)
    if arm.recipe is not None:
        facts[label, "recipe"] = recipe_text(arm.recipe)
        for option, digest in arm.recipe.inputs.items():
            facts[label, f"prompts of {option}"] = digest
        if arm.recipe.found:
            kept = arm.recipe.found["keep_in_full_precision"]
            facts[label, "kept in full precision"] = ", ".join(kept) or "none"
            facts[label, "found with"] = arm.recipe.found["basis"]
    if arm.endpoint is not None:
        facts[label, "served by"] = arm.endpoint.url
        facts[label, "served model"] = arm.endpoint.model
        facts[label, "seed"] = str(arm.endpoint.seed)
        if arm.endpoint.revision is not None:
            facts[label, "revision named in the config"] = arm.endpoint.revision
        for name, value in arm.endpoint.facts.items():
            facts[label, f"the server's {name}"] = value
        facts[label, "verified"] = "no: its bytes are not here, only what the server says is pinned"
    if arm.signature is not None:
        facts |= signature_facts(label, arm.signature)
    if arm.runtime is not None:
        tools = ", ".join(f"{name} {version}" for name, version in arm.runtime.tools.items())
        facts[label, "runtime"] = f"{arm.runtime.name} ({tools})"
    return facts


def code_text(pin: CodePin) -> str:
    """``python:digits_net:make_net``, with the distribution that it comes with, if any."""
    tools = ", ".join(f"{name} {version}" for name, version in pin.tools.items())
    return f"{pin.source} ({tools})" if tools else pin.source


def recipe_text(recipe: Recipe) -> str:
    """``quantize: bitsandbytes bits=8 (bitsandbytes 0.50.2)``."""
    options = " ".join(f"{key}={value}" for key, value in recipe.options.items() if key != "method")
    tools = ", ".join(f"{name} {version}" for name, version in recipe.tools.items())
    return f"{recipe.section}: {recipe.method} {options} ({tools})"
