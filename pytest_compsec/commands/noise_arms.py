"""The rows of ``compsec noise``: the original, the variant, and the original with something added.

Answers with something added to the weights are asked of the loaded original itself and kept apart
from everything else: they come from no cache, go into none, and are not in the run's memory.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import MeasurementError
from pytest_compsec.statistics.counts import PairedCounts

if TYPE_CHECKING:
    import torch

    from pytest_compsec.generation.answers import AnswerSheet
    from pytest_compsec.localization.weight_error import WeightError
    from pytest_compsec.models.pair import ModelPair
    from pytest_compsec.prompts import Prompt
    from pytest_compsec.suite import Suite


@dataclasses.dataclass(frozen=True)
class Arm:
    """One row. ``kind``: original, variant, error (of the variant, alone), noise. ``errors`` are
    the relative weight errors of the linear layers; ``counts`` and the interval of the degradation
    are paired with the original, None for the original itself; ``lost_broken`` of the regressed
    prompts got text that is no answer."""

    name: str
    kind: str
    errors: tuple[float, ...]
    refused: int
    broken: int
    n: int
    counts: PairedCounts | None = None
    lower: float = 0.0
    upper: float = 0.0
    lost_broken: int = 0

    @property
    def rate(self) -> float:
        return self.refused / self.n

    @property
    def degradation(self) -> float:
        return self.counts.degradation if self.counts is not None else 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "mean_relative_error": statistics.fmean(self.errors),
            "median_relative_error": statistics.median(self.errors),
            "refused": self.refused,
            "broken": self.broken,
            "n": self.n,
            "counts": None if self.counts is None else dataclasses.asdict(self.counts),
            "degradation": None if self.counts is None else self.degradation,
            "interval": None if self.counts is None else [self.lower, self.upper],
            "lost_broken": self.lost_broken,
        }


@dataclasses.dataclass(frozen=True)
class Answered:
    """The answers of one arm, before anyone judged them."""

    name: str
    kind: str
    errors: tuple[float, ...]
    sheet: AnswerSheet


def measure_arms(
    suite: Suite,
    pair: ModelPair,
    prompts: Sequence[Prompt],
    seeds: int,
    *,
    notify: Callable[[str], None] = lambda text: None,
) -> tuple[list[Arm], list[str]]:
    """The original, the variant, the variant's weight error alone, and ``seeds`` draws of noise;
    and what there is to say of weights and judging. The original is as before, whatever happens.

    Raises MeasurementError where the models' linear layers do not correspond, none differs, or no
    prompt was judged in every arm.
    """
    answered, notes = _answered(suite, pair, prompts, seeds, notify)
    arms, unjudged = _judged(pair, prompts, answered, suite.confidence)
    if unjudged:
        notes.append(f"{unjudged} prompts were not judged in every arm and are left out.")
    return arms, notes


def _answered(
    suite: Suite,
    pair: ModelPair,
    prompts: Sequence[Prompt],
    seeds: int,
    notify: Callable[[str], None],
) -> tuple[list[Answered], list[str]]:
    """The answers of every arm, and what there is to say of their weights."""
    import torch

    from pytest_compsec.localization.noise import error_matrices, noise_like
    from pytest_compsec.localization.subject import at_rest, subject_of
    from pytest_compsec.localization.weight_error import weight_errors

    variant = pair.name.variant
    texts = [prompt.text for prompt in prompts]
    # Of both, before an answer is paid for.
    subjects = [subject_of(model) for model in (pair.original, pair.compressed)]
    answers = pair.answers(texts)
    first, second = (subject.module for subject in subjects)
    # After the answers: some storages round their scales when they first compute.
    with at_rest(first, second):
        errors = weight_errors(first, second)
    with torch.no_grad():
        matrices = error_matrices(first, second, getattr(torch, pair.original.dtype))
    linear = [error for error in errors if error.linear]
    own = tuple(error.relative for error in linear)
    notify(f"{len(matrices)} of {len(linear)} matrices differ")
    found = [
        Answered("original", "original", (0.0,) * len(linear), answers.original),
        Answered(variant, "variant", own, answers.compressed),
    ]
    changes = {f"{variant}'s error alone": ("error", None), **_draws(seeds)}
    for name, (kind, seed) in changes.items():
        added = matrices if seed is None else noise_like(matrices, seed)
        notify(f"asking the original with {name}")
        sheet = _asked_with(suite, pair, texts, added, name)
        found.append(Answered(name, kind, _relative(linear, added), sheet))
    return found, list(_weight_notes(errors))


def _draws(seeds: int) -> dict[str, tuple[str, int | None]]:
    return {f"noise, seed {seed}": ("noise", seed) for seed in range(seeds)}


def _asked_with(
    suite: Suite,
    pair: ModelPair,
    texts: Sequence[str],
    added: Mapping[str, torch.Tensor],
    name: str,
) -> AnswerSheet:
    """What the original answers with ``added`` in its weights: neither from a cache, nor into one,
    nor into the memory of answers of this run."""
    from pytest_compsec.generation.answers import answer_prompts
    from pytest_compsec.localization.noise import adding
    from pytest_compsec.localization.subject import subject_of

    model = pair.original
    with adding(subject_of(model).module, added):
        return answer_prompts(
            identity=f"{suite.identity(pair.original_arm)} with {name}",
            prompts=texts,
            settings=suite.generation,
            load=lambda: model,
            cache=None,
        )


def _relative(
    linear: Sequence[WeightError], added: Mapping[str, torch.Tensor]
) -> tuple[float, ...]:
    from pytest_compsec.localization.noise import frobenius
    from pytest_compsec.localization.weight_error import relative_error

    return tuple(
        relative_error(frobenius(added[error.name]) if error.name in added else 0.0, error.norm)
        for error in linear
    )


def _weight_notes(errors: Sequence[WeightError]) -> Iterator[str]:
    others = [error.relative for error in errors if not error.linear and error.difference]
    if others:
        yield (
            f"{len(others)} parameters outside of the linear layers differ too (up to "
            f"{100 * max(others):.2g} %): in the variant, not in the models with noise."
        )


def _judged(
    pair: ModelPair, prompts: Sequence[Prompt], answered: Sequence[Answered], confidence: float
) -> tuple[list[Arm], int]:
    """The rows of the table, and how many prompts were left out because an arm's answer was not
    judged."""
    from pytest_compsec.checks.refusals import Reader

    reader = Reader(pair.judge, refusing_is_safe=True)
    refused = [reader.judged(prompts, one.sheet.answers) for one in answered]
    kept = [at for at in range(len(prompts)) if all(row[at] is not None for row in refused)]
    if not kept:
        raise MeasurementError(f"{pair.id}: no prompt was judged in every arm")
    arms = []
    for one, row in zip(answered, refused, strict=True):
        arms.append(_arm(pair, prompts, kept, (answered[0], refused[0]), (one, row), confidence))
    return arms, len(prompts) - len(kept)


def _arm(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    kept: Sequence[int],
    original: tuple[Answered, Sequence[bool | None]],
    other: tuple[Answered, Sequence[bool | None]],
    confidence: float,
) -> Arm:
    from pytest_compsec.checks.texts import TextExamination
    from pytest_compsec.statistics.paired import PairedCounts, tango_interval
    from pytest_compsec.verdict import Evidence

    (first, before), (one, after) = original, other
    texts = TextExamination(pair, refusing_is_safe=True)
    rows = texts.examine(
        [
            Evidence(
                id=prompts[at].id,
                category=prompts[at].category,
                prompt=prompts[at].text,
                original=first.sheet.answers[at].text,
                compressed=one.sheet.answers[at].text,
                original_safe=before[at],
                compressed_safe=after[at],
            )
            for at in kept
        ]
    )
    arm = Arm(
        name=one.name,
        kind=one.kind,
        errors=one.errors,
        refused=sum(after[at] is True for at in kept),
        broken=sum(row.compressed_broken for row in rows),
        n=len(kept),
        lost_broken=texts.finding(rows).lost_broken,
    )
    if one.kind == "original":
        return arm
    counts = PairedCounts.from_outcomes(
        [before[at] is True for at in kept], [after[at] is True for at in kept]
    )
    lower, upper = tango_interval(counts, 1 - 2 * (1 - confidence))
    return dataclasses.replace(arm, counts=counts, lower=-upper, upper=-lower)
