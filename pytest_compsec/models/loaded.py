"""A working model: what checks ask of one, and the one that transformers runs.

The other one is :class:`pytest_compsec.models.llama_cpp_model.LlamaCppModel`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pytest_compsec.generation.settings import Answer, GenerationSettings
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.quiet import quiet
from pytest_compsec.models.weights import WeightReport

if TYPE_CHECKING:
    import torch


class LoadedModel(Protocol):
    """One arm in memory, whatever runs it. Reading ``module`` raises MeasurementError where that is
    no torch module; everything else works with every runtime."""

    @property
    def arm(self) -> Arm: ...

    @property
    def module(self) -> torch.nn.Module: ...

    @property
    def tokenizer(self) -> Any: ...

    @property
    def device(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def weights(self) -> WeightReport: ...

    def serving(self, arm: Arm) -> LoadedModel:
        """The same model in memory for another arm with the same weights."""
        ...

    def generate(
        self,
        prompts: Sequence[str],
        settings: GenerationSettings = ...,
        *,
        on_answers: Callable[[Sequence[int], Sequence[Answer]], None] | None = None,
    ) -> list[Answer]: ...

    def perplexities(
        self, prompts: Sequence[str], answers: Sequence[str]
    ) -> list[float | None]: ...


@dataclasses.dataclass(frozen=True, eq=False)
class TransformersModel:
    """One arm in memory. ``module`` is in evaluation mode on ``device`` (a torch device string),
    computes in ``dtype`` (a torch float type's name) and needs no gradients."""

    arm: Arm
    module: torch.nn.Module
    tokenizer: Any
    device: str
    dtype: str
    weights: WeightReport

    def serving(self, arm: Arm) -> TransformersModel:
        """The same model in memory for another arm with the same weights: two models of a config
        may share them and differ in system prompt or template."""
        return dataclasses.replace(self, arm=arm)

    def generate(
        self,
        prompts: Sequence[str],
        settings: GenerationSettings = GenerationSettings(),  # noqa: B008 (frozen)
        *,
        on_answers: Callable[[Sequence[int], Sequence[Answer]], None] | None = None,
        drafts: Mapping[str, Answer] | None = None,
    ) -> list[Answer]:
        """Answer each prompt greedily, in the arm's chat template and with its system prompt.

        The answers come in the order of ``prompts``; ``on_answers(indices, answers)`` hears of
        each batch as soon as it is done. ``drafts`` are guesses of the answers, by prompt, and
        change none of them but for ties.
        """
        from pytest_compsec.generation.decoding import generate_answers

        with quiet():
            return generate_answers(
                self.module,
                self.tokenizer,
                prompts,
                settings,
                device=self.device,
                system=self.arm.system,
                chat_template_kwargs=self.arm.chat_template_kwargs,
                on_answers=on_answers,
                drafts=drafts,
            )

    def perplexities(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float | None]:
        """Perplexity of each answer to its prompt under this model, its first tokens not counted
        (see :mod:`pytest_compsec.judges.coherence`); None where too few are left."""
        from pytest_compsec.generation.scoring import score_answers
        from pytest_compsec.judges.coherence import SKIPPED_TOKENS, answer_perplexity

        with quiet():
            scores = score_answers(
                self.module,
                self.tokenizer,
                prompts,
                answers,
                device=self.device,
                system=self.arm.system,
                chat_template_kwargs=self.arm.chat_template_kwargs,
                skip_first=SKIPPED_TOKENS,
            )
        return [
            None if score is None else answer_perplexity(score.tokens, score.mean_nll)
            for score in scores
        ]
