"""What a recipe leaves open (``keep_in_full_precision: auto``), found out while `compsec pin` runs.

The layers are chosen on a selection set that no verdict comes from, and written into the lock, so
that every run compresses the same model and a reviewer sees which layers were kept. What was found
once holds as long as everything that it was found with is the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_compsec.errors import CompsecError
from pytest_compsec.models.arm import Arm, Recipe, digest_of

if TYPE_CHECKING:
    from pytest_compsec.config.loading import LoadedConfig
    from pytest_compsec.models.lock import ArmPin, Lock, ModelPin

#: Raise it when the search would choose otherwise: what was found before is then found anew.
CHOICE_VERSION = 1

Notify = Callable[[str], None]


def resolve(
    loaded: LoadedConfig, lock: Lock, previous: Lock | None, notify: Notify
) -> Lock:  # fmt: skip
    """``lock`` with ``found`` filled in for every recipe that says ``auto``.

    Models are loaded and asked only where ``previous`` holds nothing found with the same inputs.
    Raises CompsecError when no choice of layers passes the selection set.
    """
    judge = next(iter(lock.judges.values())).digest
    models = dict(lock.models)
    for name, model in lock.models.items():
        variants = dict(model.variants)
        for key, pin in model.variants.items():
            if pin.recipe is None or pin.recipe.keeps is not None:
                continue
            basis = _basis(model, pin, judge)
            known = _known(previous, basis)
            if known is None:
                variants[key] = _with_found(pin, [], basis)
                trial = dataclasses.replace(
                    lock, models={**models, name: dataclasses.replace(model, variants=variants)}
                )
                known = _search(loaded, trial, name, key, notify)
            variants[key] = _with_found(pin, known, basis)
        models[name] = dataclasses.replace(model, variants=variants)
    return dataclasses.replace(lock, models=models)


def _with_found(pin: ArmPin, names: list[str], basis: str) -> ArmPin:
    assert pin.recipe is not None
    found = {"keep_in_full_precision": names, "basis": basis}
    return dataclasses.replace(pin, recipe=dataclasses.replace(pin.recipe, found=found))


def _basis(model: ModelPin, pin: ArmPin, judge: str) -> str:
    """A digest of everything that the choice depends on."""
    assert pin.recipe is not None
    original = model.original
    return digest_of(
        {
            "choice_version": CHOICE_VERSION,
            "files": original.files.tree if original.files is not None else None,
            "adapter": original.adapter.tree if original.adapter is not None else None,
            "dtype": [original.dtype, pin.dtype],
            "recipe": dataclasses.replace(pin.recipe, found={}).to_json(),
            "settings": {
                "max_new_tokens": model.settings.max_new_tokens,
                "system": model.settings.system,
                "chat_template_kwargs": dict(model.settings.chat_template_kwargs),
            },
            "judge": judge,
        }
    )


def _known(previous: Lock | None, basis: str) -> list[str] | None:
    """What was found with the same inputs, for whichever variant: one that was renamed, or that
    has an adapter on top, is the same compressed model."""
    models = previous.models.values() if previous is not None else ()
    for model in models:
        for pin in model.variants.values():
            if pin.recipe is not None and pin.recipe.found.get("basis") == basis:
                return list(pin.recipe.found["keep_in_full_precision"])
    return None


def _search(
    loaded: LoadedConfig, lock: Lock, model: str, variant: str, notify: Notify
) -> list[str]:
    from pytest_compsec.compression.auto_keep import find_kept
    from pytest_compsec.config.pairs import pair_id
    from pytest_compsec.models.loading import load
    from pytest_compsec.models.staging import Staging
    from pytest_compsec.models.verified import VerifiedInputs
    from pytest_compsec.suite import Suite

    label = pair_id(model, variant)
    notify(f"choosing the layers that {label} keeps in full precision (this asks the models)")
    with Suite(loaded, inputs=VerifiedInputs(loaded, lock, Staging())) as suite:
        original = suite.pool.get(suite.inputs.arm(model, None))
        # Without the adapter that goes on top: it was trained for the layers that are kept, so it
        # has no say in which they are, and another one does not change them.
        arm = dataclasses.replace(suite.inputs.arm(model, variant), compressed_adapter=None)
        assert arm.recipe is not None
        selection = suite.inputs.prompt_set(arm.recipe.options["selection"])
        choice = find_kept(
            original,
            # Not through the pool, which would keep every trial in memory.
            lambda names: load(_trial(arm, names), base=original),
            [prompt.text for prompt in selection.prompts],
            suite.judge(),
            settings=suite.generation,
            notify=lambda text: notify(f"{label}: {text}"),
        )
    notify(f"{label}: {choice}")
    if not choice.passed:
        where = loaded.where("models", model, "compressed", variant)
        raise CompsecError(f"{where}: {label!r}: {choice}\nNothing was pinned")
    return list(choice.kept)


def _trial(arm: Arm, names: tuple[str, ...]) -> Arm:
    """``arm`` with these layers kept."""
    recipe: Recipe | None = arm.recipe
    assert recipe is not None
    found = {**recipe.found, "keep_in_full_precision": list(names)}
    return dataclasses.replace(arm, recipe=dataclasses.replace(recipe, found=found))
