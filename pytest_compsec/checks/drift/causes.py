"""Why outcomes may differ from the baseline's: another model, another template, other settings,
another environment, or none of these, which leaves rounding.

Read from what both runs recorded of themselves. A cause is what changed, not a proof that it did
it: where several things changed at once, all are named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

Kind = Literal["model", "template", "settings", "environment"]
#: What the sentence says before the parts of each kind, alone and after another kind.
_LEAD: Mapping[Kind, tuple[str, str]] = {
    "model": ("the model changed", "the model changed"),
    "template": ("same weights, other files beside them", "other files beside the weights"),
    "settings": ("same model, other settings", "other settings"),
    "environment": ("same model, other environment", "other environment"),
}
#: Files that hold weights, or make them.
_WEIGHT_ROLES = frozenset({"weights", "adapter", "code"})
_COMPONENTS = ("tree", "adapter", "recipe", "compressed_adapter", "runtime", "served")


@dataclasses.dataclass(frozen=True)
class Change:
    """One thing that is not as it was when the baseline was made."""

    kind: Kind
    part: str
    before: str
    today: str

    def text(self) -> str:
        """``transformers 5.22 -> 5.23``."""
        return f"{self.part} {self.before} -> {self.today}"


def changes_between(
    before: Mapping[str, Any],
    today: Mapping[str, Any],
    pins_before: Mapping[str, Any],
    pins_today: Mapping[str, Any],
    *,
    arm: str = "compressed",
) -> tuple[Change, ...]:
    """What changed for one arm between two provenances; what only one of them records is no
    change."""
    found = [
        *_model_changes(_map(before, arm), _map(today, arm), pins_before, pins_today, arm),
        *_settings_changes(before, today, pins_before, pins_today, arm),
        *_environment_changes(before, today, arm),
    ]
    # A quantizer's version is of the recipe and of the environment: it is said once.
    return tuple({(change.part, change.before, change.today): change for change in found}.values())


def cause_sentence(
    changes: Sequence[Change], *, moved: bool, same_lock: bool = True, served: bool = False
) -> str:
    """Which of them it is, for the summary. ``moved``: some outcome is not the baseline's."""
    parts = []
    for kind, (alone, after) in _LEAD.items():
        listed = [change.text() for change in changes if change.kind == kind]
        if not listed:
            continue
        texts = ", ".join(listed)
        if kind == "model":
            parts.append(f"{alone} ({texts})")
        else:
            parts.append(f"{after if parts else alone}: {texts}")
    if parts:
        return "; ".join(parts)
    if not moved:
        return "same model and environment"
    if served:
        return (
            "same model and environment by what the server says: rounding, or a change that it "
            "does not tell"
        )
    if not same_lock:
        return "same model and environment: rounding (the lock is another, and with it the batches)"
    return "same model and environment: rounding"


def _model_changes(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    pins_before: Mapping[str, Any],
    pins_today: Mapping[str, Any],
    arm: str,
) -> Iterator[Change]:
    before, today = first.get("weights_digest"), second.get("weights_digest")
    if before == today:
        return
    components = [name for name in _COMPONENTS if first.get(name) != second.get(name)]
    if components == ["runtime"]:
        yield from _tools("environment", _map(first, "runtime"), _map(second, "runtime"))
        return
    roles = sorted(_differing(_map(pins_before, arm), _map(pins_today, arm)))
    if components == ["tree"] and roles and not _WEIGHT_ROLES & set(roles):
        for role in roles:
            values = [_map(pins, arm).get(role) for pins in (pins_before, pins_today)]
            yield Change("template", f"{role} files", short(values[0]), short(values[1]))
        return
    yield Change("model", "digest", short(before), short(today))
    yield from _tools("model", _map(first, "recipe"), _map(second, "recipe"))


def _tools(kind: Kind, first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Change]:
    before, today = _map(first, "tools"), _map(second, "tools")
    for name in sorted(_differing(before, today)):
        yield Change(kind, name, _shown(before.get(name)), _shown(today.get(name)))


def _settings_changes(
    before: Mapping[str, Any],
    today: Mapping[str, Any],
    pins_before: Mapping[str, Any],
    pins_today: Mapping[str, Any],
    arm: str,
) -> Iterator[Change]:
    rooms = (
        (_map(before, "generation"), _map(today, "generation")),
        (_map(pins_before, "settings"), _map(pins_today, "settings")),
    )
    for first, second in rooms:
        for name in sorted(_differing(first, second) & first.keys() & second.keys()):
            yield Change("settings", name, _shown(first[name]), _shown(second[name]))
    asked = [_map(provenance, arm).get("dtype_asked", "") for provenance in (before, today)]
    if asked[0] != asked[1] and "" not in asked:
        yield Change("settings", "dtype asked for", _shown(asked[0]), _shown(asked[1]))


def _environment_changes(
    before: Mapping[str, Any], today: Mapping[str, Any], arm: str
) -> Iterator[Change]:
    for room in ("libraries", "machine"):
        first, second = _map(before, room), _map(today, room)
        for name in sorted(_differing(first, second) & first.keys() & second.keys()):
            yield Change("environment", name, _shown(first[name]), _shown(second[name]))
    first, second = _map(before, arm), _map(today, arm)
    for name in ("device", "dtype"):
        values = [_kind(one.get(name)) for one in (first, second)]
        if name in first and name in second and values[0] != values[1]:
            yield Change("environment", name, values[0], values[1])


def short(digest: object) -> str:
    """The first characters of a digest, as people compare them."""
    return str(digest)[:8] if isinstance(digest, str) and digest else "none"


def _kind(device: object) -> str:
    """``cuda`` of ``cuda:1``: which of several alike is no change."""
    return str(device).split(":", 1)[0]


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> set[str]:
    return {name for name in {*first, *second} if first.get(name, None) != second.get(name, None)}


def _map(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    return value if isinstance(value, Mapping) else {}


def _shown(value: object) -> str:
    if value is None:
        return "none"
    text = str(value)
    # The digest of a long text, such as a system prompt.
    return text[:8] if len(text) == 64 and all(one in "0123456789abcdef" for one in text) else text
