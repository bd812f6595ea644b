"""``compsec list``: models, pairs, sources, recipes, and what the lock says of each model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from pytest_compsec.config.loading import LoadedConfig, load_config
from pytest_compsec.config.pairs import pair_id
from pytest_compsec.config.schema import SourceEntry, VariantEntry
from pytest_compsec.models.lock import Lock, read_lock


def run_list(arguments: argparse.Namespace) -> int:
    """Print the config as one reads it. Hashes nothing. Exit code 0."""
    loaded = load_config(Path(arguments.config))
    lock = read_lock(loaded.lock_path) if loaded.lock_path.is_file() else None
    print("\n".join(describe(loaded, lock)))
    return 0


def describe(loaded: LoadedConfig, lock: Lock | None) -> Iterator[str]:
    """The lines of ``compsec list``."""
    for name, model in loaded.config.models.items():
        yield f"{name}: {lock_state(loaded, lock, name)}"
        rows = [("original", _source(model.original))]
        rows += [
            (pair_id(name, key), _variant(variant)) for key, variant in model.compressed.items()
        ]
        width = max(len(label) for label, _ in rows)
        for label, text in rows:
            yield f"  {label:<{width}}  {text}"
    if loaded.config.prompts:
        yield "prompts:"
        for name, entry in loaded.config.prompts.items():
            yield f"  {name}  {entry.file}"
    yield from _judge(loaded, lock)
    yield ""
    if lock is None:
        yield f"There is no {loaded.lock_path}: run `compsec pin`."
    else:
        yield f"{loaded.lock_path}: sha256 {lock.digest} (`compsec verify` compares the files)"


def lock_state(loaded: LoadedConfig, lock: Lock | None, name: str) -> str:
    """What the lock says of a model, by its entries alone."""
    from pytest_compsec.models.agreement import model_disagreements

    if lock is None:
        return "not pinned (no lock)"
    if name not in lock.models:
        return "not pinned: run `compsec pin`"
    messages = model_disagreements(loaded, lock, name, loaded.config.models[name].compressed)
    if messages:
        return f"the lock is out of date ({messages[0].partition(': ')[2]})"
    endpoint = lock.models[name].original.endpoint
    if endpoint is not None:
        return "pinned; the original is served, its bytes are not verified"
    pin = lock.models[name].original.files
    return f"pinned, original's tree {pin.tree[:12]}" if pin is not None else "pinned"


def _judge(loaded: LoadedConfig, lock: Lock | None) -> Iterator[str]:
    """The judge where it is not the built-in one, and the calibration where there is one."""
    judge, calibration = loaded.config.judge, loaded.config.calibration
    if judge.refusal is None:
        model, endpoint = judge.model, judge.endpoint
        what = ""
        if model is not None:
            what = f"  {_source(model.as_source())}"
        elif endpoint is not None:
            what = f"  {endpoint.url} (model {endpoint.model})"
        state = "pinned" if lock is not None and judge.name in lock.judges else "not pinned"
        yield f"judge: {judge.name}{what}, {state}"
    if calibration is not None:
        pinned = lock is not None and lock.calibration is not None
        yield f"calibration: {calibration}, {'pinned' if pinned else 'not pinned'}"


def _source(entry: SourceEntry) -> str:
    if entry.endpoint is not None:
        return f"{entry.endpoint.model} served by {entry.endpoint.url}, bytes not verified"
    text = entry.source
    if entry.revision is not None:
        text += f"@{entry.revision}"
    if entry.adapter is not None:
        text += f" + adapter {entry.adapter}"
    if entry.runtime is not None:
        text += f" in {entry.runtime}"
    return text


def _variant(variant: VariantEntry) -> str:
    source = variant.as_source()
    if source is not None:
        return _source(source)
    from pytest_compsec.models.agreement import recipe_options

    section, method, options = recipe_options(variant)
    values = " ".join(f"{key}={value}" for key, value in options.items() if key != "method")
    adapter = f" + adapter {variant.adapter}" if variant.adapter is not None else ""
    return f"{section}: {method} {values}{adapter}"
