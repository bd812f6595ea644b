"""What the two checks of adversarial robustness report: numbers, notes, provenance, next steps."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

from pytest_compsec.checks.robustness import RobustnessArguments, sign_in_words

if TYPE_CHECKING:
    from pytest_compsec.attacks.gradient.attacking import Attacked
    from pytest_compsec.findings_robustness import MaskingFinding, RobustnessFinding
    from pytest_compsec.models.pair import ModelPair
    from pytest_compsec.statistics.decision import Decision

#: Samples named in the finding.
_NAMED_SAMPLES = 20
_UPPER_BOUND = (
    "Robust accuracy is what these attacks left over: an attack that was not tried may leave less."
)
AFTER_BROKEN = "Check the original's weights, how inputs are prepared, and the labels."
AFTER_WITHHELD = (
    "Find out what is named above: a compressed model that does not work, or that shows no "
    "gradient, gives no evidence of robustness. Keep more bits or prune less; then run again."
)
CHANGE_INPUTS = "Change what is named above, and run again."


def step_after_invalid(masking: tuple[MaskingFinding, ...]) -> str:
    """What to do when the numbers may not be believed."""
    if not masking:
        return "Raise eps until the attacks fool at least some samples, and run again."
    return (
        "What is measured through a masked gradient is no evidence. Test the model without the "
        "layer that hides its gradient (rounding of activations, saturated outputs), or raise "
        "steps= and restarts= if the white-box attack is merely too weak."
    )


def finding_of(
    attacked: Attacked, arguments: RobustnessArguments, masking: tuple[MaskingFinding, ...]
) -> RobustnessFinding:
    """The numbers of every attack, for the reports."""
    from pytest_compsec.findings_robustness import AttackFinding, RobustnessFinding

    original, compressed = attacked.original, attacked.compressed
    before, after = original.robust, compressed.robust
    lost = (before & ~after).nonzero().squeeze(1).tolist()
    budget = arguments.settings.budget
    return RobustnessFinding(
        n=len(before),
        eps=budget.eps,
        norm=budget.norm,
        original_clean=int(original.correct.sum()),
        compressed_clean=int(compressed.correct.sum()),
        original_robust=int(before.sum()),
        compressed_robust=int(after.sum()),
        attacks=tuple(
            AttackFinding(
                name,
                int((original.correct & ~original.fooled[name]).sum()),
                int((compressed.correct & ~compressed.fooled[name]).sum()),
            )
            for name in original.fooled
        ),
        masking=masking,
        original_gradients=original.gradients,
        compressed_gradients=compressed.gradients,
        regressed_samples=tuple(lost[:_NAMED_SAMPLES]),
        forward_passes=attacked.forward_passes,
        backward_passes=attacked.backward_passes,
    )


def notes_of(
    attacked: Attacked, found: RobustnessFinding, arguments: RobustnessArguments
) -> tuple[str, ...]:
    """What both checks say beside the verdict."""
    settings, n = arguments.settings, found.n
    how = {
        "white-box": f" ({settings.method}, {settings.steps} steps, {settings.restarts} runs)"
        if settings.method == "pgd"
        else " (fgsm)",
        "query": f" ({settings.queries} queries)",
        "quantization-aware": f" ({settings.quantization_bits} bits)",
    }
    each = ", ".join(
        f"{one.name}{how.get(one.name, '')} {_share(one.original, n)} → {_share(one.compressed, n)}"
        for one in found.attacks
    )
    lines = [
        f"Clean accuracy {_share(found.original_clean, n)} → {_share(found.compressed_clean, n)} "
        f"(original → compressed, {n} samples).",
        f"Robust accuracy by attack: {each}; worst of all {_share(found.original_robust, n)} → "
        f"{_share(found.compressed_robust, n)}.",
        _UPPER_BOUND,
    ]
    straight = [
        name
        for name, how_got in (
            ("the original", found.original_gradients),
            ("the compressed model", found.compressed_gradients),
        )
        if how_got != "own"
    ]
    if straight:
        lines.append(
            f"Gradients of {' and '.join(straight)} are those of a dense copy (straight-through); "
            "every answer is that of the real module."
        )
    lines.append(
        f"Cost: {found.forward_passes:,} forward and {found.backward_passes:,} backward passes of "
        "single samples."
    )
    lines += [sign_in_words(sign, settings.method) + "." for sign in found.masking[1:]]
    return (*lines, *attacked.notes)


def provenance_of(pair: ModelPair, arguments: RobustnessArguments) -> dict[str, Any]:
    """What was measured with what, for the reports."""
    from pytest_compsec.attacks.gradient.secml import DISTRIBUTION
    from pytest_compsec.checks.plain_result import arm_provenance
    from pytest_compsec.models.identity import installed_versions

    original, compressed = pair.classifiers
    data = pair.evaluation_data
    return {
        "lock_digest": pair.lock_digest,
        "original": arm_provenance(original),
        "compressed": arm_provenance(compressed),
        "data": {
            "source": data.source,
            "digest": data.digest,
            "pinned": data.pinned,
            "count": len(data),
        },
        "attacks": arguments.settings.to_json(),
        "libraries": {
            **installed_versions(),
            DISTRIBUTION: importlib.metadata.version(DISTRIBUTION),
        },
    }


def settling(decision: Decision) -> str:
    """What to do about an INCONCLUSIVE."""
    if decision.pairs_needed is None:
        return (
            "The degradation is about at the limit: more samples will hardly settle it. Decide on "
            "another max_degradation, or compress less."
        )
    return (
        f"Give about {decision.pairs_needed:,} samples as evaluation data: so many would settle it "
        "if the rates stay as they are."
    )


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _share(count: int, n: int) -> str:
    return percent(count / n)
