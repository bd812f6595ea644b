"""What answering must spend: floating-point operations and bytes, step by step.

A step is one forward pass over a batch: the prefill reads all prompt tokens, every decoding step
one new token of each row that has not finished. Operations: a matrix of ``k`` parameters costs
``2 k`` for every token that passes it (one multiplication, one addition); attention costs ``4``
per pair of positions, head and element (scores, then the weighted sum of values). Bytes: every
matrix once a step, whatever the batch; the cached keys and values of the rows; and what layers hand
on to each other. Softmax, norms and rotary embeddings are left out: they are of the order of
``hidden`` and not of its square.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from bench.cost.shapes import ModelShape


@dataclasses.dataclass(frozen=True)
class Row:
    """One answered prompt: tokens of the prompt with its template, and new tokens."""

    prompt_tokens: int
    new_tokens: int


@dataclasses.dataclass(frozen=True)
class Precision:
    """Bits of an element, scales of a quantized format included.

    ``layer`` is that of the layers' matrices, ``head`` that of the vocabulary head and the
    embedding (which the common formats leave alone), ``state`` that of activations and of the
    key-value cache. Multiplications are counted in the type of ``state``.
    """

    name: str
    layer: float
    head: float
    state: float


FLOAT32 = Precision("float32", 32, 32, 32)
BFLOAT16 = Precision("bfloat16", 16, 16, 16)
#: 4-bit integers in groups of 128 that share a 16-bit scale and a 4-bit zero point (the GPTQ and
#: AWQ files of a model hub).
INT4 = Precision("int4", 4 + 20 / 128, 16, 16)
#: NF4 in blocks of 64 that share a 32-bit scale (Dettmers et al. 2023, without double
#: quantization), computed in bfloat16 or float32.
NF4 = Precision("nf4", 4 + 32 / 64, 16, 16)
NF4_FLOAT32 = Precision("nf4, float32", 4 + 32 / 64, 32, 32)


@dataclasses.dataclass(frozen=True)
class Work:
    """Floating-point operations, and bytes from and to memory by what they are."""

    operations: float = 0.0
    weight_bytes: float = 0.0
    cache_bytes: float = 0.0
    activation_bytes: float = 0.0

    @property
    def bytes(self) -> float:
        return self.weight_bytes + self.cache_bytes + self.activation_bytes

    def __add__(self, other: Work) -> Work:
        return Work(
            self.operations + other.operations,
            self.weight_bytes + other.weight_bytes,
            self.cache_bytes + other.cache_bytes,
            self.activation_bytes + other.activation_bytes,
        )


@dataclasses.dataclass(frozen=True)
class Steps:
    """The steps of a run, prefills and decoding steps apart."""

    prefill: tuple[Work, ...] = ()
    decode: tuple[Work, ...] = ()

    @property
    def all(self) -> tuple[Work, ...]:
        return self.prefill + self.decode


def total(steps: Iterable[Work]) -> Work:
    """The sum of the work of steps."""
    return sum(steps, Work())


def pairs_of(new: int, before: int, *, causal: bool = True) -> int:
    """Pairs of positions that ``new`` tokens attend to after ``before`` cached ones.

    ``causal=False`` counts the whole square, as a program does that computes it and masks half.
    """
    return new * before + (new * (new + 1) // 2 if causal else new * new)


def step_work(
    shape: ModelShape,
    tokens: Sequence[tuple[int, int]],
    precision: Precision,
    *,
    causal: bool = True,
    logits: int | None = None,
) -> Work:
    """One forward pass over rows of ``(new tokens, cached tokens)``.

    ``logits`` is how many positions get logits; None: the last one of each row.
    """
    new = sum(fresh for fresh, _ in tokens)
    heads = len(tokens) if logits is None else logits
    pairs = sum(pairs_of(fresh, before, causal=causal) for fresh, before in tokens)
    state = precision.state / 8
    return Work(
        operations=2.0 * new * shape.layer_matrices
        + 2.0 * heads * shape.head_matrix
        + 4.0 * pairs * shape.layers * shape.heads * shape.head_dim,
        weight_bytes=shape.layer_matrices * precision.layer / 8
        + shape.head_matrix * precision.head / 8,
        # Read what is there, write what is new (which attention reads while it is at hand).
        cache_bytes=sum(before + fresh for fresh, before in tokens) * shape.cache_elements * state,
        # Each layer reads and writes the residual stream; logits are written and read once.
        activation_bytes=(2 * shape.layers * new * shape.hidden + 2 * heads * shape.vocabulary)
        * state,
    )


def batch_steps(
    shape: ModelShape, rows: Sequence[Row], precision: Precision, *, rows_leave: bool = True
) -> Steps:
    """The steps in which one batch is answered: a prefill, which gives the first new tokens, and a
    decoding step for each further one.

    ``rows_leave``: a finished row costs nothing any more; else it is computed along with the
    others, and padding too, until the last one has finished.
    """
    asked = [row for row in rows if row.new_tokens > 0]
    if not asked:
        return Steps()
    longest = max(row.new_tokens for row in asked)
    if not rows_leave:
        widest = max(row.prompt_tokens for row in asked)
        asked = [Row(widest, longest)] * len(asked)
    prefill = step_work(shape, [(row.prompt_tokens, 0) for row in asked], precision)
    decode = []
    for step in range(1, longest):
        running = [row for row in asked if row.new_tokens > step]
        before = [(1, row.prompt_tokens + step - 1) for row in running]
        decode.append(step_work(shape, before, precision))
    return Steps((prefill,), tuple(decode))


def run_steps(
    shape: ModelShape,
    batches: Sequence[Sequence[Row]],
    precision: Precision,
    *,
    rows_leave: bool = True,
) -> Steps:
    """The steps of one arm's run, batch after batch."""
    known: dict[tuple[Row, ...], Steps] = {}  # batches of equal rows are counted once
    parts = []
    for rows in map(tuple, batches):
        if rows not in known:
            known[rows] = batch_steps(shape, rows, precision, rows_leave=rows_leave)
        parts.append(known[rows])
    return Steps(
        tuple(step for part in parts for step in part.prefill),
        tuple(step for part in parts for step in part.decode),
    )


def uniform_batches(
    prompts: int, prompt_tokens: int, new_tokens: int, batch: int
) -> list[list[Row]]:
    """``prompts`` rows of equal lengths in batches of ``batch``; the last may be smaller."""
    if batch < 1:
        raise ValueError(f"a batch has at least one row, not {batch}")
    row = Row(prompt_tokens, new_tokens)
    return [[row] * min(batch, prompts - start) for start in range(0, prompts, batch)]


def verify_steps(shape: ModelShape, rows: Sequence[Row], precision: Precision) -> Steps:
    """The one forward pass that checks a whole answer written before: what an answer costs that
    agrees with its draft to the end (Stern et al. 2018; Leviathan et al. 2023 for sampling)."""
    asked = [row for row in rows if row.new_tokens > 0]
    if not asked:
        return Steps()
    tokens = [(row.prompt_tokens + row.new_tokens - 1, 0) for row in asked]
    judged = sum(row.new_tokens for row in asked)
    return Steps((step_work(shape, tokens, precision, logits=judged),))
