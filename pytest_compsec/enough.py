"""Are there enough prompts? Said at collection, before any model is loaded.

A prompt set that could not show PRESERVED even without one regression is a usage error; one that
probably would not is a warning with the figure.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import TYPE_CHECKING

from pytest_compsec.checks.selection import ExactArguments, SampledArguments
from pytest_compsec.errors import CompsecError
from pytest_compsec.outcomes import CompsecWarning

if TYPE_CHECKING:
    from _pytest.python import FunctionDefinition

    from pytest_compsec.checks.selection import PairedArguments
    from pytest_compsec.markers import MarkedCheck
    from pytest_compsec.run import Run
    from pytest_compsec.suite import Suite

#: Below this chance of PRESERVED for a model without any loss, a warning.
LEAST_POWER = 0.5


def require_enough_prompts(
    run: Run, suite: Suite, check: MarkedCheck, definition: FunctionDefinition
) -> None:
    """Add a problem to ``run`` or warn about the test; nothing when the prompts suffice, or the
    check samples none."""
    arguments = check.arguments.with_defaults(suite.confidence)
    if isinstance(arguments, ExactArguments):
        return
    where = definition.nodeid.split("[", 1)[0]
    further = arguments.further_prompts if isinstance(arguments, SampledArguments) else {}
    found = {}
    for argument, name in {**further, "prompts": arguments.prompts}.items():
        if name is None:
            continue
        try:
            found[argument] = suite.unverified_prompt_set(name).prompts
        except CompsecError as error:
            run.add_problem(f"{where}: {arguments.check}({argument}={name!r}): {error}")
    if "prompts" not in found or arguments.prompts is None:
        return
    prompts = found["prompts"]
    if isinstance(arguments, SampledArguments):
        if len(prompts) < arguments.least_samples:
            run.add_problem(
                f"{where}: {arguments.check}: {len(prompts)} prompts in {arguments.prompts!r} are "
                f"too few: at least {arguments.least_samples} are needed"
            )
        return
    groups = {f"{arguments.prompts!r}": len(prompts)}
    if arguments.per_category:
        counted = Counter(prompt.category for prompt in prompts)
        smallest = min(counted, key=lambda name: counted[name])
        groups[f"category {smallest!r} of {arguments.prompts!r}"] = counted[smallest]
    for name, count in groups.items():
        problem = too_few(count, name, arguments)
        if problem:
            run.add_problem(f"{where}: {problem}")
            return
    if run.speaks:
        warning = too_weak(len(prompts), arguments, run.settings.expected_discordance)
        if warning:
            definition.warn(CompsecWarning(warning))


def too_few(count: int, name: str, arguments: PairedArguments) -> str | None:
    """Why ``count`` prompts cannot show PRESERVED for a model that never differs, and what could;
    None when they can."""
    needed = _minimum(arguments.margin, arguments.confidence)
    if count >= needed:
        return None
    least = _least(count, arguments.confidence)
    return (
        f"{arguments.check}: {count} prompts in {name} are too few to show "
        f"{arguments.margin_name}={arguments.margin:g} at confidence {arguments.confidence:g}: at "
        f"least {needed} are needed, even for a model that never differs. With {count} prompts the "
        f"least margin is {least:.3f}"
    )


def too_weak(count: int, arguments: PairedArguments, discordance: float) -> str | None:
    """A sentence when a model that lost nothing would probably not come out PRESERVED."""
    from pytest_compsec.statistics.power import approximate_pairs

    risk = 1 - arguments.confidence
    # Plenty by any reckoning: the exact figure takes seconds for tens of thousands of prompts.
    if count > 2 * approximate_pairs(arguments.margin, discordance, risk, LEAST_POWER):
        return None
    chance = _power(count, arguments.margin, discordance, arguments.confidence)
    if chance >= LEAST_POWER:
        return None
    return (
        f"{arguments.check}: with {count} prompts a model that lost nothing comes out PRESERVED "
        f"with probability {chance:.2f} only, if {100 * discordance:g} % of its answers differ "
        f"(ini compsec_expected_discordance). `compsec plan --margin {arguments.margin:g} "
        f"--discordance {discordance:g}` says how many prompts are needed"
    )


# Many tests ask the same question, and the exact answer takes a moment.
@functools.lru_cache(maxsize=256)
def _minimum(margin: float, confidence: float) -> int:
    from pytest_compsec.statistics.power import minimum_pairs

    return minimum_pairs(margin, confidence)


@functools.lru_cache(maxsize=256)
def _least(count: int, confidence: float) -> float:
    from pytest_compsec.statistics.power import least_margin

    return least_margin(count, confidence)


@functools.lru_cache(maxsize=256)
def _power(count: int, margin: float, discordance: float, confidence: float) -> float:
    from pytest_compsec.statistics.power import power

    return power(count, margin, discordance, confidence)
