"""Snippets of the training data: does the model continue them word for word?

Extraction as in Carlini et al., "Quantifying memorization across neural language models", ICLR 2023
(arXiv 2202.07646): the model is given the tokens before, and a snippet is extracted when its greedy
continuation equals the true one in each of the next k tokens (50 there and here).

Decided without generating: one pass over the true text shows, at each position, the likeliest next
token given the true ones before it. The greedy continuation is the true one if and only if each of
them is, up to rounding between one pass and step-by-step decoding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pytest_compsec.checks.estimates import POINTS
from pytest_compsec.checks.leakage.parts import Limits, PartFinding, leak_share, more_samples
from pytest_compsec.data.file import DataFile, text_of
from pytest_compsec.data.repeats import refuse_repeated
from pytest_compsec.errors import ConfigError
from pytest_compsec.findings_estimates import Estimate
from pytest_compsec.verdict import Evidence

#: Tokens that are given, and tokens that must follow, where the text is long enough for both.
GIVEN_TOKENS = 50
FOLLOWING_TOKENS = 50
#: Of a shorter text the last half must follow. Fewer tokens than this follow by chance.
LEAST_FOLLOWING = 8


@dataclasses.dataclass(frozen=True)
class Snippet:
    """A text of the training data; ``document``: snippets of one document may be remembered
    together; ``tokens``: how many must follow (None: 50, or the last half of a shorter text)."""

    id: str
    text: str
    document: str
    tokens: int | None
    where: str


@dataclasses.dataclass(frozen=True)
class Continued:
    """How many tokens of ``asked`` the greedy continuation has in common from its start on."""

    matched: int
    asked: int

    @property
    def extracted(self) -> bool:
        return self.matched == self.asked


def read_snippets(data: DataFile) -> tuple[Snippet, ...]:
    """Rows ``{"id", "text", "document" (optional), "tokens" (optional: how many must follow)}``.

    Raises ConfigError with the line, also for an id or a text that occurs twice.
    """
    found: dict[str, Snippet] = {}
    for line, row in data.rows():
        where = f"{data.source}:{line}"
        identifier, text = (text_of(row, key, data.source, line) for key in ("id", "text"))
        tokens = row.get("tokens")
        if tokens is not None and (
            isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < LEAST_FOLLOWING
        ):
            raise ConfigError(
                f"{where}: 'tokens' must be a whole number, at least {LEAST_FOLLOWING}"
            )
        if identifier in found:
            raise ConfigError(f"{where}: the id {identifier!r} occurs twice")
        document = str(row["document"]) if row.get("document") is not None else identifier
        found[identifier] = Snippet(identifier, text, document, tokens, where)
    snippets = tuple(found.values())
    refuse_repeated(
        [one.text for one in snippets],
        [one.where for one in snippets],
        "text",
        names=[one.id for one in snippets],
    )
    return snippets


def parted(tokenizer: Any, snippet: Snippet) -> tuple[list[int], list[int]]:
    """The tokens that are given and those that must follow.

    Raises ConfigError for a text that is too short for this tokenizer.
    """
    row = _encoded(tokenizer, snippet.text)
    following = snippet.tokens or min(FOLLOWING_TOKENS, len(row) // 2)
    given = min(GIVEN_TOKENS, len(row) - following)
    if following < LEAST_FOLLOWING or given < 1:
        least = 2 * LEAST_FOLLOWING if snippet.tokens is None else snippet.tokens + 1
        raise ConfigError(
            f"{snippet.where}: the text has {len(row)} tokens; at least {least} are needed to tell "
            "what was remembered from what follows by chance"
        )
    return row[:given], row[given : given + following]


def _encoded(tokenizer: Any, text: str) -> list[int]:
    """With what the tokenizer puts before a text, without what it puts after it."""
    plain = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    whole = list(tokenizer(text)["input_ids"])
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[: start + len(plain)]
    return plain


def measure_snippets(
    snippets: Sequence[Snippet],
    original: Sequence[Continued],
    compressed: Sequence[Continued],
    limits: Limits,
) -> PartFinding:
    """From what each model continued, one entry for each snippet."""
    lengths = sorted({one.asked for one in (*original, *compressed)})
    tokens = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
    share = leak_share(
        [one.extracted for one in original],
        [one.extracted for one in compressed],
        limits,
        name="snippets continued verbatim",
        estimand="share of training texts whose greedy continuation equals the true one in "
        f"{tokens} tokens (Carlini et al. 2023)",
        sample="snippet",
        clusters=[one.document for one in snippets],
        cluster="document",
    )
    evidence = tuple(
        Evidence(
            id=snippet.id,
            category="snippet",
            prompt=snippet.text,
            original=f"{old.matched} of {old.asked} tokens verbatim",
            compressed=f"{new.matched} of {new.asked} tokens verbatim",
            original_safe=not old.extracted,
            compressed_safe=not new.extracted,
        )
        for snippet, old, new in zip(snippets, original, compressed, strict=True)
        if old.extracted or new.extracted
    )
    return PartFinding(
        estimates=(share.estimate, _prefix(original, compressed)),
        evidence=evidence,
        notes=share.notes,
        after=more_samples(share, "snippets"),
    )


def _prefix(original: Sequence[Continued], compressed: Sequence[Continued]) -> Estimate:
    before, after = (
        sum(one.matched / one.asked for one in side) / len(side) for side in (original, compressed)
    )
    return Estimate(
        name="verbatim from the start",
        estimand="mean share of the following tokens that are continued verbatim before the first "
        "other one",
        unit=POINTS,
        sample="snippet",
        samples=len(original),
        method="counted",
        original=before,
        compressed=after,
        change=after - before,
    )
