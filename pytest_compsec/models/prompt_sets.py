"""The prompt sets that a config offers: the built-in ones and the user's own."""

from __future__ import annotations

from pathlib import Path

from pytest_compsec.config.loading import LoadedConfig
from pytest_compsec.prompts import PromptSet, builtin_names, load_builtin, load_prompts


def prompt_set_names(loaded: LoadedConfig) -> tuple[str, ...]:
    """Built-in names first, then the config's."""
    return (*builtin_names(), *loaded.config.prompts)


def load_prompt_set(loaded: LoadedConfig, name: str) -> PromptSet:
    """Read a prompt set, not yet compared with a lock. Raises ConfigError when it is malformed."""
    entry = loaded.config.prompts.get(name)
    if entry is None:
        return load_builtin(name)
    return load_prompts(
        loaded.root / Path(entry.file).expanduser(),
        name=name,
        fields=dict(entry.fields) or None,
        select=entry.select,
    )
