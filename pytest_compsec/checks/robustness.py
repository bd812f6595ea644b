"""What the two checks of adversarial robustness share: their arguments, the attacks on both arms,
and when the numbers may not be believed. What they say of them is in ``robustness_report``."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.attacks.gradient.budget import METHODS, NORMS, AttackSettings, Budget
from pytest_compsec.checks.arguments import require_confidence, require_names, require_share
from pytest_compsec.checks.selection import SampledArguments
from pytest_compsec.errors import MeasurementError

if TYPE_CHECKING:
    import torch

    from pytest_compsec.attacks.gradient.attacking import Attacked
    from pytest_compsec.findings_robustness import MaskingFinding
    from pytest_compsec.models.pair import ModelPair


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobustnessArguments(SampledArguments):
    """Validated arguments of both checks; ``margin`` is ``max_degradation``."""

    settings: AttackSettings
    min_original_rate: float

    @property
    def least_samples(self) -> int:
        from pytest_compsec.statistics.power import minimum_pairs

        return minimum_pairs(self.margin, self.confidence)

    def to_json(self) -> dict[str, Any]:
        """The arguments as the user would write them."""
        settings, budget = self.settings, self.settings.budget
        return {
            "eps": budget.eps,
            "norm": budget.norm,
            "attack": settings.method,
            "max_degradation": self.margin,
            "steps": settings.steps,
            "restarts": settings.restarts,
            "queries": settings.queries,
            "quantization_bits": settings.quantization_bits,
            "clip": [budget.lower, budget.upper],
            "seed": settings.seed,
            "min_original_rate": self.min_original_rate,
            "confidence": self.confidence,
            "models": list(self.models) if self.models else None,
            "variants": list(self.variants) if self.variants else None,
        }


def robustness_arguments(
    check: str,
    *,
    eps: object,
    norm: object,
    attack: object,
    max_degradation: object,
    steps: object,
    restarts: object,
    queries: object,
    quantization_bits: object,
    clip: object,
    seed: object,
    min_original_rate: object,
    confidence: object,
    models: str | Sequence[str] | None,
    variants: str | Sequence[str] | None,
) -> RobustnessArguments:
    """Validate what a user wrote. Raises ValueError in plain words."""
    settings = AttackSettings(
        budget=_budget(eps, norm, clip),
        method=_one_of("attack", attack, METHODS),
        steps=_whole("steps", steps, 1),
        restarts=_whole("restarts", restarts, 1),
        queries=_whole("queries", queries, 1),
        quantization_bits=_whole("quantization_bits", quantization_bits, 2, 8),
        seed=_whole("seed", seed, 0),
    )
    return RobustnessArguments(
        check=check,
        margin=require_share("max_degradation", max_degradation),
        confidence=require_confidence(confidence),
        models=require_names("models", models),
        variants=require_names("variants", variants),
        settings=settings,
        min_original_rate=require_share("min_original_rate", min_original_rate, allow_zero=True),
    )


def run_attacks(pair: ModelPair, arguments: RobustnessArguments) -> Attacked:
    """All attacks on both arms of ``pair``, on all of its evaluation data.

    Raises MeasurementError where they cannot be attacked, MissingExtraError without secml-torch.
    """
    from pytest_compsec.attacks.gradient.attacking import attack_both
    from pytest_compsec.models.quiet import quiet

    data = pair.evaluation_data
    if isinstance(data.inputs, tuple):
        raise MeasurementError(
            "texts cannot be moved by a small amount, as these attacks do: eps and norm mean "
            "something for images and other continuous inputs alone"
        )
    original, compressed = pair.classifiers
    labels = data.labels
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < original.classes:
        raise MeasurementError(
            f"the labels reach from {int(labels.min())} to {int(labels.max())}, but the model has "
            f"the classes 0 to {original.classes - 1}"
        )
    if original.classes < 2:
        raise MeasurementError("the model has a single class: no attack can change it")
    inputs = data.inputs

    def attacked() -> Attacked:
        with quiet():
            return attack_both(original, compressed, inputs, labels, arguments.settings)

    # Both checks ask the same of the same attacks.
    return pair.once(("attacks", data.digest, arguments.settings), attacked)


def masking_of(attacked: Attacked, margin: float) -> tuple[MaskingFinding, ...]:
    """Signs of gradient masking on either arm. Without any gradient may be at most the share
    ``margin`` of all samples: each of those may be a loss that was not found."""
    from pytest_compsec.attacks.gradient.masking import signs_of_masking

    found: list[MaskingFinding] = []
    for name, arm in (("original", attacked.original), ("compressed", attacked.compressed)):
        fooled = {attack: made[arm.correct].tolist() for attack, made in arm.fooled.items()}
        without = arm.without_gradient[arm.correct].tolist()
        found += signs_of_masking(name, fooled, without, margin * len(arm.correct))
    return tuple(found)


def invalid_because(attacked: Attacked, masking: Sequence[MaskingFinding], method: str) -> str:
    """Why the numbers may not be believed, in words; "" where nothing speaks against them."""
    if masking:
        others = f" (and {len(masking) - 1} more signs, in the notes)" if len(masking) > 1 else ""
        return sign_in_words(masking[0], method) + others
    arms = (attacked.original, attacked.compressed)
    if not any(bool(made.any()) for arm in arms for made in arm.fooled.values()):
        return (
            "no attack changed a single right answer of either arm, so it is not known whether the "
            "attacks work on these models"
        )
    return ""


def broken_because(pair: ModelPair, attacked: Attacked, confidence: float) -> tuple[str, str]:
    """Why the right answers of the original, and of the compressed model, mean nothing, in words;
    "" where nothing speaks against them.

    The original has to be right more often than the most frequent class. So has the compressed
    model, and to be shown to be, if that can be shown of the original. Of samples of one class
    alone nothing is asked: no model beats the constant there.
    """
    from pytest_compsec.checks.backdoors.figures import constant_pvalue

    labels = pair.evaluation_data.labels.tolist()
    sizes = collections.Counter(labels)
    if len(sizes) < 2:
        return "", ""
    usual = sizes.most_common(1)[0][0]
    constant = [label == usual for label in labels]
    before, after = attacked.original.correct.tolist(), attacked.compressed.correct.tolist()

    def shown(correct: Sequence[bool]) -> bool:
        return constant_pvalue(correct, constant) <= 1 - confidence

    def said(arm: str, correct: Sequence[bool]) -> str:
        return (
            f"{arm} is right without an attack on {sum(correct)} of {len(labels)} samples, and one "
            f"constant answer on {sum(constant)}: it does not work, or the labels are not those of "
            "these inputs"
        )

    collapsed = sum(after) <= sum(constant) or (shown(before) and not shown(after))
    return (
        said("the original", before) if sum(before) <= sum(constant) else "",
        said("the compressed model", after) if collapsed else "",
    )


def attacked_in_vain(attacked: Attacked) -> torch.Tensor:
    """(samples,), bool: there was no gradient on the compressed model and one on the original. How
    such a sample fares under a real attack is not known, and no PRESERVED may rest on it."""
    return attacked.compressed.without_gradient & ~attacked.original.without_gradient


def in_vain_objection(count: int) -> str:
    return (
        f"gradient: on {count} samples the compressed model shows the attack no gradient and the "
        "original does; if they count as lost, it is not shown that the limit is kept"
    )


def sign_in_words(sign: MaskingFinding, method: str) -> str:
    arm = "the original" if sign.arm == "original" else "the compressed model"
    if not sign.attack:
        return (
            f"gradient masking: on {sign.only_attack} samples the white-box attack on {arm} found "
            "no gradient at all (zero or not finite), so those were never attacked in earnest"
        )
    weaker = " (fgsm takes one step: try attack='pgd')" if method == "fgsm" else ""
    return (
        f"gradient masking: on {arm} the {sign.attack} attack, which knows less, fooled "
        f"{sign.only_attack} samples that the white-box attack did not, against "
        f"{sign.only_white_box} the other way round (p = {sign.pvalue:.2g}){weaker}"
    )


def _budget(eps: object, norm: object, clip: object) -> Budget:
    if eps is None:
        raise ValueError(
            "eps is missing: say how far an attack may move an input, such as eps=8/255 for images "
            "in [0, 1] with norm='linf'"
        )
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 < eps < math.inf:
        raise ValueError(f"eps={eps!r} must be a number above 0, such as 8/255")
    if (
        not isinstance(clip, Sequence)
        or len(clip) != 2
        or not all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in clip)
        or not -math.inf < clip[0] < clip[1] < math.inf
    ):
        raise ValueError(
            f"clip={clip!r} must be the lowest and the highest number of an input: (0.0, 1.0)"
        )
    kind = _one_of("norm", norm, NORMS)
    lower, upper = float(clip[0]), float(clip[1])
    if kind == "linf" and eps >= upper - lower:
        raise ValueError(
            f"eps={eps!r} lets an attack turn any input into any other: it must be less than the "
            f"range of inputs, {upper - lower:g} (clip={clip!r})"
        )
    return Budget(float(eps), kind, lower, upper)


def _one_of(name: str, value: object, known: Sequence[Any]) -> Any:
    if value not in known:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, known))}")
    return value


def _whole(name: str, value: object, least: int, most: int | None = None) -> int:
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or value < least
        or (most is not None and value > most)
    ):
        wanted = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}={value!r} must be a whole number, {wanted}")
    return value
