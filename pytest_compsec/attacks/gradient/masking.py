"""Does the white-box attack see what weaker attackers see? If not, its numbers are worth nothing.

An attack that knows the model can do whatever one can that does not. Where examples made on another
model, or found by queries alone, fool significantly more samples, the gradient leads astray
(Athalye et al. 2018, arXiv 1802.00420, section 3.1; Carlini et al. 2019, arXiv 1902.06705).
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

from pytest_compsec.findings_robustness import MaskingFinding
from pytest_compsec.statistics._validate import special_functions

#: Significance of the one-sided test for each weaker attack on each arm.
RISK = 0.01
WHITE_BOX = "white-box"


def mcnemar_one_sided(only_first: int, only_second: int) -> float:
    """P(X >= only_first) for X binomial with ``only_first + only_second`` trials of probability one
    half: the exact McNemar test of "the first does not succeed more often than the second"."""
    if only_first == 0:
        return 1.0
    # The upper tail of a binomial is a regularized incomplete beta function.
    return float(special_functions().betainc(only_first, only_second + 1, 0.5))


def signs_of_masking(
    arm: str,
    fooled: Mapping[str, Sequence[bool]],
    without_gradient: Sequence[bool],
    allowed_without: float,
) -> tuple[MaskingFinding, ...]:
    """What shows that the white-box attack on ``arm`` is too weak to be believed.

    ``fooled[attack]`` says of each sample that the arm classifies right whether the attack by that
    name fooled it, ``without_gradient`` whether there was no gradient at all. More of those than
    ``allowed_without`` (in samples) are a sign: that many were never attacked in earnest.
    """
    found = []
    missing = sum(without_gradient)
    if missing > allowed_without:
        found.append(MaskingFinding(arm, "", missing, 0, None))
    white = fooled[WHITE_BOX]
    for attack, successes in fooled.items():
        if attack == WHITE_BOX:
            continue
        only_attack = sum(map(operator.gt, successes, white))
        only_white = sum(map(operator.gt, white, successes))
        pvalue = mcnemar_one_sided(only_attack, only_white)
        if pvalue <= RISK:
            found.append(MaskingFinding(arm, attack, only_attack, only_white, pvalue))
    return tuple(found)
