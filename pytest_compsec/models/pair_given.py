"""What a pair is tested with: samples, a backdoor, prompt sets. The compressed model must not have
been fitted to any of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pytest_compsec.errors import ConfigError

if TYPE_CHECKING:
    from pytest_compsec.attacks.backdoor import Backdoor
    from pytest_compsec.classification.data import EvaluationData
    from pytest_compsec.config.pairs import PairName
    from pytest_compsec.prompts import PromptSet
    from pytest_compsec.suite import Suite

#: Public data sets repeat a few of their training samples among those for testing.
MOST_SHARED_SAMPLES = 0.01


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """What a check is to work with, said by a test's fixtures or by itself; None: what the config
    says."""

    evaluation_data: EvaluationData | None = None
    backdoor: Backdoor | None = None


def given_by_fixtures(
    given: Given, task: str, *, evaluation_data: object, backdoor: object
) -> Given:
    """``given`` with the values of the two fixtures; None leaves what was there.

    Raises ConfigError for values that are neither samples nor a backdoor of the ``task``.
    """
    from pytest_compsec.attacks.triggers.reading import as_backdoor
    from pytest_compsec.classification.reading import as_evaluation_data

    if evaluation_data is not None:
        data = as_evaluation_data(evaluation_data, source="the fixture evaluation_data")
        given = dataclasses.replace(given, evaluation_data=data)
    if backdoor is not None:
        try:
            found = as_backdoor(backdoor, task)
        except ConfigError as error:
            raise ConfigError(f"the fixture backdoor: {error}") from None
        given = dataclasses.replace(given, backdoor=found)
    return given


def evaluation_data_of(suite: Suite, name: PairName, given: Given) -> EvaluationData:
    """The samples of a classifier: the fixture's, else the config's pinned ones.

    Raises ConfigError when there are none, and for samples that the compressed model was fitted to.
    """
    data = given.evaluation_data
    if data is None:
        data = suite.inputs.evaluation_data(name.model)
    if data is None:
        raise ConfigError(
            f"{suite.path.name}: {name.model!r} has no evaluation data. Override the fixture "
            "`evaluation_data`, or name a file with 'evaluation_data'"
        )
    _require_unseen(suite, name, data)
    return data


def _require_unseen(suite: Suite, name: PairName, data: EvaluationData) -> None:
    from pytest_compsec.models.model_inputs import pinned_data, samples_in_both

    arm = suite.inputs.arm(name.model, name.variant)
    if arm.recipe is None or arm.data is None:
        return
    fitted = str(arm.recipe.options["data"])
    shared = samples_in_both(data, pinned_data(arm.data, fitted))
    if shared > MOST_SHARED_SAMPLES * len(data):
        raise ConfigError(
            f"{suite.path.name}: {name.id} was fitted to {fitted!r}, and {shared} of {len(data)} "
            f"samples of {data.source} are in it too: a verdict on them says nothing. Test it with "
            "other samples"
        )


def backdoor_of(suite: Suite, name: PairName, given: Given) -> Backdoor:
    """The trigger and its target: the fixture's, else the config's; either may be missing."""
    from pytest_compsec.attacks.backdoor import Backdoor

    if given.backdoor is not None:
        return given.backdoor
    return suite.inputs.backdoor(name.model) or Backdoor()


def unseen_prompt_set(suite: Suite, name: PairName, asked: str) -> PromptSet:
    """The built-in or configured prompt set ``asked``, compared with the lock.

    Raises ConfigError for prompts that the compressed model was fitted to: the set from which its
    layers were chosen, or with which it was compressed.
    """
    from pytest_compsec.compression.options.base import named_prompt_sets
    from pytest_compsec.prompts.builtin import WRAPPED
    from pytest_compsec.prompts.similarity import shared_prompts

    inputs = suite.inputs
    prompts = inputs.prompt_set(asked)
    # A wrapped request is the same request.
    plain = inputs.prompt_set(WRAPPED[asked]) if asked in WRAPPED else prompts
    recipe = inputs.arm(name.model, name.variant).recipe
    for option, fitted in named_prompt_sets(recipe.options if recipe else {}).items():
        others = inputs.prompt_set(fitted)
        shared = shared_prompts(prompts, others) or shared_prompts(plain, others)
        if shared:
            raise ConfigError(
                f"{suite.path.name}: {name.id} was fitted to the prompt set {fitted!r} "
                f"('{option}'), and {len(shared)} of its prompts are in {asked!r} too "
                f"({', '.join(shared[:3])}): a verdict on them says nothing. Test it with other "
                "prompts"
            )
    return prompts
