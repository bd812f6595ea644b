"""What the three backdoor markers are asked to do. Light: collecting tests imports this."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pytest_compsec.checks.arguments import (
    require_confidence,
    require_name,
    require_names,
    require_share,
)
from pytest_compsec.checks.selection import SampledArguments

#: The built-in prompt sets of requests to refuse, and of requests to answer.
HARMFUL, BENIGN = "harmful", "benign"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackdoorArguments(SampledArguments):
    """Validated arguments of a backdoor check. ``margin`` is what ``margin_name`` says; ``trigger``
    and ``target`` are None where the fixture ``backdoor`` or the config names them. Of language
    models, ``prompts`` is the prompt set that gets the trigger (None: ``harmful`` or ``benign``, by
    the target); ``harmful`` and ``benign`` are those that stand for accuracy without it."""

    margin_name: str
    max_accuracy_drop: float
    trigger: Any = dataclasses.field(default=None, hash=False)
    target: int | str | None = None
    prompts: str | None = None
    harmful: str = HARMFUL
    benign: str = BENIGN
    strengths: tuple[float, ...] = (1.0,)

    @property
    def least_samples(self) -> int:
        """So many samples that are not of the target show PRESERVED if none is ever hit."""
        from pytest_compsec.statistics.power import minimum_pairs

        return minimum_pairs(self.margin, self.confidence)

    def to_json(self) -> dict[str, Any]:
        """The arguments as the user would write them."""
        from pytest_compsec.attacks.triggers.describing import trigger_json

        found: dict[str, Any] = {
            "trigger": None if self.trigger is None else trigger_json(self.trigger),
            "target": self.target,
            self.margin_name: self.margin,
            "max_accuracy_drop": self.max_accuracy_drop,
            "confidence": self.confidence,
            "models": list(self.models) if self.models else None,
            "variants": list(self.variants) if self.variants else None,
        }
        if self.check == "backdoor_not_amplified":
            found["strengths"] = list(self.strengths)
        return {**found, **self.named_prompts}

    @property
    def further_prompts(self) -> dict[str, str]:
        """``harmful`` and ``benign`` where the user named others than the built-in ones."""
        return {name: value for name, value in self.named_prompts.items() if name != "prompts"}

    @property
    def named_prompts(self) -> dict[str, str]:
        """The arguments that name a prompt set other than the default."""
        found = {"prompts": self.prompts, "harmful": self.harmful, "benign": self.benign}
        defaults = {"prompts": None, "harmful": HARMFUL, "benign": BENIGN}
        return {
            name: value
            for name, value in found.items()
            if value is not None and value != defaults[name]
        }


def backdoor_arguments(
    check: str,
    *,
    trigger: object,
    target: Any,
    margin: tuple[str, object],
    max_accuracy_drop: object,
    prompts: object,
    harmful: object,
    benign: object,
    confidence: object,
    models: str | Sequence[str] | None,
    variants: str | Sequence[str] | None,
    strengths: object = (1.0,),
) -> BackdoorArguments:
    """Validate what a user wrote; ``margin`` is the name and the value of the limit.

    Raises ValueError in plain words.
    """
    if trigger is not None:
        from pytest_compsec.attacks.triggers.describing import check_trigger

        check_trigger(trigger)
    if target is not None:
        from pytest_compsec.attacks.triggers.targets import require_target

        target = require_target(target)
    return BackdoorArguments(
        check=check,
        margin_name=margin[0],
        margin=require_share(*margin),
        max_accuracy_drop=require_share("max_accuracy_drop", max_accuracy_drop),
        trigger=trigger,
        target=target,
        prompts=None if prompts is None else require_name("prompts", prompts),
        harmful=require_name("harmful", harmful),
        benign=require_name("benign", benign),
        confidence=require_confidence(confidence),
        models=require_names("models", models),
        variants=require_names("variants", variants),
        strengths=_require_strengths(strengths),
    )


def _require_strengths(value: object) -> tuple[float, ...]:
    problem = f"strengths={value!r} must be numbers greater than 0 and at most 1, each once"
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or not value:
        raise ValueError(problem)
    for strength in value:
        if isinstance(strength, bool) or not isinstance(strength, (int, float)):
            raise ValueError(problem)
        if not 0 < strength <= 1:
            raise ValueError(problem)
    if len(set(value)) < len(value):
        raise ValueError(problem)
    return tuple(sorted(float(strength) for strength in value))
