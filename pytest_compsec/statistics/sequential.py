"""Stopping early for REGRESSED: an e-process over the blocks of ``ordering``.

For "the degradation is at most m" and a bet λ, K = ∏ (1 + λ a_i (d_i − m)) over the prompts
answered so far (d_i = regressed − improved, a_i the stake) is the capital of a player who bets on
"worse than m". If the hypothesis holds, K at block ends is a supermartingale that starts at 1
(proof in ``ordering``), and so is the average over a few fixed λ. By Ville's inequality it ever
reaches 1/α with probability at most α, however often one looks. Betting on a bounded mean: I.
Waudby-Smith & A. Ramdas, JRSS-B 86 (2024) 1-27; e-processes: A. Ramdas, P. Grünwald, V. Vovk & G.
Shafer, Statistical Science 38 (2023) 576-601.

REGRESSED has two chances to be false, early and at the final look, so its α is split between
them. PRESERVED is decided at the final look only and keeps its whole α there.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, SupportsIndex

from pytest_compsec.statistics._validate import real_between, risk_of, whole_number
from pytest_compsec.statistics.counts import PairedCounts
from pytest_compsec.statistics.decision import Decision, decide, pairs_to_settle
from pytest_compsec.statistics.ordering import Block

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pytest_compsec.statistics.score import Floats

    Integers = npt.NDArray[np.signedinteger[Any]]

# The part of REGRESSED's α that early looks may spend. bench/statistics/early_stopping.py, 864
# prompts of which 2 % improve: with a quarter, half, three quarters a 5-point degradation stops
# at a median of 832, 688, 608, and a 4-point one is found in 63, 57, 48 % of the runs.
SEQUENTIAL_SHARE = 0.5
# Large bets win soonest where nothing improves, small ones survive where models differ both ways.
BETS = (0.25, 0.5, 0.9)
# A lost bet leaves at least this share of the capital: one improved prompt is no proof.
_LEAST_LEFT = 0.05
# An e-value is shown up to here, to stay far from the largest float.
_LARGEST_LOG = 690.0
_BISECTIONS = 40


@dataclass(frozen=True)
class EarlyLook:
    """What the prompts answered so far say about "the degradation is at most the margin".

    evalue:    largest e-value at the end of any complete block, 1 before the first
    threshold: the e-value that means REGRESSED, 1 / the e-process's part of α
    crossed:   whether it was reached
    at:        prompts answered at the end of the block where it was first reached, else None
    interval:  of the degradation; both ends hold at all looks at once, each with an error of at
               most the e-process's part of α. (-1, 1) before the first block. The ends coincide
               when no degradation is compatible with all looks.
    """

    evalue: float
    threshold: float
    crossed: bool
    at: int | None
    interval: tuple[float, float]


def split_risk(confidence: float) -> tuple[float, float]:
    """REGRESSED's α = 1 − confidence as (part of the e-process, part of the final look)."""
    risk = risk_of(confidence)
    return risk * SEQUENTIAL_SHARE, risk * (1.0 - SEQUENTIAL_SHARE)


def regression_evalues(
    blocks: Sequence[Block], differences: Mapping[int, int] | Sequence[int], margin: float
) -> Floats:
    """E-value of "the degradation is at most ``margin``" at the end of each complete block.

    ``differences[i]`` is 1 when prompt i regressed, −1 when it improved, 0 when neither. Blocks
    count up to the first that lacks a prompt; a prompt that could not be judged therefore ends
    the evidence there (−1, the case against REGRESSED, may stand for it). Returns shape
    (complete blocks,). Raises ValueError for any other difference, for a prompt that is in no
    block, or for a margin outside (-1, 1).
    """
    import numpy as np

    margin = real_between("margin", margin, -1.0, 1.0)
    complete, values = _answered(blocks, differences)
    logs = mixed(log_capital(complete, values, margin))
    evalues: Floats = np.exp(np.minimum(logs, _LARGEST_LOG))
    return evalues


def early_look(
    blocks: Sequence[Block],
    differences: Mapping[int, int] | Sequence[int],
    margin: float,
    confidence: float,
) -> EarlyLook:
    """Look at the complete blocks; ``crossed`` is REGRESSED. Arguments as regression_evalues."""
    risk, _ = split_risk(confidence)
    threshold = 1.0 / risk
    evalues = regression_evalues(blocks, differences, margin)
    reached = [number for number, evalue in enumerate(evalues, start=1) if evalue >= threshold]
    return EarlyLook(
        evalue=float(evalues.max(initial=1.0)),
        threshold=threshold,
        crossed=bool(reached),
        at=sum(map(len, blocks[: reached[0]])) if reached else None,
        interval=anytime_interval(blocks, differences, risk),
    )


def anytime_interval(
    blocks: Sequence[Block], differences: Mapping[int, int] | Sequence[int], risk: float
) -> tuple[float, float]:
    """Confidence sequence of the degradation: the margins that no look so far has refuted.

    Each end is wrong, at any look, with probability at most ``risk`` (in (0, 1)). The capital
    falls as the margin rises (see ``log_capital``), so that each end is found by bisection,
    outwards and to 2e-12.
    """
    real_between("risk", risk, 0.0, 1.0)
    complete, values = _answered(blocks, differences)
    lower = _refuted_up_to(complete, values, risk)
    upper = -_refuted_up_to(complete, -values, risk)
    return lower, max(lower, upper)


def may_still_cross(
    blocks: Sequence[Block],
    differences: Mapping[int, int] | Sequence[int],
    margin: float,
    confidence: float,
    cannot_regress: Collection[int] = (),
) -> bool:
    """Whether some outcome of the unanswered prompts makes the e-process reach its threshold.

    ``cannot_regress``: prompts whose original outcome is known to be unsafe. The capital rises
    with every difference, so one case decides: all other unanswered prompts regress.
    """
    known = _checked(blocks, differences)
    best = {
        index: known.get(index, 0 if index in cannot_regress else 1)
        for block in blocks
        for index in block.indices
    }
    threshold = 1.0 / split_risk(confidence)[0]
    return bool((regression_evalues(blocks, best, margin) >= threshold).any())


def decide_sequentially(
    counts: PairedCounts, *, margin: float, confidence: float, settle: bool = True
) -> Decision:
    """The final look after all prompts: ``decide``, with REGRESSED at its final part of α.

    For a run whose e-process has not crossed. PRESERVED keeps its whole α. ``settle`` and errors
    as in ``decide``.
    """
    decision = decide(counts, margin=margin, confidence=confidence, settle=settle)
    final_risk = split_risk(confidence)[1]
    if decision.outcome == "PRESERVED" or decision.regressed_pvalue <= final_risk:
        return decision
    needed = decision.pairs_needed
    if settle and decision.degradation > margin:
        needed = pairs_to_settle(counts, margin, final_risk)
    return replace(decision, outcome="INCONCLUSIVE", pairs_needed=needed)


def look_schedule(blocks: Sequence[Block], first: int = 64) -> tuple[int, ...]:
    """How many blocks to have answered at each look; the last look is at the end.

    At the first block end with ``first`` prompts or more, then with twice as many, and so on. The
    e-process is evaluated at every block end in between too: a look misses nothing.
    """
    wanted = whole_number("first", first, least=1)
    looks, answered = [], 0
    for number, block in enumerate(blocks, start=1):
        answered += len(block)
        if answered >= wanted or number == len(blocks):
            looks.append(number)
            while wanted <= answered:
                wanted *= 2
    return tuple(looks)


def log_capital(blocks: Sequence[Block], differences: Integers, margin: float) -> Floats:
    """Logarithm of the capital of each bet at each block end.

    ``differences``: shape (..., prompts), columns in the order of the blocks' indices. Returns
    shape (..., blocks, bets). In a block with largest stake A the bet is
    min(λ, (1 − 0.05) / (A (1 + m))), fixed before the block and the same for all its prompts. A
    factor falls as m rises, below the cap (obviously) and at it, where it is, with some c < 1,
    1 − c + c (1 + d) / (1 + m).
    """
    import numpy as np

    bets = np.array(BETS)
    shape = (*differences.shape[:-1], len(blocks), len(BETS))
    growth = np.zeros(shape)
    start = 0
    for number, block in enumerate(blocks):
        stakes = np.array(block.stakes)[:, None]
        largest = float(stakes.max()) * (1.0 + margin)
        bet = np.minimum(bets, (1.0 - _LEAST_LEFT) / largest) if largest > 0 else bets
        same, worse, better = (np.log1p(bet * stakes * (d - margin)) for d in (0, 1, -1))
        part = differences[..., start : start + len(block)]
        gain = (part == 1).astype(np.float64) @ (worse - same)
        loss = (part == -1).astype(np.float64) @ (better - same)
        growth[..., number, :] = same.sum(axis=0) + gain + loss
        start += len(block)
    capital: Floats = growth.cumsum(axis=-2)
    return capital


def mixed(logs: Floats) -> Floats:
    """Logarithm of the average capital over the bets, the last axis of ``logs``."""
    import numpy as np

    most = logs.max(axis=-1, keepdims=True)
    average: Floats = most[..., 0] + np.log(np.exp(logs - most).mean(axis=-1))
    return average


def _refuted_up_to(blocks: Sequence[Block], values: Integers, risk: float) -> float:
    """The largest margin m such that some look refutes "the degradation is at most m", or −1."""
    threshold = -math.log(risk)
    low, high = -1.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if float(mixed(log_capital(blocks, values, middle)).max(initial=0.0)) >= threshold:
            low = middle
        else:
            high = middle
    return low


def _answered(
    blocks: Sequence[Block], differences: Mapping[int, int] | Sequence[int]
) -> tuple[list[Block], Integers]:
    """The blocks before the first that lacks a prompt, and their differences in order."""
    import numpy as np

    known = _checked(blocks, differences)
    complete: list[Block] = []
    for block in blocks:
        if not all(index in known for index in block.indices):
            break
        complete.append(block)
    ordered = [known[index] for block in complete for index in block.indices]
    return complete, np.array(ordered, dtype=np.int64)


def _checked(
    blocks: Sequence[Block], differences: Mapping[int, int] | Sequence[int]
) -> dict[int, int]:
    pairs = differences.items() if isinstance(differences, Mapping) else enumerate(differences)
    places = {index for block in blocks for index in block.indices}
    known: dict[int, int] = {}
    for index, difference in pairs:
        if index not in places:
            raise ValueError(f"prompt {index} has a difference but is in no block")
        known[index] = _difference(index, difference)
    return known


def _difference(index: int, value: SupportsIndex) -> int:
    try:
        number = operator.index(value)
    except TypeError:  # None, a float: no outcome is guessed
        number = 2
    # numpy's own kind of bool goes by another name, and older versions take it for a number
    if type(value).__name__ in ("bool", "bool_") or number not in (-1, 0, 1):
        raise ValueError(f"the difference of prompt {index} must be -1, 0 or 1, got {value!r}")
    return number
