"""``compsec plan``: how many prompts a margin needs, what they would show, how long they take."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_compsec.errors import CompsecError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

POWERS = (0.5, 0.8, 0.9, 0.95)


def run_plan(arguments: argparse.Namespace) -> int:
    """Print the plan. Exit code 0. Raises ConfigError for numbers that make no sense."""
    try:
        for line in plan_lines(arguments):  # large numbers take their time: as they come
            print(line, flush=True)
    except ValueError as error:
        raise ConfigError(f"compsec plan: {error}") from None
    return 0


def plan_lines(arguments: argparse.Namespace) -> Iterator[str]:
    from pytest_compsec.statistics.power import minimum_pairs, pairs_for_power

    _require_sensible(arguments)
    margin, discordance = arguments.margin, arguments.discordance
    confidence = arguments.confidence
    needed = minimum_pairs(margin, confidence)
    yield (
        f"margin {100 * margin:g} points, confidence {100 * confidence:g} %; a compressed model "
        f"that loses nothing but differs on {100 * discordance:g} % of the prompts"
    )
    yield ""
    pace, where = _pace(arguments)
    yield "  prompts  chance of PRESERVED   time for both models"
    yield f"  {needed:7d}  {'if none ever differs':20s}  {_time(needed, pace)}"
    for power in POWERS:
        prompts = pairs_for_power(margin, discordance, confidence, power)
        yield f"  {prompts:7d}  {f'{100 * power:.0f} %':20s}  {_time(prompts, pace)}"
    if arguments.prompts is not None:
        yield ""
        yield from _with(arguments.prompts, margin, discordance, confidence, pace)
    yield ""
    yield where


def _require_sensible(arguments: argparse.Namespace) -> None:
    seconds = arguments.seconds_per_prompt
    if seconds is not None and not 0 < seconds < math.inf:
        raise ConfigError(f"compsec plan: --seconds-per-prompt {seconds} must be more than 0")
    if arguments.prompts is not None and arguments.prompts < 1:
        raise ConfigError(f"compsec plan: --prompts {arguments.prompts} must be at least 1")


def _with(
    prompts: int, margin: float, discordance: float, confidence: float, pace: float | None
) -> Iterator[str]:
    from pytest_compsec.statistics.power import least_margin, power

    chance = power(prompts, margin, discordance, confidence)
    least = least_margin(prompts, confidence)
    yield (
        f"With {prompts} prompts: PRESERVED with probability {100 * chance:.0f} % (time: "
        f"{_time(prompts, pace)}); the least margin that they show for models that never differ is "
        f"{100 * least:.2f} points."
    )


def _time(prompts: int, pace: float | None) -> str:
    if pace is None:
        return "not known"
    minutes = prompts * pace / 60
    return "less than a minute" if minutes < 1 else f"about {minutes:.0f} min"


def _pace(arguments: argparse.Namespace) -> tuple[float | None, str]:
    """Seconds per prompt for both arms, and a sentence that says where the figure comes from."""
    if arguments.seconds_per_prompt is not None:
        return arguments.seconds_per_prompt, "Time: as given by --seconds-per-prompt."
    path = Path(arguments.config)
    if not path.is_file():
        return None, (
            f"Time: there is no {path} here. Run this beside one whose tests ran before, or give "
            "--seconds-per-prompt."
        )
    try:
        paces = measured_paces(path)
    except CompsecError as error:
        return None, f"Time: not known ({str(error).splitlines()[0]})."
    if not paces:
        return None, (
            "Time: no run of this config has been timed yet (a run notes it in pytest's cache); "
            "or give --seconds-per-prompt."
        )
    slowest = max(paces, key=lambda name: paces[name])
    return paces[slowest], (
        f"Time: both arms of {slowest}, the slowest pair timed, {paces[slowest]:.3f} s a prompt in "
        "its last run here; loading not counted."
    )


def measured_paces(config: Path) -> dict[str, float]:
    """Seconds per prompt of each pair that an earlier run timed, from pytest's cache near
    ``config`` or the current directory."""
    from pytest_compsec.suite import open_suite

    folders = dict.fromkeys([Path.cwd(), *config.resolve().parents])
    for folder in folders:
        cache = folder / ".pytest_cache" / "d" / "compsec" / "answers.sqlite"
        if cache.is_file():
            break
    else:
        return {}
    with open_suite(config, cache_path=cache) as suite:
        paces = {name.id: suite.pair(name.id).seconds_per_prompt() for name in suite.pairs}
    return {name: pace for name, pace in paces.items() if pace is not None}
