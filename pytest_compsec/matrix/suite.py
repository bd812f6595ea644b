"""A suite in which the rows of the matrix are the variants of one pinned original.

Nothing is added to the user's config or lock: the recipes are set beside the original that the lock
pins, in memory, and every file is verified as in a test run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pytest_compsec.config.loading import LoadedConfig
from pytest_compsec.config.schema import Config, VariantEntry
from pytest_compsec.errors import ConfigError
from pytest_compsec.matrix.precisions import Precision
from pytest_compsec.models.agreement import installed_tools, recipe_options
from pytest_compsec.models.arm import Recipe
from pytest_compsec.models.lock import ArmPin, Lock
from pytest_compsec.models.staging import Staging
from pytest_compsec.models.verified import VerifiedInputs
from pytest_compsec.suite import MeasuringOptions, ProgressFactory, Suite


def open_matrix_suite(
    loaded: LoadedConfig,
    lock: Lock,
    model: str,
    precisions: Sequence[Precision],
    *,
    dtype: str,
    full: bool,
    progress: ProgressFactory | None = None,
) -> Suite:
    """A suite with the pairs ``model-<precision>``; the original runs in float32, what is
    quantized computes in ``dtype`` (a config's ``dtype``).

    Raises ConfigError for a model that is not in the config, MissingExtraError when a precision
    needs a package that is not installed, IntegrityError when config and lock disagree.
    """
    entry = loaded.config.models.get(model)
    if entry is None:
        known = ", ".join(loaded.config.models)
        raise ConfigError(f"{loaded.path}: there is no model {model!r}; known: {known}")
    if entry.original.endpoint is not None:
        raise ConfigError(
            f"{loaded.where('models', model)}: {model!r} is served, and other precisions are made "
            "from weights, which are not here. Name its files with 'source'"
        )
    if entry.original.runtime is not None:
        raise ConfigError(
            f"{loaded.where('models', model)}: {model!r} runs in {entry.original.runtime}, which "
            "has no other precisions. Leave 'runtime' out"
        )
    # What the user wrote is compared with the lock before anything is set beside it.
    VerifiedInputs.open(loaded, lock, only=[f"{model}-{key}" for key in entry.compressed]).close()
    variants: dict[str, VariantEntry] = {}
    pins: dict[str, ArmPin] = {}
    for precision in precisions:
        values = {"quantize": dict(precision.quantize), "dtype": dtype}
        variant = VariantEntry.model_validate(values, context={"root": loaded.root})
        section, method, options = recipe_options(variant)
        tools = installed_tools(section, method, f"the precision {precision.name!r}")
        variants[precision.name] = variant
        pins[precision.name] = ArmPin(dtype, recipe=Recipe(section, method, options, tools))
    original = entry.original.model_copy(update={"dtype": "float32"})
    entry = entry.model_copy(update={"original": original, "compressed": variants})
    config: Config = loaded.config.model_copy(update={"models": {model: entry}})
    pin = lock.models[model]
    pin = dataclasses.replace(
        pin, original=dataclasses.replace(pin.original, dtype="float32"), variants=pins
    )
    loaded = dataclasses.replace(loaded, config=config)
    lock = dataclasses.replace(lock, models={model: pin})
    return Suite(
        loaded,
        inputs=VerifiedInputs(loaded, lock, Staging()),
        progress=progress,
        options=MeasuringOptions(full=full),
    )
