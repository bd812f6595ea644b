"""Membership inference: do likelihoods tell training texts from others, and better than before?

Four attacks, each as an AUC and its increase over the original's: the loss (Yeom et al. 2018), the
least likely tokens (min-k %, Shi et al., ICLR 2024, arXiv 2310.16789), the loss calibrated by the
original's, and the joint attack, the latter two by whoever holds both models (CompLeak, arXiv
2507.16872). All four gate. The increase is bootstrapped over groups (persons, documents), not over
texts or tokens.

The calibrated attack is fitted to nothing: it bounds what the second model adds however few texts
there are for a fitted attack to learn from. Its score is nearly independent of the original's, so
that where the original gives nothing away it takes more than a thousand texts to bound it to 2
points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_compsec.checks.leakage.attacks import Attack, Compared, area_under_curve, rate_found
from pytest_compsec.checks.leakage.membership_texts import LEAST_LIKELY, Text, TextScore
from pytest_compsec.checks.leakage.parts import Limits, PartFinding
from pytest_compsec.findings_estimates import Estimate
from pytest_compsec.verdict import Verdict

if TYPE_CHECKING:
    from pytest_compsec.statistics.score import Integers

#: Estimates that gate: loss, min-k %, calibrated, joint.
CLAIMS = 4
#: A rate needs so many groups of non-members for each one that it may flag.
GROUPS_PER_FALSE_POSITIVE = 10
#: From this AUC on a classifier without a model tells members from others.
TELLING_BASELINE = 0.6
#: How many times the groups whose bound is as wide as the limit come out within it four times out
#: of five: ((1.645 + 0.842) / 1.645) squared, at 95 % confidence.
POWER = 2.3


def measure_membership(
    texts: Sequence[Text],
    original: Sequence[TextScore],
    compressed: Sequence[TextScore],
    limits: Limits,
    max_false_positive_rate: float,
) -> PartFinding:
    """From both models' scores, one for each text."""
    from pytest_compsec.checks.leakage.fusion import folds_of
    from pytest_compsec.statistics.roc import LEAST_GROUPS

    compared = Compared(tuple(one.member for one in texts), tuple(one.group for one in texts))
    if compared.fewest < LEAST_GROUPS:
        return PartFinding(
            missing=(
                f"membership inference needs members and non-members of at least {LEAST_GROUPS} "
                f"groups each; the fewer are {compared.fewest}",
            )
        )
    folds = folds_of(compared.groups, compared.member)
    attacks = _attacks(compared, original, compressed, folds)
    estimates = [area_under_curve(attack, compared, limits) for attack in attacks]
    notes = [_baseline(texts, compared, folds)]
    there, needed = (
        compared.negatives,
        math.ceil(GROUPS_PER_FALSE_POSITIVE / max_false_positive_rate),
    )
    rate = f"a false-positive rate of {100 * max_false_positive_rate:g} %"
    if there >= needed:
        estimates += [
            rate_found(attack, compared, limits, max_false_positive_rate) for attack in attacks
        ]
    else:
        notes.append(
            f"What the attacks find at {rate} is not told: that needs non-members of {needed} "
            f"{compared.sample}s, there are {there}."
        )
    return PartFinding(
        estimates=tuple(estimates),
        notes=tuple(note for note in notes if note),
        after=_after(estimates, compared),
    )


def _attacks(
    compared: Compared,
    original: Sequence[TextScore],
    compressed: Sequence[TextScore],
    folds: Integers,
) -> list[Attack]:
    import numpy as np

    from pytest_compsec.checks.leakage.fusion import fused_scores, joint_scores

    loss, new_loss = (-np.array([one.loss for one in side]) for side in (original, compressed))
    least, new_least = (
        -np.array([one.least_likely for one in side]) for side in (original, compressed)
    )
    alone = np.column_stack([loss, least])
    # What compression changed stands in columns of its own: it is small beside the scores.
    added = np.column_stack([new_loss - loss, new_least - least])
    return [
        Attack("loss attack", loss, new_loss, "the mean loss (Yeom et al. 2018)"),
        Attack(
            "min-k % attack",
            least,
            new_least,
            f"the {100 * LEAST_LIKELY:g} % least likely tokens (Shi et al. 2024)",
        ),
        Attack(
            "calibrated attack",
            loss,
            new_loss - loss,
            "what compression changed in the mean loss, in the direction that tells more, against "
            "the original's mean loss",
            either_direction=True,
        ),
        Attack(
            "joint attack",
            fused_scores(alone, compared.member, folds),
            joint_scores(alone, added, compared.member, folds, compared.groups),
            "both scores of both models (CompLeak 2507.16872), fused by a logistic regression "
            "fitted on other groups, against the same fusion of the original's alone",
        ),
    ]


def _baseline(texts: Sequence[Text], compared: Compared, folds: Integers) -> str:
    """A warning where texts are told apart without any model; empty where they are not."""
    from pytest_compsec.checks.leakage.fusion import length_scores, word_scores
    from pytest_compsec.statistics.roc import auc

    told = []
    for what, scorer in (("words", word_scores), ("length", length_scores)):
        scores = scorer([one.text for one in texts], compared.member, folds)
        area = auc(*compared.parted(scores))
        if area > TELLING_BASELINE:
            told.append(f"{what} alone (AUC {area:.2f})")
    if not told:
        return ""
    return (
        "Members and non-members are told apart without any model, by their "
        f"{' and their '.join(told)}: they differ in topic or length, so that the attacks measure "
        "that difference as well. Take both from one source, split by chance."
    )


def _after(estimates: Sequence[Estimate], compared: Compared) -> str:
    wide = [
        one for one in estimates if one.verdict == Verdict.INCONCLUSIVE and one.upper is not None
    ]
    if not wide:
        return ""
    widest = max(wide, key=lambda one: (one.upper or 0.0) - (one.change or 0.0))
    assert widest.limit is not None
    assert widest.upper is not None
    assert widest.change is not None
    # Bounds narrow with the square root of the number of groups.
    times = POWER * ((widest.upper - widest.change) / widest.limit) ** 2
    about = math.ceil(times * compared.fewest)
    return (
        f"Membership inference: if nothing changed, members and non-members of about {about} "
        f"{compared.sample}s each would show it ({compared.fewest} of the fewer kind now)."
    )
