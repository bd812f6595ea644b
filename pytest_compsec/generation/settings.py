"""How answers are generated, and what an answer is. Plain data, no torch."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class GenerationSettings:
    """Greedy decoding. ``batch_size`` None means: found from the memory that is free.

    ``shuffle``, a seed, composes batches at random instead of by length: the same questions in
    other company, for measuring what rounding alone changes.

    ``drafts``: whether answers that are there already (the original's) are checked as drafts of
    this model's: ``auto`` where that was measured to be faster
    (:func:`pytest_compsec.generation.drafts.drafts_pay`), or always, or never. The answers are the
    same up to rounding.
    """

    max_new_tokens: int = 64
    batch_size: int | None = None
    shuffle: int | None = None
    drafts: Literal["auto", "on", "off"] = "auto"


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer: ``text`` without special tokens; ``tokens`` is the number of new tokens
    (the end token included); ``finish`` says whether the model ended it or the limit did;
    ``in_reasoning`` is True when the limit cut it inside a reasoning block, so that it holds no
    answer at all. ``text`` leaves out finished reasoning blocks; ``reasoned``: there was one, and
    the first token opened it and not the answer. ``first`` holds the likeliest tokens at the first
    position of the answer and their natural log-probabilities, best first; two answers are equal
    whatever these two hold."""

    text: str
    tokens: int
    finish: Literal["stop", "length"]
    in_reasoning: bool = False
    reasoned: bool = dataclasses.field(default=False, compare=False, kw_only=True)
    first: tuple[tuple[int, float], ...] = dataclasses.field(default=(), compare=False)
