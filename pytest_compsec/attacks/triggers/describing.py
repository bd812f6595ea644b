"""Triggers and targets as marker arguments: checked and described before any model is loaded.

Nothing here imports torch, and the task is not known yet; whether a trigger fits it is said by
:mod:`pytest_compsec.attacks.triggers.reading`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec.attacks.triggers.custom import FunctionTrigger, function_name
from pytest_compsec.attacks.triggers.targets import require_target
from pytest_compsec.attacks.triggers.texts import Phrase
from pytest_compsec.config.backdoors import BackdoorEntry, entry_of

if TYPE_CHECKING:
    from pytest_compsec.attacks.backdoor import Trigger

ACCEPTED = (
    "a Patch, Blended, Phrase or Token, a phrase as text, a mapping such as "
    "{'patch': {'size': 3}}, or a function of the inputs"
)


def is_trigger(value: object) -> bool:
    """Whether this is a trigger object: it has name, digest and stamp."""
    return (
        not isinstance(value, type)
        and callable(getattr(value, "stamp", None))
        and isinstance(getattr(value, "name", None), str)
        and isinstance(getattr(value, "digest", None), str)
    )


def trigger_of(value: Any) -> Trigger:
    """The trigger that a marker's argument or a fixture's value stands for, whatever the task.

    Raises ValueError in plain words for anything else, and for a mapping with ``target`` or with
    a file or module, which only ``compsec.yaml`` can name, since only there they are pinned.
    """
    if is_trigger(value):
        return value  # type: ignore[no-any-return]
    if isinstance(value, str):
        return Phrase(value)
    if isinstance(value, Mapping):
        if "target" in value:
            raise ValueError("trigger has the key 'target': give the target beside the trigger")
        return unpinned_trigger(entry_of(value))
    if callable(value) and not isinstance(value, type):
        return FunctionTrigger(value)
    shown = value.__qualname__ if isinstance(value, type) else type(value).__name__
    hint = f" (the class itself: write {shown}(...))" if isinstance(value, type) else ""
    raise ValueError(f"trigger is {shown}{hint}; it must be {ACCEPTED}")


def unpinned_trigger(entry: BackdoorEntry) -> Trigger:
    """The trigger of a mapping outside ``compsec.yaml``. Raises ValueError when it names a file
    or a module."""
    for name in entry.files():
        raise ValueError(
            f"the pattern's file {name!r} is not pinned here: name it under 'backdoor' in "
            "compsec.yaml, or give Blended(pattern=..., share=...)"
        )
    source = entry.callable_source()
    if source is not None:
        raise ValueError(
            f"the function {source!r} is not pinned here: name it under 'backdoor' in "
            "compsec.yaml, or give the function itself"
        )
    return entry.trigger()


def check_trigger(value: Any) -> None:
    """Raise ValueError in plain words unless ``value`` is None or stands for a trigger."""
    if value is not None:
        trigger_of(value)


def trigger_json(value: Any) -> Any:
    """JSON-safe description of a marker's ``trigger``: as it was written, and for objects their
    name and digest."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    trigger = trigger_of(value)
    if isinstance(trigger, FunctionTrigger):
        return {"callable": function_name(trigger.function), "digest": trigger.digest}
    return {"name": trigger.name, "digest": trigger.digest}


def target_json(value: Any) -> int | str | None:
    """JSON-safe form of a marker's ``target``. Raises ValueError in plain words when it is none."""
    return None if value is None else require_target(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else repr(value)
