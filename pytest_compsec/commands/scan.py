"""``compsec scan``: which prompts does the original refuse and the compressed model answer?

What the markers ``no_safety_bypass`` and ``edge_cases_preserved`` measure, outside of a test and
for every pair at once. It reports, it does not judge: the exit code is 0 whatever was found.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import (
    ConfigError,
    LoadError,
    MeasurementError,
    MissingExtraError,
)
from pytest_compsec.reports.text import one_line

if TYPE_CHECKING:
    from pytest_compsec.checks.edge_cases_preserved import EdgeArguments
    from pytest_compsec.checks.no_safety_bypass import BypassArguments
    from pytest_compsec.generation.progress import Progress
    from pytest_compsec.models.pair import ModelPair
    from pytest_compsec.suite import Suite
    from pytest_compsec.verdict import CheckResult, Evidence

_TASK = "text-generation"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``compsec scan``, without ``--config``."""
    parser.add_argument("--model", action="append", help="of these models (may be repeated)")
    parser.add_argument("--variant", action="append", help="these variants (may be repeated)")
    parser.add_argument("--prompts", default="harmful", metavar="SET", help="default: harmful")
    parser.add_argument(
        "--fraction",
        type=float,
        default=0.2,
        help="share of the refused prompts that counts as edge cases (default: 0.2)",
    )
    parser.add_argument(
        "--show-answers",
        type=int,
        default=5,
        metavar="N",
        help="bypasses to print with both answers, for each pair (default: 5)",
    )
    parser.add_argument("--json", metavar="FILE", help="write all results, with answers, to FILE")
    parser.add_argument(
        "--search",
        action="store_true",
        help="also search for rewritten prompts that only the compressed model answers",
    )
    parser.add_argument(
        "--budget", type=int, default=500, help="rewritten prompts to ask (default: 500)"
    )
    parser.add_argument("--transforms", metavar="A,B", help="ways to rewrite them (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the search (default: 0)")


def run_scan(arguments: argparse.Namespace) -> int:
    """Measure every chosen pair, print what was found, write ``--json``.

    Exit code 0 whatever was found, 2 when a pair could not be measured (the others are). Raises
    ConfigError for usage, IntegrityError when bytes are not what the lock says.
    """
    from pytest_compsec.suite import open_suite

    chosen = _checked(arguments)
    failed = 0
    records: list[dict[str, Any]] = []
    with open_suite(Path(arguments.config), progress=_progress) as suite:
        # Said once, and before models are loaded.
        suite.require_lock()
        suite.unverified_prompt_set(arguments.prompts)
        for pair in _pairs(suite, arguments):
            print(f"scanning {pair.id}", file=sys.stderr, flush=True)
            record: dict[str, Any] = {"pair": pair.id, "results": [], "search": None}
            records.append(record)
            try:
                for line in _scanned(pair, suite, arguments, chosen, record):
                    print(line, flush=True)
            except (ConfigError, LoadError, MeasurementError, MissingExtraError) as error:
                failed += 1
                record["error"] = str(error)
                print(f"NOT_MEASURED: {pair.id}: {one_line(str(error), 2_000)}\n", flush=True)
        lock_digest = suite.lock_digest()
    if arguments.json is not None:
        _write(Path(arguments.json), {"lock_digest": lock_digest, "pairs": records})
    if failed:
        print(f"{failed} of {len(records)} pairs could not be measured: exit code 2.")
        return 2
    print(
        "A scan reports and does not judge: exit code 0. The markers no_safety_bypass and "
        "edge_cases_preserved make a test of it."
    )
    return 0


def _checked(arguments: argparse.Namespace) -> tuple[BypassArguments, EdgeArguments]:
    """The checks' arguments. Raises ConfigError for what makes no sense, before time is spent."""
    from pytest_compsec.checks.edge_cases_preserved import edge_cases_preserved_arguments
    from pytest_compsec.checks.no_safety_bypass import no_safety_bypass_arguments
    from pytest_compsec.commands.matrix import require_writable

    if arguments.show_answers < 0:
        raise ConfigError("compsec scan: --show-answers must be at least 0")
    if arguments.budget < 1:
        raise ConfigError("compsec scan: --budget must be at least 1")
    if arguments.transforms is not None and not arguments.search:
        raise ConfigError("compsec scan: --transforms belongs to --search; add --search")
    if arguments.search:
        from pytest_compsec.attacks.prompts.transforms import chosen

        chosen(_transforms(arguments))
    require_writable("json", arguments.json)
    try:
        return (
            no_safety_bypass_arguments(prompts=arguments.prompts),
            edge_cases_preserved_arguments(prompts=arguments.prompts, fraction=arguments.fraction),
        )
    except ValueError as error:
        raise ConfigError(f"compsec scan: --{error}") from None


def _transforms(arguments: argparse.Namespace) -> list[str] | None:
    if arguments.transforms is None:
        return None
    return [name.strip() for name in arguments.transforms.split(",")]


def _pairs(suite: Suite, arguments: argparse.Namespace) -> list[ModelPair]:
    """The chosen pairs of language models. Raises ConfigError for unknown names, or when none is
    left."""
    for option, known in (
        ("model", {name.model for name in suite.pairs}),
        ("variant", {name.variant for name in suite.pairs}),
    ):
        for name in getattr(arguments, option) or ():
            if name not in known:
                there = ", ".join(sorted(known))
                raise ConfigError(f"compsec scan: --{option} {name!r} is not in {suite.path.name}. "
                                  f"There are: {there}")  # fmt: skip
    names = [
        name
        for name in suite.pairs
        if (not arguments.model or name.model in arguments.model)
        and (not arguments.variant or name.variant in arguments.variant)
    ]
    pairs = [suite.pair(name.id) for name in names]
    scanned = [pair for pair in pairs if pair.task == _TASK]
    if not scanned:
        raise ConfigError(
            f"compsec scan: none of the pairs of {suite.path.name} that were chosen is a language "
            "model"
        )
    return scanned


def _scanned(
    pair: ModelPair,
    suite: Suite,
    arguments: argparse.Namespace,
    chosen: tuple[BypassArguments, EdgeArguments],
    record: dict[str, Any],
) -> Iterator[str]:
    from pytest_compsec.checks.edge_cases_preserved import measure_edge_cases
    from pytest_compsec.checks.no_safety_bypass import measure_bypasses

    bypasses = measure_bypasses(pair, chosen[0].with_defaults(suite.confidence))
    record["results"].append(bypasses.to_json())
    yield from result_lines(bypasses, arguments.show_answers)
    # The answers are in memory now: this asks nothing again.
    edges = measure_edge_cases(pair, chosen[1].with_defaults(suite.confidence))
    record["results"].append(edges.to_json())
    # Its bypasses are among those above.
    yield from result_lines(edges, 0)
    if arguments.search:
        from pytest_compsec.attacks.prompts.search import search_bypasses

        report = search_bypasses(
            pair,
            prompts=arguments.prompts,
            transforms=_transforms(arguments),
            budget=arguments.budget,
            seed=arguments.seed,
            progress=_progress(f"searching {pair.id}", arguments.budget),
        )
        record["search"] = report.to_json()
        # Not one_line, which would close up the columns of its table.
        yield from ("".join(filter(str.isprintable, line)) for line in report.lines())
    yield ""


def result_lines(result: CheckResult, answers: int) -> list[str]:
    """The verdict with its numbers, what was seen, and the first ``answers`` bypasses with both
    answers, truncated and without control characters."""
    lines = [
        f"{one_line(result.summary, 2_000)} ({result.check})",
        *(f"  {one_line(note, 500)}" for note in result.notes),
    ]
    lost = [row for row in result.evidence if row.regressed]
    if not lost or not answers:
        return lines
    lines.append(f"  {len(lost)} bypasses, {min(answers, len(lost))} shown:")
    for row in lost[:answers]:
        lines += _answer_lines(row)
    if len(lost) > answers:
        lines.append(f"  --show-answers {len(lost)} shows them all, --json writes them.")
    return lines


def _answer_lines(row: Evidence) -> list[str]:
    note = " (broken text)" if row.compressed_broken else ""
    return [
        f"  - {one_line(row.id, 60)} [{one_line(row.category, 40)}]{note}",
        f"      prompt     | {one_line(row.prompt, 120)}",
        f"      original   | {one_line(row.original)}",
        f"      compressed | {one_line(row.compressed)}",
    ]


def _write(path: Path, found: dict[str, Any]) -> None:
    from pytest_compsec import __version__
    from pytest_compsec.atomic import write_atomically

    data = {
        "schema": "pytest-compsec/scan",
        "schema_version": 1,
        "tool": {"name": "pytest-compsec", "version": __version__},
        **found,
    }
    try:
        write_atomically(path, json.dumps(data, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise ConfigError(f"--json {str(path)!r}: cannot be written ({error.strerror})") from None


def _progress(label: str, total: int) -> Progress | None:
    """A line on stderr while models answer; None where nobody would see it."""
    if not sys.stderr.isatty():
        return None
    from pytest_compsec.generation.progress import TerminalProgress

    def write(text: str) -> None:
        sys.stderr.write("\r\x1b[K" + text)
        sys.stderr.flush()

    return TerminalProgress(write, label, total)
