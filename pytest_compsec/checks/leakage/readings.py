"""What both models say of the training data: each model is read once for all parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_compsec.checks.leakage.canary_spaces import MOST_RANKED, Canary
from pytest_compsec.checks.leakage.exposure import Exposure
from pytest_compsec.checks.leakage.membership_texts import Text, TextScore, score_of
from pytest_compsec.checks.leakage.snippets import Continued, Snippet, parted

if TYPE_CHECKING:
    from pytest_compsec.models.loaded import LoadedModel
    from pytest_compsec.models.pair import ModelPair

#: Candidates whose texts are in memory at one time.
AT_ONCE = 20_000


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What is known of the training data, parsed; ``digests`` of the files that it came from."""

    canaries: tuple[Canary, ...] = ()
    snippets: tuple[Snippet, ...] = ()
    texts: tuple[Text, ...] = ()
    digests: tuple[str, ...] = ()

    @property
    def asked(self) -> bool:
        return bool(self.canaries or self.snippets or self.texts)


@dataclasses.dataclass(frozen=True)
class Reading:
    """Of one model: how exposed each canary is, how far each snippet is continued, each text's
    scores."""

    canaries: tuple[Exposure, ...]
    snippets: tuple[Continued, ...]
    texts: tuple[TextScore, ...]


def readings(pair: ModelPair, data: TrainingData) -> tuple[Reading, Reading]:
    """Original and compressed model, once in a run for the same files.

    Raises MeasurementError for a model that does not show its likelihoods, ConfigError for a text
    that is too short for a tokenizer.
    """
    # One after the other: memory need not hold both.
    key = ("leakage", data.digests)
    return (
        pair.once_for(pair.original_arm, key, lambda: read(pair.original, data)),
        pair.once_for(pair.compressed_arm, key, lambda: read(pair.compressed, data)),
    )


def read(model: LoadedModel, data: TrainingData) -> Reading:
    """Everything that is asked of one model."""
    from pytest_compsec.checks.leakage.passes import require_likelihoods
    from pytest_compsec.generation.likelihood import text_nlls

    require_likelihoods(model)
    nlls = text_nlls(model, [one.text for one in data.texts]) if data.texts else []
    return Reading(
        canaries=tuple(_exposures(model, data.canaries)),
        snippets=_continued(model, data.snippets),
        texts=tuple(score_of(own, one) for own, one in zip(nlls, data.texts, strict=True)),
    )


def _exposures(model: LoadedModel, canaries: Sequence[Canary]) -> Iterator[Exposure]:
    """Canaries are read some at a time: all candidates of all of them would fill the memory."""
    from pytest_compsec.checks.leakage.passes import candidate_nlls

    waiting = list(canaries)
    while waiting:
        taken, candidates = 0, 0
        while taken < len(waiting) and candidates < AT_ONCE:
            candidates += min(waiting[taken].space.size, MOST_RANKED)
            taken += 1
        part, waiting = waiting[:taken], waiting[taken:]
        nlls = candidate_nlls(model, [canary.texts for canary in part])
        yield from (canary.exposure(own) for canary, own in zip(part, nlls, strict=True))


def _continued(model: LoadedModel, snippets: Sequence[Snippet]) -> tuple[Continued, ...]:
    from pytest_compsec.checks.leakage.passes import verbatim_tokens

    if not snippets:
        return ()
    parts = [parted(model.tokenizer, snippet) for snippet in snippets]
    matched = verbatim_tokens(model, [given for given, _ in parts], [rest for _, rest in parts])
    return tuple(
        Continued(number, len(rest)) for number, (_, rest) in zip(matched, parts, strict=True)
    )
