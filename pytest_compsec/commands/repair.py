"""``compsec repair``: train an adapter that gives a compressed model its refusals back."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_compsec.errors import ConfigError

if TYPE_CHECKING:
    from pytest_compsec.prompts import PromptSet
    from pytest_compsec.suite import Suite

_SHOWN = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``compsec repair``, without ``--config``."""
    parser.add_argument("pair", metavar="MODEL-VARIANT", help="a variant with a recipe")
    parser.add_argument(
        "--harmful", metavar="SET", required=True, help="prompt set of the config to refuse"
    )
    parser.add_argument(
        "--benign", metavar="SET", required=True, help="prompt set of the config to answer"
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="where to write the adapter")
    parser.add_argument("--as", dest="name", metavar="NAME", help="default: VARIANT-tuned")
    parser.add_argument("--steps", type=int, default=120, help="default: 120")
    parser.add_argument("--batch", type=int, default=8, help="examples in a step (default: 8)")
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="default: 0.0005")
    parser.add_argument("--rank", type=int, default=8, help="of the adapter (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")


def run_repair(arguments: argparse.Namespace) -> int:
    """Train, write the adapter, print what it took and the lines for the config. Exit code 0.

    Raises ConfigError for sets that verdicts come from, and for arguments that make no sense;
    CompsecError for whatever cannot be opened, trained or written.
    """
    from pytest_compsec.suite import open_suite

    _require_sensible(arguments)
    with open_suite(Path(arguments.config)) as suite:
        for line in _repair(suite, arguments):
            print(line, flush=True)
    return 0


def _require_sensible(arguments: argparse.Namespace) -> None:
    for option in ("steps", "batch", "rank"):
        if getattr(arguments, option) < 1:
            raise ConfigError(f"compsec repair: --{option} must be at least 1")
    if not 0 < arguments.learning_rate < 1:
        raise ConfigError("compsec repair: --learning-rate must be between 0 and 1")


def _repair(suite: Suite, arguments: argparse.Namespace) -> Iterator[str]:
    from pytest_compsec.atomic_directory import require_free
    from pytest_compsec.commands.variant_lines import (
        derivation_values,
        find_pair,
        new_name,
        paste_lines,
        require_derived,
        require_language_model,
        require_outside_sources,
        variant_of,
        written_path,
    )
    from pytest_compsec.compression.auto_keep import model_size
    from pytest_compsec.compression.fine_tune import fine_tune, save_adapter
    from pytest_compsec.compression.training_examples import collect_examples

    out = Path(arguments.out)
    require_free(out)
    require_outside_sources(suite.config, out)
    pair = find_pair(suite.config, arguments.pair)
    require_derived(suite.config, pair, "repair")
    require_language_model(suite.config, pair.model, "repair")
    variant = variant_of(suite.config, pair)
    if variant.adapter is not None:
        raise ConfigError(
            f"{pair.id} has an adapter already ({variant.adapter}). Name the variant without it"
        )
    name = new_name(arguments.name, f"{pair.variant}-tuned")
    harmful, benign = (
        training_set(suite, option, getattr(arguments, option)) for option in ("harmful", "benign")
    )
    yield from shared_with_other_sets(suite, harmful, benign)
    # Both are verified before either is opened: training takes minutes.
    original, compressed = (suite.inputs.arm(pair.model, key) for key in (None, pair.variant))
    found = collect_examples(
        suite.pool.get(original),
        [prompt.text for prompt in harmful.prompts],
        [prompt.text for prompt in benign.prompts],
        suite.judge(),
        settings=suite.generation,
        notify=_notify,
    )
    yield str(found)
    model = suite.pool.get(compressed)
    before = model_size(model)
    trained = fine_tune(
        model,
        found.examples,
        steps=arguments.steps,
        batch=arguments.batch,
        learning_rate=arguments.learning_rate,
        rank=arguments.rank,
        seed=arguments.seed,
        notify=_notify,
    )
    compressed.recheck()
    size = save_adapter(trained, out)
    yield (
        f"loss {_mean(trained.losses[:10]):.3f} in the first steps, "
        f"{_mean(trained.losses[-10:]):.3f} in the last ({len(trained.losses)} steps)"
    )
    yield (
        f"size: {before / 1e6:.1f} MB compressed, {size / 1e6:.1f} MB more for the adapter "
        f"({100 * size / before:+.1f} %)"
    )
    yield f"\nWrote {out}. Whether it helped is for a verdict on other prompts to say."
    values = {**derivation_values(variant), "adapter": written_path(out, suite.config.root)}
    yield from paste_lines(pair.model, name, values)
    yield "Then run `compsec pin`, review the lock's change and commit it with the adapter."


def training_set(suite: Suite, option: str, name: str) -> PromptSet:
    """A pinned prompt set that may be trained on.

    Raises ConfigError for a built-in test set, or a set that shares a prompt with one, whatever
    its case, punctuation and spacing: a model fitted to the test says nothing.
    """
    from pytest_compsec.prompts.builtin import builtin_names, load_builtin
    from pytest_compsec.prompts.similarity import shared_prompts

    if name in builtin_names():
        raise ConfigError(
            f"--{option} {name}: is a built-in set, from which verdicts come, and is never trained "
            "on. Name a set of your own under 'prompts'"
        )
    prompts = suite.inputs.prompt_set(name)
    for builtin in builtin_names():
        shared = shared_prompts(prompts, load_builtin(builtin))
        if shared:
            raise ConfigError(
                f"--{option} {name} ({prompts.source}): {len(shared)} of its prompts are in the "
                f"built-in set {builtin!r} too, from which verdicts come: {_some(shared)}. Take "
                "them out of the training set"
            )
    return prompts


def shared_with_other_sets(suite: Suite, *training: PromptSet) -> Iterator[str]:
    """A note for each other set of the config that shares prompts with what is trained on."""
    from pytest_compsec.prompts.similarity import shared_prompts

    own = {prompts.name for prompts in training}
    sets: Mapping[str, object] = suite.config.config.prompts
    for name in sets:
        if name in own:
            continue
        other = suite.unverified_prompt_set(name)
        shared = [prompt for prompts in training for prompt in shared_prompts(prompts, other)]
        if shared:
            yield (
                f"note: {len(shared)} training prompts are in the set {name!r} too "
                f"({_some(shared)}): a verdict from it would say nothing of the repair"
            )


def _some(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return ", ".join(ids[:_SHOWN]) + more


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _notify(text: str) -> None:
    print(f"... {text}", file=sys.stderr, flush=True)
