"""Attacks that are fitted: several scores made into one, and texts told apart without any model.

Both are fitted on some groups and scored on the others (cross-validation over groups), so that an
attack is never rewarded for having seen the very texts that it is tested on.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_compsec.statistics.score import Floats, Integers

Groups = Sequence[Hashable]

FOLDS = 5
#: Strength of the ridge penalty, in units of one sample: enough for columns that say the same.
RIDGE = 1.0
_WORDS = re.compile(r"\w+")


def folds_of(groups: Groups, member: Sequence[bool], folds: int = FOLDS) -> Integers:
    """A fold for each sample: groups stay together, and each fold gets its part of those that hold
    members, of those that hold none, and of those that hold both. The same groups always get the
    same folds. Raises ValueError where one kind has fewer than 2 groups."""
    import numpy as np

    kinds: dict[Hashable, set[bool]] = {}
    for group, is_member in zip(groups, member, strict=True):
        kinds.setdefault(group, set()).add(bool(is_member))
    least = min(sum(kind in found for found in kinds.values()) for kind in (True, False))
    if least < 2:
        raise ValueError(f"{least} groups of one kind: nothing can be held out")
    folds = min(folds, least)
    fold: dict[Hashable, int] = {}
    for wanted in ({True, False}, {True}, {False}):
        of_kind = sorted((g for g, found in kinds.items() if found == wanted), key=_digest)
        fold.update({group: place % folds for place, group in enumerate(of_kind)})
    return np.array([fold[group] for group in groups])


def _digest(group: Hashable) -> bytes:
    return hashlib.sha256(repr(group).encode("utf-8", "backslashreplace")).digest()


def fused_scores(features: Floats, member: Sequence[bool], folds: Integers) -> Floats:
    """Score of membership of each sample (shape (n,)) from its ``features`` (n, d), by a logistic
    regression that was fitted on the other folds, each kind weighing one half.

    In units of the scores that it gives the samples it was fitted on (mean 0, deviation 1), so that
    those of different folds can stand in one order.
    """
    import numpy as np

    scores: Floats = np.zeros(len(features))
    for fold in np.unique(folds):
        held_out = folds == fold
        scores[held_out] = _standardised(*_fitted(features, member, held_out), held_out)
    return scores


def joint_scores(
    original: Floats, added: Floats, member: Sequence[bool], folds: Integers, groups: Groups
) -> Floats:
    """As :func:`fused_scores` of both models' scores together: ``original`` (n, d) and what the
    compressed model ``added`` to them (n, e).

    The attacker takes the second model only where it helped on the samples that he knows: where,
    in a cross-validation inside of them, it lowers the log-loss by more than one standard error
    over groups. Otherwise the attack is the original's, sample for sample. Without that rule two
    attacks that find nothing differ by their noise, which thousands of texts do not average out.
    """
    import numpy as np

    both = np.column_stack([original, added])
    labels = np.asarray(member, dtype=bool)
    numbered = _numbered(groups)
    scores: Floats = np.zeros(len(both))
    for fold in np.unique(folds):
        held_out = folds == fold
        helps = _helps(
            original[~held_out],
            both[~held_out],
            labels[~held_out],
            folds[~held_out],
            numbered[~held_out],
        )
        used = both if helps else original
        scores[held_out] = _standardised(*_fitted(used, member, held_out), held_out)
    return scores


def _helps(
    original: Floats, both: Floats, labels: Integers, folds: Integers, groups: Integers
) -> bool:
    import numpy as np

    gained = np.zeros(len(labels))
    for fold in np.unique(folds):
        held_out = folds == fold
        losses = []
        for features in (original, both):
            logits, _ = _fitted(features, labels, held_out)
            own = logits[held_out]
            losses.append(np.logaddexp(0.0, own) - labels[held_out] * own)
        gained[held_out] = losses[0] - losses[1]
    # Each kind weighs one half, as in the fit.
    kinds = np.where(labels, 0.5 / labels.sum(), 0.5 / (~labels).sum())
    sums = np.bincount(groups, weights=gained * kinds, minlength=int(groups.max()) + 1)
    return bool(sums.sum() > math.sqrt(float((sums**2).sum())))


def _numbered(groups: Groups) -> Integers:
    import numpy as np

    places: dict[Hashable, int] = {}
    return np.array([places.setdefault(group, len(places)) for group in groups])


def _fitted(
    features: Floats, member: Sequence[bool] | Integers, held_out: Integers
) -> tuple[Floats, Integers]:
    """Log-odds of all samples by a regression fitted on those that are not held out; and which."""
    import numpy as np

    seen = features[~held_out]
    target = np.asarray(member, dtype=np.float64)[~held_out]
    mean, deviation = seen.mean(axis=0), seen.std(axis=0)
    scaled = (features - mean) / np.where(deviation > 0, deviation, 1.0)
    weights = _logistic(scaled[~held_out], target)
    logits: Floats = weights[0] + scaled @ weights[1:]
    return logits, ~held_out


def _standardised(logits: Floats, seen: Integers, held_out: Integers) -> Floats:
    deviation = float(logits[seen].std())
    centred: Floats = logits[held_out] - float(logits[seen].mean())
    return centred / deviation if deviation > 0 else centred


def _logistic(features: Floats, labels: Floats) -> Floats:
    """Intercept and weights that minimise the balanced log-loss with a ridge on the weights."""
    import numpy as np
    from scipy.optimize import minimize

    count = len(labels)
    design = np.column_stack([np.ones(count), features])
    balance = np.where(labels > 0, 0.5 / labels.sum(), 0.5 / (count - labels.sum()))
    penalty = np.full(design.shape[1], RIDGE / count)
    penalty[0] = 0.0

    def loss(weights: Floats) -> tuple[float, Floats]:
        logits = design @ weights
        value = balance @ (np.logaddexp(0.0, logits) - labels * logits)
        slope = design.T @ (balance * (1.0 / (1.0 + np.exp(-logits)) - labels))
        ridge = float(0.5 * penalty @ weights**2)
        return float(value) + ridge, slope + penalty * weights

    with np.errstate(over="ignore"):  # exp of a large number is infinite, its inverse 0: as meant
        found = minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B")
    weights: Floats = found.x
    return weights


def word_scores(texts: Sequence[str], member: Sequence[bool], folds: Integers) -> Floats:
    """Log-odds of membership from the words of each text alone (naive Bayes with one added to each
    count), fitted on the other folds; per word, so that length does not speak."""
    import numpy as np

    words = [Counter(_WORDS.findall(text.lower())) for text in texts]
    scores: Floats = np.zeros(len(texts))
    for fold in np.unique(folds):
        counts = {True: Counter[str](), False: Counter[str]()}
        for place in np.flatnonzero(folds != fold).tolist():
            counts[bool(member[place])].update(words[place])
        vocabulary = len(counts[True] | counts[False]) + 1
        totals = {kind: found.total() + vocabulary for kind, found in counts.items()}
        base = math.log(totals[False] / totals[True])
        for place in np.flatnonzero(folds == fold).tolist():
            own = words[place]
            odds = sum(
                number * (math.log((counts[True][word] + 1) / (counts[False][word] + 1)) + base)
                for word, number in own.items()
            )
            scores[place] = odds / max(1, own.total())
    return scores


def length_scores(texts: Sequence[str], member: Sequence[bool], folds: Integers) -> Floats:
    """Log-odds of membership from the length of each text alone, fitted on the other folds."""
    import numpy as np

    lengths = np.array([math.log1p(len(text)) for text in texts])
    return fused_scores(np.column_stack([lengths, lengths**2]), member, folds)
