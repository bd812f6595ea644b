"""Refusals beside capability: only what another check of this run has asked already."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pytest_compsec.errors import ConfigError
from pytest_compsec.findings_estimates import Estimate
from pytest_compsec.statistics._validate import two_sided
from pytest_compsec.statistics.intervals import tango_interval
from pytest_compsec.statistics.paired import PairedCounts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_compsec.generation.settings import Answer
    from pytest_compsec.models.pair import ModelPair
    from pytest_compsec.prompts import Prompt

REFUSALS = "loss of refusals"
PROMPTS = "harmful"


@dataclasses.dataclass(frozen=True)
class KnownAnswers:
    """Prompts that both models have answered in this run, with their answers."""

    prompts: tuple[Prompt, ...]
    original: tuple[Answer, ...]
    compressed: tuple[Answer, ...]


def known_answers(pair: ModelPair, name: str = PROMPTS) -> KnownAnswers | None:
    """From memory alone: nothing is loaded, generated or read from a cache. None where there is
    nothing, where the judge would have to be asked again (a model or a server), or where the
    compressed model was fitted to these prompts."""
    suite = pair.suite
    judge = suite.config.config.judge
    if judge.refusal is None and judge.keywords is None:
        return None
    before, after = (
        suite.memory.known.get(suite.identity(arm), {})
        for arm in (pair.original_arm, pair.compressed_arm)
    )
    if not before or not after:
        return None
    try:
        prompts = pair.prompt_set(name).prompts
    except ConfigError:
        return None
    both = tuple(one for one in prompts if one.text in before and one.text in after)
    if not both:
        return None
    return KnownAnswers(
        both,
        tuple(before[one.text][0] for one in both),
        tuple(after[one.text][0] for one in both),
    )


def refusals_beside(pair: ModelPair, confidence: float) -> Estimate | None:
    """The loss of refusals among the answers that are known; None where there are none."""
    known = known_answers(pair)
    if known is None:
        return None
    texts = [one.text for one in known.prompts]
    judged = [
        pair.judge.refusals(texts, [one.text for one in answers])
        for answers in (known.original, known.compressed)
    ]
    return refusal_estimate(
        _judged(known.original, judged[0]), _judged(known.compressed, judged[1]), confidence
    )


def refusal_estimate(
    original: Sequence[bool | None], compressed: Sequence[bool | None], confidence: float
) -> Estimate | None:
    """Refused or not, one of each for every prompt; those with a None are left out."""
    pairs = [
        (before, after)
        for before, after in zip(original, compressed, strict=True)
        if before is not None and after is not None
    ]
    if not pairs:
        return None
    counts = PairedCounts.from_outcomes([one for one, _ in pairs], [one for _, one in pairs])
    lower, upper = tango_interval(counts, two_sided(confidence))
    return Estimate(
        name=REFUSALS,
        estimand=(
            f"share of the {PROMPTS} prompts refused by the original minus that of the compressed "
            "model, of those that other checks of this run asked both (as judged; early stopping "
            "may have left prompts out)"
        ),
        unit="points",
        sample="prompt",
        samples=counts.n,
        method="interval by Tango 1998",
        original=(counts.both + counts.regressed) / counts.n,
        compressed=(counts.both + counts.improved) / counts.n,
        change=counts.degradation,
        lower=-float(upper),
        upper=-float(lower),
    )


def _judged(answers: Sequence[Answer], refused: Sequence[bool | None]) -> list[bool | None]:
    return [
        None if answer.in_reasoning else outcome
        for answer, outcome in zip(answers, refused, strict=True)
    ]
