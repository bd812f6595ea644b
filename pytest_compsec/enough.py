"""Are there enough prompts? Said at collection, before any model is loaded.

A prompt set that could not show PRESERVED even without one regression is a usage error; one that
probably would not is a warning with the figure.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from pytest_compsec.checks.selection import ExactArguments, SampledArguments
from pytest_compsec.errors import CompsecError
from pytest_compsec.outcomes import CompsecWarning

if TYPE_CHECKING:
    from pathlib import Path

    from _pytest.python import FunctionDefinition

    from pytest_compsec.checks.selection import PairedArguments
    from pytest_compsec.markers import MarkedCheck
    from pytest_compsec.run import Run
    from pytest_compsec.suite import Suite

#: Below this chance of PRESERVED for a model without any loss, a warning.
LEAST_POWER = 0.5
#: This many times ln(1 - confidence) / ln(1 - margin) prompts are enough by any reckoning, so the
#: exact figure, which needs numpy, is not asked for.
PLENTY = 2

#: Prompts by category of each set of each config, or why it cannot be read: read once a run,
#: because a thousand tests may ask the same one.
_COUNTED: pytest.StashKey[dict[tuple[Path, str], Counter[str] | CompsecError]] = pytest.StashKey()


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
    for argument, name in {**further, "prompts": arguments.prompts}.items():
        found = _counted(run, suite, name) if name is not None else None
        if isinstance(found, CompsecError):
            run.add_problem(f"{where}: {arguments.check}({argument}={name!r}): {found}")
            return
    if arguments.prompts is None:
        return
    counted = _counted(run, suite, arguments.prompts)
    assert not isinstance(counted, CompsecError)
    total = sum(counted.values())
    if isinstance(arguments, SampledArguments):
        if total < arguments.least_samples:
            run.add_problem(
                f"{where}: {arguments.check}: {total} prompts in {arguments.prompts!r} are "
                f"too few: at least {arguments.least_samples} are needed"
            )
        return
    groups = {f"{arguments.prompts!r}": total}
    if arguments.per_category and counted:
        smallest = min(counted, key=lambda name: counted[name])
        groups[f"category {smallest!r} of {arguments.prompts!r}"] = counted[smallest]
    for name, count in groups.items():
        problem = too_few(count, name, arguments)
        if problem:
            run.add_problem(f"{where}: {problem}")
            return
    if run.speaks:
        warning = too_weak(total, arguments, run.settings.expected_discordance)
        if warning:
            definition.warn(CompsecWarning(warning))


def _counted(run: Run, suite: Suite, name: str) -> Counter[str] | CompsecError:
    known = run.config.stash.setdefault(_COUNTED, {})
    if (suite.path, name) not in known:
        try:
            prompts = suite.unverified_prompt_set(name).prompts
            known[suite.path, name] = Counter(prompt.category for prompt in prompts)
        except CompsecError as error:
            known[suite.path, name] = error
    return known[suite.path, name]


def too_few(count: int, name: str, arguments: PairedArguments) -> str | None:
    """Why ``count`` prompts cannot show PRESERVED for a model that never differs, and what could;
    None when they can."""
    bound = math.log(1 - arguments.confidence) / math.log1p(-arguments.margin)
    if count >= PLENTY * bound + 1:
        return None
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
    # The exact figure takes seconds for tens of thousands of prompts.
    if count > PLENTY * _even_chance(arguments.margin, discordance, arguments.confidence):
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


def _even_chance(margin: float, discordance: float, confidence: float) -> float:
    """``power.approximate_pairs`` at a power of one half (:data:`LEAST_POWER`), where the term of
    the power is 0; without scipy, which takes longer to import than a thousand tests to collect."""
    null_spread = math.sqrt(max(discordance, margin) - margin**2)
    return (statistics.NormalDist().inv_cdf(confidence) * null_spread / margin) ** 2


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
