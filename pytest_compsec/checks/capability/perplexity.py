"""How much more a text surprises the compressed model: the ratio of two corpus perplexities.

Perplexity of a corpus is ``exp`` of the mean negative log-likelihood over all its tokens; the ratio
of the two is ``exp`` of the mean difference over the same tokens. Its bounds come from documents,
in the logarithm (:mod:`pytest_compsec.statistics.ratio_bootstrap`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_compsec.checks.capability.questions import Document, documents_of
from pytest_compsec.checks.estimates import verdict_of_bounds
from pytest_compsec.errors import MeasurementError
from pytest_compsec.findings_estimates import Estimate
from pytest_compsec.statistics.ratio_bootstrap import (
    LEAST_DOCUMENTS,
    RESAMPLES,
    bootstrap_ratio,
    unseen_share,
)
from pytest_compsec.verdict import Verdict

if TYPE_CHECKING:
    from pytest_compsec.data import DataFile
    from pytest_compsec.models.loaded import LoadedModel
    from pytest_compsec.models.pair import ModelPair

NAME = "perplexity"
#: So much of each document is read. A longer one says little more than its beginning.
MOST_TOKENS = 512
METHOD = (
    f"studentized bootstrap over documents ({RESAMPLES} resamples, in the logarithm; Efron 1982, "
    "Hall 1988), linearised standard error of a ratio (Cochran 1977)"
)


@dataclasses.dataclass(frozen=True)
class Surprise:
    """One document under one model: ``total`` negative log-likelihood (nats) of ``tokens``, and a
    digest of which tokens they are."""

    tokens: int
    total: float
    read: str = ""


@dataclasses.dataclass(frozen=True)
class PerplexityPart:
    """The estimate (None: nothing to estimate from), what forbids PRESERVED, what stands beside."""

    estimate: Estimate | None
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def surprises(model: LoadedModel, documents: Sequence[Document]) -> tuple[Surprise, ...]:
    """One for each document. Raises MeasurementError for a model without likelihoods at hand."""
    from pytest_compsec.generation.likelihood import text_nlls
    from pytest_compsec.models.arm import digest_of

    rows = text_nlls(model, [one.text for one in documents], most_tokens=MOST_TOKENS)
    read = model.tokenizer([one.text for one in documents])["input_ids"]
    return tuple(
        Surprise(len(row), math.fsum(row), digest_of(list(ids)[:MOST_TOKENS]))
        for row, ids in zip(rows, read, strict=True)
    )


class Reading:
    """Both models read the documents, each when it is in memory anyway; what cannot be read is
    remembered as the reason and not raised: the other parts are measured all the same."""

    def __init__(self, pair: ModelPair, file: DataFile) -> None:
        self.file = file
        self.documents = documents_of(file)
        self._pair = pair
        self._read: dict[str, tuple[Surprise, ...]] = {}
        self._reason: str | None = None

    def read(self, arm: str) -> None:
        """``arm``: ``original`` or ``compressed``."""
        if self._reason is not None:
            return
        pair = self._pair
        one = pair.original_arm if arm == "original" else pair.compressed_arm
        if arm == "compressed":
            # A copy of the original has its digest, and its reading without being loaded.
            pair.require_compressed()
        try:
            self._read[arm] = pair.once_for(
                one,
                ("capability texts", self.file.suffix, self.file.sha256, MOST_TOKENS),
                lambda: surprises(getattr(pair, arm), self.documents),
            )
        except MeasurementError as error:
            self._reason = str(error)

    def part(self, *, limit: float, confidence: float, shared: float) -> PerplexityPart:
        """What was found; REGRESSED at the confidence ``shared``."""
        if self._reason is not None:
            return PerplexityPart(
                None, (f"{NAME} was not measured: {self._reason} (text=None leaves this part out)",)
            )
        return perplexity_part(
            self._read["original"],
            self._read["compressed"],
            [one.id for one in self.documents],
            source=self.file.source,
            limit=limit,
            confidence=confidence,
            shared=shared,
        )


def perplexity_part(
    original: Sequence[Surprise],
    compressed: Sequence[Surprise],
    names: Sequence[str],
    *,
    source: str,
    limit: float,
    confidence: float,
    shared: float,
) -> PerplexityPart:
    """The relative increase of the corpus perplexity. Documents of which no token is scored are
    left out. Where the two models do not read the same tokens, or one finds a text impossible,
    there is nothing to compare."""
    unlike = [
        name
        for name, before, after in zip(names, original, compressed, strict=True)
        if (before.tokens, before.read) != (after.tokens, after.read)
    ]
    if unlike:
        return PerplexityPart(
            None,
            (
                f"{NAME} was not measured: the two models cut {len(unlike)} of {len(names)} texts "
                f"of {source} ({unlike[0]} is one) into different tokens "
                "(template_unchanged shows how their tokenizers differ)",
            ),
        )
    pairs = [
        (before, after) for before, after in zip(original, compressed, strict=True) if before.tokens
    ]
    for arm, rows in (("original", original), ("compressed model", compressed)):
        impossible = [
            name
            for name, one in zip(names, rows, strict=True)
            if one.tokens and not math.isfinite(one.total)
        ]
        if impossible:
            return PerplexityPart(
                None,
                (
                    f"{NAME} was not measured: to the {arm} a token of {impossible[0]} ({source}) "
                    "is impossible, its perplexity infinite",
                ),
            )
    found = _estimate(pairs, limit)
    if len(pairs) < LEAST_DOCUMENTS:
        few = (
            f"{NAME}: {len(pairs)} texts of {source} hold more than one token, and bounds need at "
            f"least {LEAST_DOCUMENTS}"
        )
        return PerplexityPart(found if pairs else None, (few,))
    ratio = bootstrap_ratio(
        [after.total - before.total for before, after in pairs],
        [float(before.tokens) for before, _ in pairs],
    )
    lower, upper = ratio.bounds(confidence)
    verdict = verdict_of_bounds(
        lower, upper, math.log1p(limit), lower_shared=ratio.bounds(shared)[0]
    )
    found = dataclasses.replace(
        found, lower=_relative(lower), upper=_relative(upper), verdict=str(verdict)
    )
    unseen = (
        f"Perplexity is that of {len(pairs)} texts: a kind of text that makes up less than "
        f"{100 * unseen_share(len(pairs), confidence):.2g} % of such may be in none of them."
    )
    return PerplexityPart(found, notes=(unseen,))


def _estimate(pairs: Sequence[tuple[Surprise, Surprise]], limit: float) -> Estimate:
    """Without bounds."""
    tokens = sum(before.tokens for before, _ in pairs)
    before = math.fsum(one.total for one, _ in pairs) / max(tokens, 1)
    after = math.fsum(one.total for _, one in pairs) / max(tokens, 1)
    return Estimate(
        name=NAME,
        estimand=(
            "perplexity of the compressed model on these texts over that of the original, minus 1 "
            f"(token-weighted, {tokens} tokens, at most {MOST_TOKENS} of a text)"
        ),
        unit="relative",
        sample="document",
        samples=len(pairs),
        method=METHOD,
        original=_exp(before),
        compressed=_exp(after),
        change=_relative(after - before),
        limit=limit,
        verdict=str(Verdict.NOT_MEASURED),
    )


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _relative(logarithm: float) -> float:
    return math.expm1(logarithm) if logarithm < 700 else math.inf
