"""``adversarial_transfer_blocked``: examples that the original resists do not pass the compressed
model (the wall was not lowered).

Every sample that both arms classify right comes with a pool of adversarial examples: made on the
original, on the compressed model, on each of them rounded further, and by queries of each. It
is *lost* when some example of the pool is resisted by the original and fools the compressed model,
*mirrored* when some example does it the other way round. Any two models differ a little in where
their boundaries are, so that losses alone prove nothing; the estimand is the excess, ``(lost -
mirrored) / n``. Decision: exact paired non-inferiority.
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
from pytest_compsec.verdict import CheckResult, Verdict

if TYPE_CHECKING:
    from pytest_compsec.attacks.gradient.attacking import Attacked
    from pytest_compsec.findings_robustness import LoweredWall, RobustnessFinding
    from pytest_compsec.models.pair import ModelPair


def adversarial_transfer_blocked_arguments(
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
    confidence: float = 0.95,
    models: str | Sequence[str] | None = None,
    variants: str | Sequence[str] | None = None,
) -> RobustnessArguments:
    """Validate the marker's arguments. Raises ValueError in plain words.

    As those of ``robustness_preserved``; ``max_degradation`` is the largest excess of samples that
    only the compressed model loses, as a share of those that both arms classify right.
    """
    return robustness_arguments(
        "adversarial_transfer_blocked",
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
        min_original_rate=0.0,
        confidence=confidence,
        models=models,
        variants=variants,
    )


def check_adversarial_transfer_blocked(
    pair: ModelPair, *, test: str = "", **arguments: Any
) -> CheckResult:
    """Attack both arms and decide. ``arguments`` are those of the marker."""
    return measure_transfer(pair, adversarial_transfer_blocked_arguments(**arguments), test=test)


def measure_transfer(
    pair: ModelPair, arguments: RobustnessArguments, *, test: str = ""
) -> CheckResult:
    """As :func:`check_adversarial_transfer_blocked`, with arguments that are already validated.

    NOT_MEASURED when the attacks cannot be made or believed, and when no sample is classified right
    by both arms; INCONCLUSIVE instead of PRESERVED when the compressed model lost more clean
    accuracy than ``max_degradation``, since the samples that it gets wrong anyway are left out.
    Raises MissingExtraError without secml-torch.
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
    lost, mirrored = _passing(attacked)

    def with_numbers(result: CheckResult, finding: RobustnessFinding) -> CheckResult:
        return dataclasses.replace(
            result,
            robustness=finding,
            notes=notes_of(attacked, finding, arguments),
            provenance=provenance_of(pair, arguments),
        )

    if not lost:
        what = "no sample is classified right by both arms, so there is no wall to compare"
        empty = plain_result(pair, arguments, test, Verdict.NOT_MEASURED, what, after=CHANGE_INPUTS)
        return with_numbers(empty, found)
    wall = _wall(lost, mirrored, arguments.confidence)
    counts = PairedCounts.from_outcomes([not one for one in mirrored], [not one for one in lost])
    broken = broken_because(pair, attacked, arguments.confidence)
    invalid = invalid_because(attacked, masking, arguments.settings.method) or broken[0]
    decision = decide(
        counts, margin=arguments.margin, confidence=arguments.confidence, settle=not invalid
    )
    judgement = Judgement(Verdict(decision.outcome), counts, decision, decision.interval)
    withheld: tuple[str, ...] = ()
    if invalid:
        verdict, what = Verdict.NOT_MEASURED, invalid
        after = AFTER_BROKEN if invalid == broken[0] else step_after_invalid(masking)
    else:
        verdict = Verdict(decision.outcome)
        what = _numbers(wall, arguments)
        after = {
            Verdict.REGRESSED: _AFTER_REGRESSION,
            Verdict.INCONCLUSIVE: settling(decision),
        }.get(verdict, "")
        dropped = (found.original_clean - found.compressed_clean) / found.n
        if verdict is Verdict.PRESERVED and dropped > arguments.margin:
            verdict, after = Verdict.INCONCLUSIVE, _AFTER_CLEAN_LOSS
            withheld = (
                f"clean accuracy: {100 * dropped:.1f} points less than the original's, and samples "
                "that the compressed model gets wrong without an attack are not among those "
                "compared",
            )
    measured = measurement_of(judgement, arguments.confidence)
    assert measured is not None
    if verdict is Verdict.PRESERVED:
        in_vain = attacked_in_vain(attacked)[
            attacked.original.correct & attacked.compressed.correct
        ]
        at_worst = PairedCounts.from_outcomes(
            [not one for one in mirrored],
            [not one and not blind for one, blind in zip(lost, in_vain.tolist(), strict=True)],
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
    result = dataclasses.replace(
        plain_result(pair, arguments, test, verdict, what, after=after),
        measurement=measured,
        withheld=withheld,
    )
    return with_numbers(result, dataclasses.replace(found, wall=wall))


def _passing(attacked: Attacked) -> tuple[list[bool], list[bool]]:
    """Lost and mirrored, for each sample that both arms classify right."""
    original, compressed = attacked.original, attacked.compressed
    both = original.correct & compressed.correct
    lost = (original.resists & ~compressed.resists).any(0)[both]
    mirrored = (compressed.resists & ~original.resists).any(0)[both]
    return lost.tolist(), mirrored.tolist()


def _wall(lost: list[bool], mirrored: list[bool], confidence: float) -> LoweredWall:
    from pytest_compsec.statistics.proportions import clopper_pearson_interval

    two_sided = 1 - 2 * (1 - confidence)
    first = clopper_pearson_interval(sum(lost), len(lost), two_sided)
    second = clopper_pearson_interval(sum(mirrored), len(mirrored), two_sided)
    from pytest_compsec.findings_robustness import LoweredWall

    return LoweredWall(len(lost), sum(lost), *first, sum(mirrored), *second)


_AFTER_REGRESSION = (
    "Do not ship this variant where inputs can be adversarial: examples that the original stops "
    "get past it. Keep more bits or prune less, or fine-tune it on adversarial examples; then run "
    "again."
)
_AFTER_CLEAN_LOSS = (
    "Repair the clean accuracy first (keep more bits or prune less); then run again."
)


def _numbers(wall: LoweredWall, arguments: RobustnessArguments) -> str:
    budget, n = arguments.settings.budget, wall.n
    return (
        f"of {n} samples that both arms classify right, {percent(wall.lost / n)} "
        f"({percent(wall.lost_lower)} to {percent(wall.lost_upper)}) have an example that the "
        f"original resists and that fools the compressed model, {percent(wall.mirrored / n)} "
        f"({percent(wall.mirrored_lower)} to {percent(wall.mirrored_upper)}) the other way round "
        f"({budget.norm}, eps={budget.eps:.4g}); excess "
        f"{100 * (wall.lost - wall.mirrored) / n:+.1f} points, limit {100 * arguments.margin:.3g}"
    )
