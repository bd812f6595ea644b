"""How long it takes to look inside the demonstration model, and what is found there.

    OMP_NUM_THREADS=2 python bench/compression/safety_heads.py [--prompts 24] [--matrices 35]

Silences each of the 270 attention heads of the example's original, then restores and damages each
decoder layer of its NF4 variant, then the matrices of the costliest layers. Prints passes, the
decoder layers computed, wall and processor time, and the tables.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from pytest_compsec.localization import find_vulnerable_layers, identify_safety_critical_heads
from pytest_compsec.localization.heads import Progress
from pytest_compsec.suite import open_suite

EXAMPLE = Path(__file__).parents[2] / "example_suite" / "compsec.yaml"


class Clock:
    """Wall and processor seconds since it was made; other programs make the two differ."""

    def __init__(self) -> None:
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def __str__(self) -> str:
        wall = time.perf_counter() - self._wall
        return f"{wall:.0f} s ({time.process_time() - self._processor:.0f} s of processor time)"


def line(label: str) -> Progress:
    """A progress line on standard error."""

    def show(done: int, total: int) -> None:
        end = "\n" if done == total else "\r"
        print(f"{label}: {done} of {total}", end=end, file=sys.stderr, flush=True)

    return show


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--matrices", type=int, default=35)
    parser.add_argument("--variant", default="smollm2-nf4")
    arguments = parser.parse_args()
    with open_suite(EXAMPLE) as suite:
        pair = suite.pair(arguments.variant)
        harmful = [prompt.text for prompt in pair.prompt_set("harmful").prompts]
        prompts = harmful[:: max(1, len(harmful) // arguments.prompts)][: arguments.prompts]
        original, compressed = pair.original, pair.compressed
        print(f"{len(prompts)} prompts, {original.dtype} on {original.device}")

        clock = Clock()
        heads = identify_safety_critical_heads(original, prompts, progress=line("heads"))
        print(f"\nheads: {clock}, {heads.passes} passes, {heads.layer_runs} decoder layers")
        print(f"openings {heads.openings.source}: {heads.openings.texts}")
        print(heads.text())

        clock = Clock()
        openings = heads.openings.tokens
        blocks = find_vulnerable_layers(
            original, compressed, prompts, unit="block", openings=openings, progress=line("layers")
        )
        print(f"\ndecoder layers: {clock}, {blocks.passes} passes, {blocks.layer_runs} layers")
        print(blocks.text())

        clock = Clock()
        matrices = find_vulnerable_layers(
            original,
            compressed,
            prompts,
            at_most=arguments.matrices,
            openings=openings,
            progress=line("matrices"),
        )
        print(f"\nmatrices: {clock}, {matrices.passes} passes, {matrices.layer_runs} layers")
        print(matrices.text())


if __name__ == "__main__":
    main()
