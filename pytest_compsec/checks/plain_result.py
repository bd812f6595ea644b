"""What checks with a procedure of their own share: a result without numbers, to which they add
theirs, and which weights a model has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_compsec.verdict import CheckResult, Verdict

if TYPE_CHECKING:
    from pytest_compsec.checks.selection import ExactArguments, SampledArguments
    from pytest_compsec.models.loaded import LoadedModel
    from pytest_compsec.models.pair import ModelPair

    Arguments: TypeAlias = ExactArguments | SampledArguments


def plain_result(
    pair: ModelPair,
    arguments: Arguments,
    test: str,
    verdict: Verdict,
    what: str,
    *,
    after: str = "",
) -> CheckResult:
    """A result without numbers: ``what`` was found, and what to do ``after``."""
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
    from pytest_compsec.models.artefact_facts import artefact_facts

    return {
        **artefact_facts(model.arm),
        "name": model.arm.name,
        "tree": model.arm.files.tree,
        "weights_digest": model.arm.weights_digest,
        "dtype": model.dtype,
        "device": model.device,
    }
