"""What commands that make a new variant share: which pair is meant, and the lines to paste."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pytest_compsec.config.pairs import NAME, PairName, all_pairs
from pytest_compsec.errors import ConfigError
from pytest_compsec.models.arm import TEXT_GENERATION

if TYPE_CHECKING:
    from pytest_compsec.config.loading import LoadedConfig
    from pytest_compsec.config.schema import VariantEntry


def find_pair(loaded: LoadedConfig, text: str) -> PairName:
    """The pair called ``text`` (``model-variant``). Raises ConfigError with the known ones."""
    pairs = all_pairs(loaded.config)
    for pair in pairs:
        if pair.id == text:
            return pair
    known = ", ".join(pair.id for pair in pairs)
    raise ConfigError(f"{loaded.path}: there is no pair {text!r}; there are: {known}")


def variant_of(loaded: LoadedConfig, pair: PairName) -> VariantEntry:
    return loaded.config.models[pair.model].compressed[pair.variant]


def require_derived(loaded: LoadedConfig, pair: PairName, command: str) -> None:
    """Raise ConfigError for a variant that is files already."""
    variant = variant_of(loaded, pair)
    if not variant.is_derived:
        where = loaded.where("models", pair.model, "compressed", pair.variant)
        own = variant.source or "served, so that its weights are not here"
        raise ConfigError(
            f"{where}: {pair.id} has a source of its own ({own}); `compsec {command}` "
            "works on a variant that is derived from its original (quantize, prune)"
        )


def require_outside_sources(loaded: LoadedConfig, path: Path) -> None:
    """Raise ConfigError when ``path`` is inside a directory that the config names as a source or an
    adapter: its pins would not fit any more."""
    inside = path.resolve().parents
    for model in loaded.config.models.values():
        sources = [(model.original.source, model.original.adapter)]
        sources += [(entry.source or "", entry.adapter) for entry in model.compressed.values()]
        for pair in sources:
            for named in filter(None, pair):
                directory = loaded.root / Path(named).expanduser()
                if directory.is_dir() and directory.resolve() in inside:
                    raise ConfigError(
                        f"{path}: is inside {named}, which {loaded.path.name} names as files of a "
                        "model: what is written there would belong to them, and the lock would "
                        "refuse them. Choose a directory outside"
                    )


def new_name(given: str | None, default: str) -> str:
    """The name of the new variant. Raises ConfigError for one that no config may have."""
    if given is not None and NAME.fullmatch(given) is None:
        raise ConfigError(f"--as {given!r} must be letters, digits and . _ + -")
    return given or default


def require_language_model(loaded: LoadedConfig, model: str, command: str) -> None:
    """Raise ConfigError for a classifier, which the command does not know."""
    entry = loaded.config.models.get(model)
    if entry is not None and entry.task != TEXT_GENERATION:
        raise ConfigError(
            f"{loaded.where('models', model)}: {model} is a classifier (task: {entry.task}), and "
            f"`compsec {command}` works on language models"
        )


def written_path(path: Path, root: Path) -> str:
    """``path`` as a config in ``root`` names it: relative, and never taken for a hub id."""
    text = Path(os.path.relpath(path.resolve(), root)).as_posix()
    return text if text.startswith(".") else f"./{text}"


def derivation_values(variant: VariantEntry) -> dict[str, Any]:
    """What the config says of a derived variant, as far as it was written there."""
    derivation = variant.derivation()
    assert derivation is not None
    section, options = derivation
    values: dict[str, Any] = {section: options.model_dump(exclude_unset=True)}
    values |= {
        key: value
        for key, value in (("dtype", variant.dtype), ("device", variant.device))
        if value is not None
    }
    return values


def paste_lines(model: str, name: str, values: Mapping[str, Any]) -> list[str]:
    """The lines that put a variant into ``compsec.yaml``."""
    body = yaml.safe_dump(dict(values), default_flow_style=True, sort_keys=False, width=100_000)
    return [
        f"Add this to compsec.yaml under models: {model}: compressed:",
        f"      {name}: {body.strip()}",
    ]
