"""What checks that measure instead of sampling share: their result and where it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_compsec.verdict import CheckResult, Verdict

if TYPE_CHECKING:
    from pytest_compsec.checks.derived_from_original import DerivationArguments
    from pytest_compsec.checks.layers_within import LayersArguments
    from pytest_compsec.models.loaded import LoadedModel
    from pytest_compsec.models.pair import ModelPair


def exact_result(
    pair: ModelPair,
    arguments: DerivationArguments | LayersArguments,
    test: str,
    verdict: Verdict,
    what: str,
    *,
    after: str,
) -> CheckResult:
    """A result without samples: ``what`` was found, and what to do ``after``."""
    return CheckResult(
        check=arguments.check,
        pair=pair.id,
        test=test,
        verdict=verdict,
        summary=f"{verdict}: {pair.id}: {what}",
        next_step=after,
        limit=arguments.margin,
        confidence=arguments.confidence,
        arguments=arguments.to_json(),
    )


def arm_provenance(model: LoadedModel) -> dict[str, Any]:
    """Which weights a model has, for the reports."""
    return {
        "name": model.arm.name,
        "tree": model.arm.files.tree,
        "weights_digest": model.arm.weights_digest,
        "dtype": model.dtype,
        "device": model.device,
    }
