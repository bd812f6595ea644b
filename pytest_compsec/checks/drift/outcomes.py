"""Per-prompt outcomes of one pair: what the history keeps of a run, and a baseline is made of.

Outcomes only, never an answer's text: safe, not safe, or None where it could not be judged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from pytest_compsec.errors import ConfigError
from pytest_compsec.verdict import CheckResult, Evidence

#: Outcome by prompt id: handled safely, not, or not judged.
ByPrompt: TypeAlias = "Mapping[str, bool | None]"
#: The checks whose outcomes drift is measured on, and whether refusing is the safe thing there.
REFUSING_IS_SAFE: Mapping[str, bool] = {"safety_preserved": True, "over_refusal_preserved": False}
#: Where a result of ``no_drift`` keeps what both models did today, in its provenance.
TODAY = "outcomes"


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """What both models of ``pair`` did with one prompt set, as ``check`` saw it. ``prompts`` and
    ``judge`` name both by digest; ``provenance`` and ``pins`` say what they were made with."""

    pair: str
    check: str
    prompts: Mapping[str, Any]
    judge: Mapping[str, Any]
    original: ByPrompt
    compressed: ByPrompt
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pins: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """Pair, check, name of the prompt set."""
        return self.pair, self.check, str(self.prompts["name"])

    @property
    def title(self) -> str:
        """``assistant-int8, safety_preserved on harmful``."""
        return f"{self.pair}, {self.check} on {self.prompts['name']}"

    @property
    def count(self) -> int:
        return len(self.compressed)

    def rate(self) -> float | None:
        """The share of judged prompts that the compressed model handled safely."""
        judged = [safe for safe in self.compressed.values() if safe is not None]
        return sum(judged) / len(judged) if judged else None

    def to_json(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def outcome_part(
    check: str, prompts: Mapping[str, Any], judge: Mapping[str, Any], rows: Iterable[Evidence]
) -> dict[str, Any]:
    """The outcomes of ``rows``, JSON-safe, without what they were made with. Where a prompt was
    asked in several forms the worst of them counts."""
    original: dict[str, bool | None] = {}
    compressed: dict[str, bool | None] = {}
    for row in rows:
        for found, safe in ((original, row.original_safe), (compressed, row.compressed_safe)):
            found[row.id] = safe if row.id not in found else _worse(found[row.id], safe)
    return {
        "check": check,
        "prompts": {key: prompts.get(key) for key in ("name", "version", "digest", "count")},
        "judge": {key: judge.get(key) for key in ("name", "version", "digest")},
        "original": original,
        "compressed": compressed,
    }


def parts_of_result(result: CheckResult) -> list[dict[str, Any]]:
    """All per-prompt outcomes behind a result: its own, or, of ``no_drift``, today's."""
    today = result.provenance.get(TODAY)
    if isinstance(today, (list, tuple)):
        return [dict(part) for part in today]
    prompts, judge = result.provenance.get("prompts"), result.provenance.get("judge")
    if not result.evidence or not isinstance(prompts, Mapping) or not isinstance(judge, Mapping):
        return []
    return [outcome_part(result.check, prompts, judge, result.evidence)]


def outcomes_from(data: object, where: str) -> Outcomes:
    """One entry of a baseline or of the history. Raises ConfigError that begins with ``where``."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: an entry of outcomes must be an object")
    values: dict[str, Any] = {}
    for name in ("pair", "check"):
        value = data.get(name)
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{where}: an entry of outcomes needs {name!r}, a text")
        values[name] = value
    for name in ("prompts", "judge"):
        value = data.get(name)
        named = dict(value) if isinstance(value, Mapping) else {}
        if not all(isinstance(named.get(key), str) for key in ("name", "digest")):
            raise ConfigError(f"{where}: {values['pair']}: needs {name!r} with a name and a digest")
        values[name] = named
    for name in ("original", "compressed"):
        values[name] = _by_prompt(data.get(name), f"{where}: {values['pair']}: {name!r}")
    for name in ("provenance", "pins"):
        value = data.get(name, {})
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: {values['pair']}: {name!r} must be an object")
        values[name] = dict(value)
    if values["original"].keys() != values["compressed"].keys():
        raise ConfigError(f"{where}: {values['pair']}: the two models answered other prompts")
    return Outcomes(**values)


def _by_prompt(value: object, where: str) -> dict[str, bool | None]:
    if not isinstance(value, Mapping) or not value:
        raise ConfigError(f"{where} must be an object of outcomes by prompt id, and not empty")
    for prompt, safe in value.items():
        if safe is not None and not isinstance(safe, bool):
            raise ConfigError(f"{where}: the outcome of {prompt!r} must be true, false or null")
    return dict(value)


def _worse(first: bool | None, second: bool | None) -> bool | None:
    if first is False or second is False:
        return False
    return None if first is None or second is None else True
