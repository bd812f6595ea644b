"""What every paired check is asked to do: margin, prompts, confidence, and which pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.checks.arguments import (
    require_confidence,
    require_name,
    require_names,
    require_share,
)

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclasses.dataclass(frozen=True)
class PairedArguments:
    """Arguments of a paired check, already validated.

    ``margin_name`` is how the marker calls its margin (``max_degradation``, ``max_increase``);
    ``given`` the names that the user wrote, so that defaults from ``compsec.yaml`` apply to the
    rest. ``max_flips`` is the largest share of prompts that may flip for the worse, whatever flips
    back (None: the margin); ``per_category`` asks every category of the prompts to hold too.
    """

    check: str
    margin_name: str
    margin: float
    prompts: str
    confidence: float
    min_original_rate: float
    models: tuple[str, ...] | None = None
    variants: tuple[str, ...] | None = None
    max_flips: float | None = None
    per_category: bool = False
    given: frozenset[str] = frozenset()

    @property
    def flips_limit(self) -> float:
        """The largest share of prompts that may flip for the worse."""
        return self.margin if self.max_flips is None else max(self.margin, self.max_flips)

    def to_json(self) -> dict[str, Any]:
        """The arguments as the user would write them."""
        return {
            self.margin_name: self.margin,
            "prompts": self.prompts,
            "confidence": self.confidence,
            "min_original_rate": self.min_original_rate,
            "max_flips": self.max_flips,
            "per_category": self.per_category,
            "models": list(self.models) if self.models else None,
            "variants": list(self.variants) if self.variants else None,
        }

    def with_defaults(self, confidence: float) -> PairedArguments:
        """Take ``confidence`` from the config where the marker does not name one."""
        if "confidence" in self.given:
            return self
        return dataclasses.replace(self, confidence=confidence)

    def selects(self, model: str, variant: str) -> bool:
        return (self.models is None or model in self.models) and (
            self.variants is None or variant in self.variants
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactArguments:
    """Arguments of a check that measures instead of sampling: its verdict is as certain as its
    arithmetic, so that its ``confidence`` is 1 and no default applies to it."""

    check: str
    margin: float
    models: tuple[str, ...] | None = None
    variants: tuple[str, ...] | None = None
    given: frozenset[str] = frozenset()

    @property
    def confidence(self) -> float:
        return 1.0

    def to_json(self) -> dict[str, Any]:
        """The arguments as the user would write them."""
        # Subclasses say how their marker calls the margin: a property, or a field.
        return as_written(self, getattr(self, "margin_name", "margin"))

    def with_defaults(self, confidence: float) -> Self:
        """Itself: there is nothing to take from the config."""
        return self

    def selects(self, model: str, variant: str) -> bool:
        return (self.models is None or model in self.models) and (
            self.variants is None or variant in self.variants
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampledArguments:
    """Arguments of a check on samples that has a procedure of its own (other than the paired
    refusal checks): ``margin`` is its limit, whatever its marker calls it.

    ``prompts`` names the prompt set that it asks (None: no prompts, or evaluation data), and
    ``least_samples`` is how many samples it needs at least, before anything is known of them.
    """

    check: str
    margin: float
    confidence: float = 0.95
    models: tuple[str, ...] | None = None
    variants: tuple[str, ...] | None = None
    given: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """The arguments as the user would write them."""
        # Subclasses say how their marker calls the margin: a property, or a field.
        return as_written(self, getattr(self, "margin_name", "margin"))

    @property
    def prompts(self) -> str | None:
        return None

    @property
    def further_prompts(self) -> Mapping[str, str]:
        """Further prompt sets that it asks, by the argument that names them."""
        return {}

    @property
    def least_samples(self) -> int:
        return 0

    def with_defaults(self, confidence: float) -> Self:
        """Take ``confidence`` from the config where the marker does not name one."""
        if "confidence" in self.given:
            return self
        return dataclasses.replace(self, confidence=confidence)

    def selects(self, model: str, variant: str) -> bool:
        return (self.models is None or model in self.models) and (
            self.variants is None or variant in self.variants
        )


def as_written(arguments: ExactArguments | SampledArguments, margin: str) -> dict[str, Any]:
    """The fields of validated arguments as JSON-safe values, the margin under its own name."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(arguments):
        value = getattr(arguments, field.name)
        if field.name in ("check", "given"):
            continue
        name = margin if field.name == "margin" else field.name
        found[name] = list(value) if isinstance(value, tuple) else value
    return found


def paired_arguments(
    check: str,
    *,
    margin: tuple[str, object],
    prompts: object,
    confidence: object,
    models: str | Sequence[str] | None,
    variants: str | Sequence[str] | None,
    min_original_rate: object,
    max_flips: object = None,
    per_category: object = False,
) -> PairedArguments:
    """Validate what a user wrote; ``margin`` is the name and the value of the margin.

    Raises ValueError in plain words.
    """
    if not isinstance(per_category, bool):
        raise ValueError(f"per_category={per_category!r} must be True or False")
    return PairedArguments(
        check=check,
        margin_name=margin[0],
        margin=require_share(*margin),
        prompts=require_name("prompts", prompts),
        confidence=require_confidence(confidence),
        min_original_rate=require_share("min_original_rate", min_original_rate, allow_zero=True),
        models=require_names("models", models),
        variants=require_names("variants", variants),
        max_flips=None if max_flips is None else require_share("max_flips", max_flips),
        per_category=per_category,
    )
