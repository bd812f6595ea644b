"""The registry of compression methods: a new method is one entry here, and one module that does it.

The schema of ``compsec.yaml``, the lock and the loader all read :data:`METHODS`. Nothing here
imports torch; the module named by ``implementation`` is imported when a variant is loaded. It
provides two functions::

    apply(module, options, device) -> module      # compress a dense module, placed on device
    expected(options) -> Expectation              # what the loaded module must then show

Where what is treated depends on the model (convolutions, except of language models), ``expected``
also takes the module; :func:`pytest_compsec.compression.expectation.promised` calls either.

``apply`` of a ``calibrated`` method also takes ``calibration``, the pinned texts that it needs
(:class:`pytest_compsec.compression.calibration.CalibrationTexts`). That of a method that
``trains_on_data`` takes ``data``, the pinned samples with their labels
(:class:`pytest_compsec.classification.data.EvaluationData`), and ``preparation``, what is done to
inputs before the module sees them
(:mod:`pytest_compsec.classification.preparation`; None: nothing).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from pytest_compsec.compression.options.base import Options
from pytest_compsec.compression.options.pruning import (
    ChannelsOptions,
    FinePruningOptions,
    HeadsOptions,
    LayerMagnitudeOptions,
    LayersOptions,
    MagnitudePruningOptions,
    TaylorOptions,
    TwoFourOptions,
    WandaOptions,
)
from pytest_compsec.compression.options.quantization import (
    BitsAndBytesOptions,
    CastOptions,
    GptqOptions,
    HqqOptions,
    RoundToNearestOptions,
    TorchAoOptions,
)


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to derive a variant. ``section`` is its key in the variant (``quantize``, ``prune``),
    ``tools`` the distributions whose versions the lock pins, ``extra`` the optional dependency.
    ``calibrated``: its options name a prompt set in ``calibration``, pinned with the recipe.
    ``trains_on_data``: its options name a file of clean samples with labels in ``data``, pinned
    with the recipe. ``tasks``: the kinds of models that it works on."""

    section: Literal["quantize", "prune"]
    name: str
    options: type[Options]
    implementation: str
    tools: tuple[str, ...]
    extra: str | None = None
    calibrated: bool = False
    trains_on_data: bool = False
    tasks: tuple[str, ...] = ("text-generation",)


# Methods that work on linear layers (and some on convolutions) whatever these compute together.
_CLASSIFIERS = ("image-classification", "text-classification")
_ANY_TASK = ("text-generation", *_CLASSIFIERS)


METHODS: tuple[Method, ...] = (
    Method(
        section="quantize",
        name="bitsandbytes",
        options=BitsAndBytesOptions,
        implementation="pytest_compsec.compression.bitsandbytes",
        tools=("bitsandbytes",),
        extra="bitsandbytes",
        tasks=_ANY_TASK,
    ),
    Method(
        section="quantize",
        name="cast",
        options=CastOptions,
        implementation="pytest_compsec.compression.cast",
        tools=("pytest-compsec",),
        tasks=_ANY_TASK,
    ),
    Method(
        section="quantize",
        name="round-to-nearest",
        options=RoundToNearestOptions,
        implementation="pytest_compsec.compression.round_to_nearest",
        tools=("pytest-compsec",),
        tasks=_ANY_TASK,
    ),
    Method(
        section="quantize",
        name="hqq",
        options=HqqOptions,
        implementation="pytest_compsec.compression.hqq",
        tools=("hqq",),
        extra="hqq",
        tasks=_ANY_TASK,
    ),
    Method(
        section="quantize",
        name="torchao",
        options=TorchAoOptions,
        implementation="pytest_compsec.compression.torchao",
        tools=("torchao",),
        extra="torchao",
        tasks=_ANY_TASK,
    ),
    Method(
        section="quantize",
        name="gptq",
        options=GptqOptions,
        implementation="pytest_compsec.compression.gptq",
        tools=("gptqmodel",),
        extra="gptq",
        calibrated=True,
    ),
    Method(
        section="prune",
        name="magnitude",
        options=MagnitudePruningOptions,
        implementation="pytest_compsec.compression.magnitude",
        tools=("pytest-compsec",),
        tasks=_ANY_TASK,
    ),
    Method(
        section="prune",
        name="layer-magnitude",
        options=LayerMagnitudeOptions,
        implementation="pytest_compsec.compression.layer_magnitude",
        tools=("pytest-compsec",),
        tasks=_ANY_TASK,
    ),
    Method(
        section="prune",
        name="taylor",
        options=TaylorOptions,
        implementation="pytest_compsec.compression.taylor",
        tools=("pytest-compsec",),
        calibrated=True,
    ),
    Method(
        section="prune",
        name="two-four",
        options=TwoFourOptions,
        implementation="pytest_compsec.compression.two_four",
        tools=("pytest-compsec",),
        tasks=_ANY_TASK,
    ),
    Method(
        section="prune",
        name="wanda",
        options=WandaOptions,
        implementation="pytest_compsec.compression.wanda",
        tools=("pytest-compsec",),
        calibrated=True,
    ),
    Method(
        section="prune",
        name="heads",
        options=HeadsOptions,
        implementation="pytest_compsec.compression.heads",
        tools=("pytest-compsec",),
        calibrated=True,
    ),
    Method(
        section="prune",
        name="channels",
        options=ChannelsOptions,
        implementation="pytest_compsec.compression.channels",
        tools=("pytest-compsec",),
        calibrated=True,
    ),
    Method(
        section="prune",
        name="layers",
        options=LayersOptions,
        implementation="pytest_compsec.compression.layers",
        tools=("pytest-compsec",),
        calibrated=True,
    ),
    Method(
        section="prune",
        name="fine-pruning",
        options=FinePruningOptions,
        implementation="pytest_compsec.compression.fine_pruning",
        tools=("pytest-compsec",),
        trains_on_data=True,
        tasks=_CLASSIFIERS,
    ),
)


def all_methods() -> tuple[Method, ...]:
    """Ours, and those of other distributions. Raises ConfigError for a faulty one."""
    from pytest_compsec.extensions import compression_methods

    return (*METHODS, *compression_methods())


def sections() -> tuple[str, ...]:
    """The keys by which a variant can be derived, in the order of registration."""
    return tuple(dict.fromkeys(method.section for method in METHODS))


def methods_of(section: str) -> dict[str, Method]:
    """The methods of one section by name."""
    return {method.name: method for method in all_methods() if method.section == section}


def find(section: str, name: str) -> Method:
    """The registered method; KeyError when there is none."""
    return methods_of(section)[name]


def validated_options(section: str, values: dict[str, Any]) -> Options:
    """Validate a recipe's values with the options class of the method that they name."""
    return find(section, values["method"]).options.model_validate(values)
