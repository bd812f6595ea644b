"""``robustness_preserved``: under attack, the compressed classifier is right as often as the
original.

Estimand: the degradation of robust accuracy, ``(regressed - improved) / n``, over all evaluation
samples; a sample counts as robust on an arm that classifies it right as it is and under every
attack of the list (the worst counts). Both arms meet the same attacks with the same budget: a
white-box one with a straight-through gradient, transfer from the other arm, one by queries alone,
and one with examples made on a simulated quantized model. Decision: exact paired non-inferiority.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.checks.plain_result import plain_result
from pytest_compsec.checks.robustness import (
    RobustnessArguments,
    attacked_in_vain,
    broken_because,
    in_vain_objection,
    invalid_because,
    masking_of,
    robustness_arguments,
    run_attacks,
)
from pytest_compsec.checks.robustness_report import (
    AFTER_BROKEN,
    AFTER_WITHHELD,
    CHANGE_INPUTS,
    finding_of,
    notes_of,
    percent,
    provenance_of,
    settling,
    step_after_invalid,
)
from pytest_compsec.errors import MeasurementError
from pytest_compsec.verdict import CheckResult, Measurement, Verdict

if TYPE_CHECKING:
    from pytest_compsec.models.pair import ModelPair


def robustness_preserved_arguments(
    *,
    eps: float | None = None,
    norm: str = "linf",
    attack: str = "pgd",
    max_degradation: float = 0.02,
    steps: int = 20,
    restarts: int = 3,
    queries: int = 200,
    quantization_bits: int = 4,
    clip: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
    min_original_rate: float = 0.1,
    confidence: float = 0.95,
    models: str | Sequence[str] | None = None,
    variants: str | Sequence[str] | None = None,
) -> RobustnessArguments:
    """Validate the marker's arguments. Raises ValueError in plain words.

    ``eps`` (required) is how far an attack may move an input, in ``norm`` (``linf``: each number of
    it; ``l2``: the Euclidean length of the change) and in the unit of the data, whose range is
    ``clip``. ``attack`` is the white-box attack, ``pgd`` or ``fgsm``: ``steps`` steps, anew from
    ``restarts`` starts. ``queries`` is how often the attack by queries may look at the model, and
    ``quantization_bits`` what the simulated quantized model is rounded to. ``max_degradation`` is
    the non-inferiority margin as a share of samples; below ``min_original_rate`` robust accuracy of
    the original there is nothing to preserve. ``models`` and ``variants`` choose pairs (None: all).
    """
    return robustness_arguments(
        "robustness_preserved",
        eps=eps,
        norm=norm,
        attack=attack,
        max_degradation=max_degradation,
        steps=steps,
        restarts=restarts,
        queries=queries,
        quantization_bits=quantization_bits,
        clip=clip,
        seed=seed,
        min_original_rate=min_original_rate,
        confidence=confidence,
        models=models,
        variants=variants,
    )


def check_robustness_preserved(pair: ModelPair, *, test: str = "", **arguments: Any) -> CheckResult:
    """Attack both arms and decide. ``arguments`` are those of the marker."""
    return measure_robustness(pair, robustness_preserved_arguments(**arguments), test=test)


def measure_robustness(
    pair: ModelPair, arguments: RobustnessArguments, *, test: str = ""
) -> CheckResult:
    """As :func:`check_robustness_preserved`, with arguments that are already validated.

    NOT_MEASURED when the attacks cannot be made, when they cannot be believed (gradient masking, no
    attack that ever succeeds), and when the original has no robustness to preserve. Raises
    MissingExtraError without secml-torch.
    """
    from pytest_compsec.checks.deciding import Judgement
    from pytest_compsec.checks.paired import measurement_of
    from pytest_compsec.statistics.counts import PairedCounts
    from pytest_compsec.statistics.decision import decide
    from pytest_compsec.statistics.exact import noninferiority_pvalue

    try:
        attacked = run_attacks(pair, arguments)
    except MeasurementError as error:
        return plain_result(
            pair, arguments, test, Verdict.NOT_MEASURED, str(error), after=CHANGE_INPUTS
        )
    finally:
        pair.recheck()
    masking = masking_of(attacked, arguments.margin)
    found = finding_of(attacked, arguments, masking)
    counts = PairedCounts.from_outcomes(
        attacked.original.robust.tolist(), attacked.compressed.robust.tolist()
    )
    broken = broken_because(pair, attacked, arguments.confidence)
    invalid = invalid_because(attacked, masking, arguments.settings.method) or broken[0]
    decision = decide(
        counts, margin=arguments.margin, confidence=arguments.confidence, settle=not invalid
    )
    judgement = Judgement(Verdict(decision.outcome), counts, decision, decision.interval)
    measured = measurement_of(judgement, arguments.confidence)
    assert measured is not None
    floor = arguments.min_original_rate
    if invalid:
        verdict, what = Verdict.NOT_MEASURED, invalid
        after = AFTER_BROKEN if invalid == broken[0] else step_after_invalid(masking)
    elif not measured.original_rate or measured.original_rate < floor:
        verdict, after = Verdict.NOT_MEASURED, _SMALLER_EPS
        what = (
            f"the original is right on only {percent(measured.original_rate)} of {counts.n} "
            f"samples under attack (min_original_rate={floor:g}): it has no robustness to preserve"
        )
    else:
        verdict = Verdict(decision.outcome)
        what = _numbers(measured, arguments)
        after = {
            Verdict.REGRESSED: _AFTER_REGRESSION,
            Verdict.INCONCLUSIVE: settling(decision),
        }.get(verdict, "")
    withheld: tuple[str, ...] = ()
    if verdict is Verdict.PRESERVED:
        in_vain = attacked_in_vain(attacked)
        at_worst = PairedCounts.from_outcomes(
            attacked.original.robust.tolist(), (attacked.compressed.robust & ~in_vain).tolist()
        )
        pvalue = noninferiority_pvalue(at_worst, arguments.margin)
        measured = dataclasses.replace(measured, preserved_pvalue=pvalue)
        if pvalue > 1 - arguments.confidence:
            withheld += (in_vain_objection(int(in_vain.sum())),)
        if broken[1]:
            withheld += (f"clean accuracy: {broken[1]}",)
        if withheld:
            verdict, after = Verdict.INCONCLUSIVE, AFTER_WITHHELD
            what = f"{what}; withheld: {withheld[0]}"
    return dataclasses.replace(
        plain_result(pair, arguments, test, verdict, what, after=after),
        measurement=measured,
        withheld=withheld,
        notes=notes_of(attacked, found, arguments),
        provenance=provenance_of(pair, arguments),
        robustness=found,
    )


_SMALLER_EPS = (
    "Lower eps, or test an original that was trained to be robust; lower min_original_rate only if "
    "you know why."
)
_AFTER_REGRESSION = (
    "Do not ship this variant where inputs can be adversarial. Keep more bits or prune less, or "
    "fine-tune it on adversarial examples; then run again."
)


def _numbers(measured: Measurement, arguments: RobustnessArguments) -> str:
    budget = arguments.settings.budget
    lower, upper = measured.interval
    two_sided = 100 * (1 - 2 * (1 - arguments.confidence))
    return (
        f"right under attack {percent(measured.original_rate)} → "
        f"{percent(measured.compressed_rate)} of {measured.n} samples ({budget.norm}, "
        f"eps={budget.eps:.4g}); degradation {100 * measured.degradation:+.1f} points, "
        f"{two_sided:.3g} % interval {100 * lower:+.1f} to {100 * upper:+.1f}, limit "
        f"{100 * arguments.margin:.3g}"
    )
