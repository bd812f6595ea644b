"""Does the lock describe what ``compsec.yaml`` asks for? Compared before any file is opened."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pytest_compsec
from pytest_compsec.compression.methods import find
from pytest_compsec.compression.options.base import named_data_files
from pytest_compsec.config.data_files import BUILTIN_DATA
from pytest_compsec.config.loading import LoadedConfig
from pytest_compsec.config.pairs import pair_id
from pytest_compsec.config.schema import ModelEntry, SourceEntry, VariantEntry
from pytest_compsec.config.source_text import PYTHON_PREFIX
from pytest_compsec.errors import MissingExtraError
from pytest_compsec.models.arm import Recipe, Runtime
from pytest_compsec.models.lock import (
    CHECKPOINT_DTYPE,
    ArmPin,
    CodePin,
    Lock,
    ModelPin,
    SettingsPin,
    SourcePin,
)
from pytest_compsec.models.oms.pin import signature_differences
from pytest_compsec.models.served.pin import SERVED, EndpointPin

LLAMA_CPP = "llama-cpp-python"
PIN_AGAIN = "If the change is wanted, run `compsec pin` and review the lock's change"


def effective_dtype(model: ModelEntry, variant: VariantEntry | None) -> str | None:
    """The arm's own dtype, else (original and derived variants) the original's, else the model's.
    None: the checkpoint's own. A served model's is :data:`SERVED`: nothing here decides it."""
    if (model.original if variant is None else variant).endpoint is not None:
        return SERVED
    if variant is None or variant.is_derived:
        inherited = model.original.dtype or model.dtype
    else:
        inherited = model.dtype
    return (variant.dtype if variant is not None else None) or inherited


def effective_device(model: ModelEntry, variant: VariantEntry | None) -> str | None:
    """As :func:`effective_dtype`. None: CUDA when there is one, else the CPU."""
    if variant is None or variant.is_derived:
        inherited = model.original.device or model.device
    else:
        inherited = model.device
    return (variant.device if variant is not None else None) or inherited


def settings_of(loaded: LoadedConfig, model: ModelEntry) -> SettingsPin:
    """The settings of a model that the lock pins."""
    return SettingsPin(
        max_new_tokens=loaded.config.defaults.max_new_tokens,
        system=model.system,
        chat_template_kwargs=model.chat_template_kwargs,
    )


def recipe_options(variant: VariantEntry) -> tuple[str, str, dict[str, Any]]:
    """Section, method and JSON-safe options of a derived variant; defaults are filled in, options
    that are not set (None) left out, as TOML does."""
    derivation = variant.derivation()
    assert derivation is not None
    section, options = derivation
    values = options.model_dump(mode="json", exclude_none=True)
    return section, str(values["method"]), values


def runtime_of(source: SourceEntry, purpose: str) -> Runtime | None:
    """The runtime that a source asks for, with its installed version. Raises MissingExtraError."""
    if source.runtime is None:
        return None
    version = tool_version(LLAMA_CPP)
    if version is None:
        raise MissingExtraError(LLAMA_CPP, source.runtime, purpose)
    return Runtime(source.runtime, {LLAMA_CPP: version})


def installed_tools(section: str, method: str, purpose: str) -> dict[str, str]:
    """Versions of the distributions that a method works with. Raises MissingExtraError."""
    entry = find(section, method)
    versions: dict[str, str] = {}
    for tool in entry.tools:
        version = tool_version(tool)
        if version is None:
            raise MissingExtraError(tool, entry.extra or section, purpose)
        versions[tool] = version
    return versions


def tool_version(tool: str) -> str | None:
    """The installed version of a distribution; None when it is absent."""
    if tool == "pytest-compsec":
        return pytest_compsec.__version__
    try:
        return importlib.metadata.version(tool)
    except importlib.metadata.PackageNotFoundError:
        return None


def disagreements(
    loaded: LoadedConfig, lock: Lock, only: Collection[str] | None = None
) -> list[str]:
    """Every way in which config and lock differ, one message each. ``only`` names pair ids; an
    original counts when one of its pairs does. Versions of tools are not looked at here."""
    messages: list[str] = []
    for name, model in loaded.config.models.items():
        variants = [key for key in model.compressed if only is None or pair_id(name, key) in only]
        if variants:
            messages += model_disagreements(loaded, lock, name, variants)
    return messages


def model_disagreements(
    loaded: LoadedConfig, lock: Lock, name: str, variants: Collection[str]
) -> list[str]:
    """The same for the original of one model and some (or none) of its variants."""
    model = loaded.config.models[name]
    return list(_model_differences(loaded, name, model, variants, lock.models.get(name)))


def judge_disagreements(loaded: LoadedConfig, lock: Lock) -> list[str]:
    """How the judge's source in config and lock differ; empty for a judge without model files,
    whose digest says all. Raised before any of its files is opened."""
    name, options = loaded.config.judge.name, loaded.config.judge.model
    if options is None:
        return []
    where, label = loaded.where("judge", name), f"judge {name}"
    pin = lock.judges.get(name)
    if pin is None or pin.files is None:
        return [
            f"{where}: the judge {name!r} is not in the lock, so it is not opened. "
            "Run `compsec pin` and review what it adds"
        ]
    messages = []
    if options.source != pin.files.source:
        messages.append(_differs(where, label, "source", pin.files.source, options.source))
    if options.revision != pin.files.revision:
        messages.append(_differs(where, label, "revision", pin.files.revision, options.revision))
    return messages


def stale_entries(loaded: LoadedConfig, lock: Lock) -> list[str]:
    """What the lock lists and the config no longer does; harmless, but to be cleaned up."""
    stale = [f"model {name}" for name in lock.models if name not in loaded.config.models]
    stale += [f"judge {name}" for name in lock.judges if name != loaded.config.judge.name]
    known_data = {*BUILTIN_DATA, *loaded.config.data}
    stale += [f"data {name}" for name in lock.data if name not in known_data]
    if lock.calibration is not None and loaded.config.calibration is None:
        stale.append(f"calibration {lock.calibration.file}")
    for name, model in loaded.config.models.items():
        pinned = lock.models.get(name)
        if pinned is not None:
            stale += [
                f"variant {pair_id(name, key)}"
                for key in pinned.variants
                if key not in model.compressed
            ]
    return stale


def _model_differences(
    loaded: LoadedConfig,
    name: str,
    model: ModelEntry,
    variants: Collection[str],
    pin: ModelPin | None,
) -> Iterator[str]:
    where = loaded.where("models", name)
    if pin is None:
        yield (
            f"{where}: the model {name!r} is not in the lock, so none of it is opened. "
            "Run `compsec pin` and review what it adds"
        )
        return
    yield from _settings_differences(where, name, settings_of(loaded, model), pin.settings)
    yield from _model_input_differences(where, name, model, pin)
    place = loaded.where("models", name, "original")
    dtype = effective_dtype(model, None)
    yield from _arm_differences(place, name, model.original, None, dtype, pin.original)
    for key in variants:
        variant = model.compressed[key]
        place = loaded.where("models", name, "compressed", key)
        arm = pin.variants.get(key)
        label = pair_id(name, key)
        if arm is None:
            yield (
                f"{place}: the variant {label!r} is not in the lock, so it is not opened. "
                "Run `compsec pin` and review what it adds"
            )
            continue
        dtype = effective_dtype(model, variant)
        yield from _arm_differences(place, label, variant.as_source(), variant, dtype, arm)


def _model_input_differences(
    where: str, name: str, model: ModelEntry, pin: ModelPin
) -> Iterator[str]:
    if model.task != pin.task:
        yield _differs(where, name, "task", pin.task, model.task)
    pinned_data = pin.evaluation_data.source if pin.evaluation_data is not None else None
    if model.evaluation_data != pinned_data:
        yield _differs(where, name, "evaluation_data", pinned_data, model.evaluation_data)
    settings = backdoor_settings(model)
    pinned_settings = pin.backdoor.settings if pin.backdoor is not None else None
    if settings != pinned_settings:
        yield _differs(where, name, "backdoor", pinned_settings, settings)
    elif model.backdoor is not None and pin.backdoor is not None:
        files, code = pin.backdoor.files, pin.backdoor.code
        function = model.backdoor.callable_source()
        for what, wanted, pinned in (
            ("pattern", next(iter(model.backdoor.files()), None), files and files.source),
            ("function", function and f"{PYTHON_PREFIX}{function}", code and code.source),
        ):
            if wanted != pinned:
                yield _differs(where, name, f"backdoor's {what}", pinned, wanted)


def backdoor_settings(model: ModelEntry) -> str | None:
    """Trigger and target of a model as the lock pins them, as JSON text; None without any."""
    if model.backdoor is None:
        return None
    return json.dumps(model.backdoor.model_dump(mode="json", exclude_none=True), sort_keys=True)


def _settings_differences(
    where: str, name: str, now: SettingsPin, pin: SettingsPin
) -> Iterator[str]:
    if now.max_new_tokens != pin.max_new_tokens:
        yield _differs(where, name, "max_new_tokens", pin.max_new_tokens, now.max_new_tokens)
    if now.system != pin.system:
        yield _differs(where, name, "system", pin.system, now.system)
    if dict(now.chat_template_kwargs) != dict(pin.chat_template_kwargs):
        old, new = dict(pin.chat_template_kwargs), dict(now.chat_template_kwargs)
        yield _differs(where, name, "chat_template_kwargs", old, new)


def _arm_differences(
    where: str,
    label: str,
    source: SourceEntry | None,
    variant: VariantEntry | None,
    dtype: str | None,
    pin: ArmPin,
) -> Iterator[str]:
    if (dtype or CHECKPOINT_DTYPE) != pin.dtype:
        yield _differs(where, label, "dtype", pin.dtype, dtype or CHECKPOINT_DTYPE)
    named = variant.adapter if variant is not None and source is None else None
    adapter = (source.adapter if source is not None else None) or named
    pinned_adapter = pin.adapter.source if pin.adapter is not None else None
    if adapter != pinned_adapter and (source is None or pin.files is not None):
        yield _differs(where, label, "adapter", pinned_adapter, adapter)
    if source is None:
        assert variant is not None
        yield from _recipe_differences(where, label, variant, pin)
        return
    if source.endpoint is not None or pin.endpoint is not None:
        yield from endpoint_differences(where, label, source, pin.endpoint)
        return
    if pin.files is None:
        yield _differs(where, label, "source", "a recipe", source.source)
        return
    pinned_code = pin.code.source if pin.code is not None else None
    code = source.source if source.weights is not None else None
    if code != pinned_code:
        yield _differs(where, label, "source", pinned_code or pin.files.source, source.source)
    elif source.files_source != pin.files.source:
        what = "source" if code is None else "weights"
        yield _differs(where, label, what, pin.files.source, source.files_source)
    if source.revision != pin.files.revision:
        yield _differs(where, label, "revision", pin.files.revision, source.revision)
    runtime = pin.runtime.name if pin.runtime is not None else None
    if source.runtime != runtime:
        yield _differs(where, label, "runtime", runtime, source.runtime)
    for locked, now in signature_differences(source.signature, pin.signature):
        yield _differs(where, label, "signature", locked, now)


def endpoint_differences(
    where: str, label: str, source: SourceEntry, pin: EndpointPin | None
) -> Iterator[str]:
    """How the endpoint in config and lock differs, where at least one of them has one."""
    entry = source.endpoint
    if entry is None:
        yield _differs(where, label, "source", f"served, {pin}", source.source)
        return
    if pin is None:
        yield _differs(where, label, "endpoint", "no endpoint", f"{entry.model} at {entry.url}")
        return
    for what in ("url", "model", "revision", "seed"):
        now, locked = getattr(entry, what), getattr(pin, what)
        if now != locked:
            yield _differs(where, label, f"endpoint's {what}", locked, now)


def _recipe_differences(
    where: str, label: str, variant: VariantEntry, arm: ArmPin
) -> Iterator[str]:
    section, method, options = recipe_options(variant)
    pin, data = arm.recipe, arm.data
    if pin is None:
        locked = "a source of its own" if arm.endpoint is None else f"served, {arm.endpoint}"
        yield _differs(where, label, "recipe", locked, f"{section}: {options}")
    elif (section, method, options) != (pin.section, pin.method, dict(pin.options)):
        old = f"{pin.section}: {dict(pin.options)}"
        yield _differs(where, label, "recipe", old, f"{section}: {options}")
    elif named_data_files(options).get("data") != (data.source if data is not None else None):
        pinned = data.source if data is not None else None
        yield _differs(where, label, "data", pinned, named_data_files(options).get("data"))
    elif pin.keeps is None:
        yield f"{where}: the layers that {label!r} keeps in full precision are not in the lock"


def tool_differences(
    label: str, pin: Recipe | Runtime | CodePin, installed: Mapping[str, str]
) -> list[str]:
    """Tools whose installed version is not the pinned one: another version, another model."""
    return [
        _differs("compsec.lock", label, f"version of {tool}", pin.tools.get(tool), version)
        for tool, version in installed.items()
        if pin.tools.get(tool) != version
    ]


def _differs(where: str, label: str, what: str, locked: object, now: object) -> str:
    def shown(value: object) -> str:
        return "none" if value is None else str(value)

    return f"{where}: the {what} of {label!r} is {shown(now)}, the lock pins {shown(locked)}"


def pinned_sources(lock: Lock) -> Iterator[tuple[str, SourcePin]]:
    """``(what, pin)`` of all files that the lock lists, by what they are for, judges first."""
    for name, judge in lock.judges.items():
        if judge.files is not None:
            yield f"judge {name}", judge.files
    for name, model in lock.models.items():
        arms = {name: model.original}
        arms |= {pair_id(name, key): arm for key, arm in model.variants.items()}
        for label, arm in arms.items():
            if arm.files is not None:
                yield label, arm.files
            if arm.adapter is not None:
                yield f"{label} (adapter)", arm.adapter
            if arm.code is not None and arm.code.files is not None:
                yield f"{label} (code)", arm.code.files
            if arm.data is not None:
                yield f"{label} (data)", arm.data
        if model.evaluation_data is not None:
            yield f"{name} (evaluation data)", model.evaluation_data
        if model.backdoor is not None:
            code = model.backdoor.code
            for what, pin in (
                ("pattern", model.backdoor.files),
                ("code", code.files if code is not None else None),
            ):
                if pin is not None:
                    yield f"{name} (backdoor's {what})", pin
