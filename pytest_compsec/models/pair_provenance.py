"""Where a result comes from: which models, data, settings and machine, for the reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.models.pair_facts import why_no_perplexity

if TYPE_CHECKING:
    from pytest_compsec.data import DataFile
    from pytest_compsec.models.arm import Arm
    from pytest_compsec.prompts import PromptSet
    from pytest_compsec.suite import Suite


def provenance_of(
    suite: Suite, original: Arm, compressed: Arm, prompt_set: PromptSet
) -> dict[str, Any]:
    """What was measured with what, for the reports."""
    return {
        **provenance_without_prompts(suite, original, compressed, ()),
        "prompts": {
            "name": prompt_set.name,
            "version": prompt_set.version,
            "digest": prompt_set.digest,
            "count": len(prompt_set.prompts),
        },
        "judge": suite.judge_provenance(),
    }


def provenance_without_prompts(
    suite: Suite, original: Arm, compressed: Arm, files: Sequence[DataFile]
) -> dict[str, Any]:
    """The models, the data files, how answers are made, and the machine; nothing of prompts and
    judge."""
    from pytest_compsec.models.identity import installed_versions
    from pytest_compsec.models.machine import machine_facts

    found: dict[str, Any] = {
        "lock_digest": suite.inputs.lock_digest,
        "original": _arm_provenance(suite, original),
        "compressed": _arm_provenance(suite, compressed),
    }
    if files:
        found["data"] = {
            file.name: {"source": file.source, "version": file.version, "sha256": file.sha256}
            for file in files
        }
    return {
        **found,
        "generation": {
            "max_new_tokens": suite.generation.max_new_tokens,
            "decoding": "greedy",
            "drafts": suite.generation.drafts,
        },
        "libraries": installed_versions(),
        "machine": machine_facts(),
    }


def _arm_provenance(suite: Suite, arm: Arm) -> dict[str, Any]:
    from pytest_compsec.models.artefact_facts import artefact_facts

    device, dtype = suite.placement(arm)
    return {
        **artefact_facts(arm),
        "name": arm.name,
        "tree": arm.files.tree if arm.served is None else None,
        "adapter": arm.adapter.tree if arm.adapter else None,
        "recipe": arm.recipe.to_json() if arm.recipe else None,
        "compressed_adapter": arm.compressed_adapter.tree if arm.compressed_adapter else None,
        "runtime": arm.runtime.to_json() if arm.runtime else None,
        "served": _served_provenance(suite, arm),
        "weights_digest": arm.weights_digest,
        "dtype": dtype,
        "dtype_asked": arm.dtype,
        "device": device,
    }


def _served_provenance(suite: Suite, arm: Arm) -> dict[str, Any] | None:
    if arm.served is None:
        return None
    pin = arm.served.pin
    return {
        "url": pin.url,
        "model": pin.model,
        "revision": pin.revision,
        "seed": pin.seed,
        "facts": dict(pin.facts),
        "bytes_verified": False,
        "no_perplexity": why_no_perplexity(suite, arm),
    }
