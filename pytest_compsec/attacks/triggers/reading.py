"""What a fixture, a marker or the config gave, as a trigger or a backdoor of a model's task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec.attacks.backdoor import Backdoor, Trigger
from pytest_compsec.attacks.triggers.describing import ACCEPTED, trigger_of
from pytest_compsec.attacks.triggers.images import Blended, Patch
from pytest_compsec.attacks.triggers.targets import check_target
from pytest_compsec.attacks.triggers.texts import Phrase, Token
from pytest_compsec.config.backdoors import kind_problem
from pytest_compsec.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

_KINDS: dict[type, str] = {Patch: "patch", Blended: "blended", Phrase: "phrase", Token: "token"}


def as_trigger(value: Any, task: str) -> Trigger:
    """The trigger that a value stands for: a Trigger, a phrase as text, a mapping as in the
    config, or a function of the inputs.

    Raises ConfigError in plain words for anything else, and for a trigger of another task.
    """
    try:
        trigger = trigger_of(value)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    kind = next((name for owner, name in _KINDS.items() if isinstance(trigger, owner)), "")
    problem = kind_problem(kind, task)
    if problem is not None:
        raise ConfigError(problem)
    return trigger


def as_backdoor(value: Any, task: str) -> Backdoor:
    """The backdoor that a value stands for: a Backdoor, a mapping as in the config (or with the
    keys ``trigger`` and ``target``), a tuple (trigger, target), or a trigger alone.

    Raises ConfigError in plain words for anything else, and for a trigger or target of another
    task.
    """
    trigger, target = _parts(value)
    if trigger is None and target is None:
        raise ConfigError(f"the backdoor names neither trigger nor target; a trigger is {ACCEPTED}")
    try:
        return Backdoor(
            trigger=None if trigger is None else as_trigger(trigger, task),
            target=None if target is None else check_target(target, task),
        )
    except ValueError as error:
        raise ConfigError(f"backdoor: {error}") from None


def _parts(value: Any) -> tuple[Any, Any]:
    if isinstance(value, Backdoor):
        return value.trigger, value.target
    if isinstance(value, Mapping):
        rest = {key: item for key, item in value.items() if key != "target"}
        if "trigger" in rest:
            others = [repr(key) for key in rest if key != "trigger"]
            if others:
                raise ConfigError(f"backdoor: has 'trigger' and {', '.join(others)}: one of them")
            return rest["trigger"], value.get("target")
        return rest or None, value.get("target")
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ConfigError(
                f"a backdoor as a tuple is (trigger, target), not {len(value)} values"
            )
        return value[0], value[1]
    return value, None


def read_pattern(path: Path, source: str) -> torch.Tensor:
    """The tensor ``pattern`` of a verified .safetensors file; ``source`` is its name in messages.

    Raises ConfigError when there is none, or when it cannot be blended in.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = list(file.keys())
            if "pattern" not in names:
                shown = ", ".join(sorted(names)[:5]) or "none"
                raise ConfigError(f"{source}: holds no tensor 'pattern' (there: {shown})")
            pattern: torch.Tensor = file.get_tensor("pattern")
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{source}: cannot be read as safetensors: {error}") from None
    try:
        Blended(pattern)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from None
    return pattern
