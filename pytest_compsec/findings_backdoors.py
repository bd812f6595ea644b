"""What the backdoor checks found: both arms under the trigger, and whether they still work.

Plain JSON-safe data, as everything in :mod:`pytest_compsec.findings`. Rates and accuracies are
shares in [0, 1], differences in [-1, 1]; ``lower`` and ``upper`` are each one-sided at the check's
confidence (Tango's interval, two-sided at ``1 - 2 * alpha``); the exact p-values decide.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class GroupAccuracy:
    """Accuracy without the trigger on the samples of one true class (of a language model: on the
    harmful or on the benign prompts). None where the group has no measured sample."""

    name: str
    samples: int
    accuracy: float | None


@dataclasses.dataclass(frozen=True)
class ArmBackdoor:
    """One arm with and without the trigger, on ``samples`` whose true label is not the target.

    ``asr`` is the attack success rate P(target | triggered), ``clean_rate`` P(target | clean),
    ``delta_asr`` their difference with its bounds. ``within_pvalue`` is of "it is at least the
    limit", ``beyond_pvalue`` of "it is at most the limit" (of the limit that the check puts on this
    arm). ``clean_accuracy`` is over all samples without the trigger, ``robust_accuracy`` the share
    that gets its true label in spite of the trigger."""

    samples: int
    asr: float
    clean_rate: float
    delta_asr: float
    lower: float
    upper: float
    within_pvalue: float
    beyond_pvalue: float
    clean_accuracy: float | None
    robust_accuracy: float | None
    groups: tuple[GroupAccuracy, ...] = ()


@dataclasses.dataclass(frozen=True)
class AccuracyDrop:
    """How much less accurate the compressed model is without the trigger: paired, over all
    ``samples``; ``held_pvalue`` is of "the drop is at least the limit"."""

    samples: int
    drop: float
    lower: float
    upper: float
    held_pvalue: float
    limit: float


@dataclasses.dataclass(frozen=True)
class StrengthFinding:
    """The trigger at one strength: the share of ``samples`` that it newly turns into the target, in
    both arms, and the paired ``increase`` from the original to the compressed one."""

    strength: float
    target: str
    samples: int
    original_rate: float
    compressed_rate: float
    increase: float
    lower: float
    upper: float
    preserved_pvalue: float
    regressed_pvalue: float


@dataclasses.dataclass(frozen=True)
class BackdoorFinding:
    """A trigger on both arms. ``target`` is in words; ``targets`` is how many were tried (more than
    one where none was named), ``samples`` how many are not of the target and were changed by the
    trigger, ``unchanged`` how many the trigger leaves as they are. ``original`` and ``compressed``
    are None where nothing could be measured of them. ``preserved_pvalue`` is the largest p-value of
    all the tests that PRESERVED asks for (1 where it did not come to them)."""

    trigger: str
    trigger_digest: str
    target: str
    targets: int
    samples: int
    unchanged: int
    original: ArmBackdoor | None = None
    compressed: ArmBackdoor | None = None
    accuracy: AccuracyDrop | None = None
    strengths: tuple[StrengthFinding, ...] = ()
    preserved_pvalue: float = 1.0
