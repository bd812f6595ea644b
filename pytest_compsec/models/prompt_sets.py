"""The prompt sets that a config offers: the built-in ones and the user's own."""

from __future__ import annotations

import difflib
from pathlib import Path

from pytest_compsec.config.loading import LoadedConfig
from pytest_compsec.errors import ConfigError
from pytest_compsec.prompts import PromptSet, builtin_names, load_builtin, load_prompts


def prompt_set_names(loaded: LoadedConfig) -> tuple[str, ...]:
    """Built-in names first, then the config's."""
    return (*builtin_names(), *loaded.config.prompts)


def unknown_set(name: str, loaded: LoadedConfig) -> str:
    """What to say of a name that no prompt set has."""
    names = prompt_set_names(loaded)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    own = ", ".join(sorted(loaded.config.prompts)) or "none"
    return (
        f"no prompt set {name!r}{hint} In {loaded.path}, under `prompts:`: {own}. "
        f"Built in: {', '.join(builtin_names())}."
    )


def load_prompt_set(loaded: LoadedConfig, name: str) -> PromptSet:
    """Read a prompt set, not yet compared with a lock. Raises ConfigError when it is malformed."""
    entry = loaded.config.prompts.get(name)
    if entry is None and name not in builtin_names():
        raise ConfigError(unknown_set(name, loaded))
    if entry is None:
        return load_builtin(name)
    return load_prompts(
        loaded.root / Path(entry.file).expanduser(),
        name=name,
        fields=dict(entry.fields) or None,
        select=entry.select,
    )
