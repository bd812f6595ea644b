"""What a pair hands out: both arms' answers, the judge's calibration, where it all comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.models.arm import Arm, digest_of

if TYPE_CHECKING:
    from pytest_compsec.attacks.backdoor import Backdoor
    from pytest_compsec.classification.data import EvaluationData
    from pytest_compsec.data import DataFile
    from pytest_compsec.generation.answers import AnswerSheet
    from pytest_compsec.models.loaded import LoadedModel
    from pytest_compsec.prompts import PromptSet
    from pytest_compsec.statistics.strata import ArmRates
    from pytest_compsec.suite import Suite

#: JSON has no infinity.
MOST_PERPLEXITY = 1e300


@dataclasses.dataclass(frozen=True)
class PairAnswers:
    """What both arms answered to the same prompts, in the order of the prompts."""

    original: AnswerSheet
    compressed: AnswerSheet

    @property
    def total(self) -> int:
        return len(self.original.answers) + len(self.compressed.answers)

    @property
    def cached(self) -> int:
        return self.original.cached + self.compressed.cached


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """What a check is to work with, said by a test's fixtures or by itself; None: what the config
    says."""

    evaluation_data: EvaluationData | None = None
    backdoor: Backdoor | None = None


@dataclasses.dataclass(frozen=True)
class PairCalibration:
    """The judge's error rates on both arms, the digest of the file they come from, and those of
    the answers that were sampled for labels (:func:`judges.calibration.answers_digest`)."""

    original: ArmRates
    compressed: ArmRates
    digest: str
    original_answers: str
    compressed_answers: str


def perplexities_of(
    suite: Suite,
    arm: Arm,
    prompts: Sequence[str],
    answers: Sequence[str],
    load: Callable[[Arm], LoadedModel],
) -> list[float | None]:
    """Perplexity of each answer under ``arm``, from the facts of earlier runs what is there; None
    where there is too little text. A server that does not tell gives None throughout, and the
    suite remembers its reason, so that every result says it."""
    from pytest_compsec.models.served.likelihood import NoLikelihoodError

    names = [
        f"perplexity {digest_of([prompt, answer])}"
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    known: dict[str, Any] = {name: suite.recall(arm, name) for name in names}
    missing = [place for place, name in enumerate(names) if known[name] is None]
    if missing:
        try:
            found = load(arm).perplexities(
                [prompts[place] for place in missing], [answers[place] for place in missing]
            )
        except NoLikelihoodError as error:
            suite.measured[_no_likelihood(arm)] = str(error)
            return [None] * len(names)
        for place, perplexity in zip(missing, found, strict=True):
            # A list, so that None is known too.
            known[names[place]] = [perplexity and min(perplexity, MOST_PERPLEXITY)]
            suite.remember(arm, names[place], known[names[place]])
    return [known[name][0] for name in names]


def _no_likelihood(arm: Arm) -> tuple[str, str]:
    return "no perplexities", arm.weights_digest


def drafting(suite: Suite, model: Any, original: Arm, arm: Arm) -> Any:
    """``model``, or, where the original's answers are to be its drafts, one that has them at hand.
    Which answers are known makes none of its own wrong: a draft is a guess."""
    from pytest_compsec.generation.drafts import WithDrafts, drafts_wanted

    alike = (
        arm.variant is not None
        and all(one.runtime is None and one.served is None for one in (arm, original))
        and arm.system == original.system
        and arm.chat_template_kwargs == original.chat_template_kwargs
    )
    recipe = arm.recipe
    if not drafts_wanted(
        suite.generation,
        device=suite.placement(arm)[0],
        section=recipe.section if recipe else None,
        method=recipe.method if recipe else None,
        alike=alike,
    ):
        return model
    known = suite.memory.known.get(suite.identity(original), {})
    return WithDrafts(model, {prompt: answer for prompt, (answer, _) in known.items()})


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
    device, dtype = suite.placement(arm)
    return {
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
        "no_perplexity": suite.measured.get(_no_likelihood(arm)),
    }
