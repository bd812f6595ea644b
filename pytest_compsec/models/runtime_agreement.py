"""Does a GGUF file answer alike in its own runtime and unpacked by transformers?

A verdict on the unpacked weights speaks of the deployed artefact only as far as the two agree.
They never agree to the last bit: llama.cpp rounds activations to 8 bits for each product with
quantized weights, and keeps keys and values in float16. One flipped token changes all after it, so
texts differ much sooner than what the model was about to say; the judge's view of both is the one
that a verdict rests on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pytest_compsec.errors import MeasurementError
from pytest_compsec.generation.settings import Answer, GenerationSettings

if TYPE_CHECKING:
    from pytest_compsec.models.arm import Arm


class Answering(Protocol):
    """What is asked of both: a LoadedModel, and a LlamaCppModel, of one file."""

    @property
    def arm(self) -> Arm: ...

    def generate(
        self, prompts: Sequence[str], settings: GenerationSettings = ...
    ) -> list[Answer]: ...


@dataclasses.dataclass(frozen=True)
class RuntimeAgreement:
    """Counts over ``prompts`` prompts; differences in nats.

    ``mean_difference`` and ``largest_difference`` are of the absolute difference between the
    log-probabilities of the answer's first token, over the ``shared_tokens`` that both kept among
    the likeliest; None when they share none. ``same_refusal`` prompts are refused by both or by
    neither."""

    prompts: int
    same_text: int
    same_first_token: int
    shared_tokens: int
    mean_difference: float | None
    largest_difference: float | None
    same_refusal: int
    unpacked_refusals: int
    runtime_refusals: int

    @property
    def text_share(self) -> float:
        return self.same_text / self.prompts

    @property
    def first_token_share(self) -> float:
        return self.same_first_token / self.prompts

    @property
    def refusal_share(self) -> float:
        return self.same_refusal / self.prompts

    def line(self) -> str:
        """One line for people: what agrees, in how many of how many prompts."""
        if self.mean_difference is None or self.largest_difference is None:
            tokens = "no likely first token in common"
        else:
            tokens = (
                f"log-probabilities of the first token differ by {self.mean_difference:.3f} nats "
                f"on average, at most {self.largest_difference:.3f}"
            )
        return (
            f"llama.cpp and the unpacked weights agree on refused or complied for "
            f"{self.same_refusal} of {self.prompts} prompts ({self.refusal_share:.1%}; refused: "
            f"{self.runtime_refusals} in llama.cpp, {self.unpacked_refusals} unpacked), on the "
            f"first token for {self.same_first_token}, on the whole text for {self.same_text}; "
            f"{tokens}"
        )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def compare_runtimes(
    unpacked: Answering,
    runtime: Answering,
    prompts: Sequence[str],
    settings: GenerationSettings = GenerationSettings(),  # noqa: B008 (frozen)
    *,
    refused: Callable[[str, str], bool],
) -> RuntimeAgreement:
    """Ask both the same prompts. ``refused(prompt, text)`` is the judge, as in
    :meth:`pytest_compsec.judges.refusal.RefusalJudge.refused`.

    Raises MeasurementError when the two are not one unchanged file in one chat template, or there
    is no prompt; else what their ``generate`` raises.
    """
    first, second = unpacked.arm, runtime.arm
    _require_equal(first.name, second.name, "file", _file(first), _file(second))
    for what in ("system", "chat_template_kwargs"):
        _require_equal(
            first.name, second.name, f"'{what}'", getattr(first, what), getattr(second, what)
        )
    return agreement(
        prompts,
        unpacked.generate(prompts, settings),
        runtime.generate(prompts, settings),
        refused=refused,
    )


def agreement(
    prompts: Sequence[str],
    unpacked: Sequence[Answer],
    runtime: Sequence[Answer],
    *,
    refused: Callable[[str, str], bool],
) -> RuntimeAgreement:
    """From the answers alone, for whoever has them already (one of each for each prompt, made with
    the same settings). Raises MeasurementError without prompts, ValueError when counts differ."""
    if not len(prompts) == len(unpacked) == len(runtime):
        raise ValueError(f"{len(prompts)} prompts, {len(unpacked)} and {len(runtime)} answers")
    if not prompts:
        raise MeasurementError("no prompts were given, so nothing says that two runtimes agree")
    pairs = list(zip(prompts, unpacked, runtime, strict=True))
    verdicts = [
        (refused(prompt, first.text), refused(prompt, second.text))
        for prompt, first, second in pairs
    ]
    differences = [
        abs(value - dict(second.first)[token])
        for _, first, second in pairs
        for token, value in first.first
        if token in dict(second.first)
    ]
    return RuntimeAgreement(
        prompts=len(prompts),
        same_text=sum(first.text == second.text for _, first, second in pairs),
        same_first_token=sum(
            bool(first.first and second.first) and first.first[0][0] == second.first[0][0]
            for _, first, second in pairs
        ),
        shared_tokens=len(differences),
        mean_difference=sum(differences) / len(differences) if differences else None,
        largest_difference=max(differences, default=None),
        same_refusal=sum(first == second for first, second in verdicts),
        unpacked_refusals=sum(first for first, _ in verdicts),
        runtime_refusals=sum(second for _, second in verdicts),
    )


def _file(arm: Arm) -> tuple[Any, ...]:
    # An adapter or a recipe makes other weights of the same file.
    return (
        arm.files.tree,
        arm.files.entry,
        arm.adapter and arm.adapter.tree,
        arm.compressed_adapter and arm.compressed_adapter.tree,
        arm.recipe and arm.recipe.to_json(),
    )


def _require_equal(first: str, second: str, what: str, one: Any, other: Any) -> None:
    if one != other:
        raise MeasurementError(
            f"{first} and {second} have not the same {what}, so a difference between their answers "
            "says nothing of the runtimes. Compare one GGUF file with itself"
        )
