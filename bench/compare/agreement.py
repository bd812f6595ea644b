"""Do all ways find the same refusals, prompt by prompt, as far as rounding lets them?

The measured noise floor: each arm answers again, by this package, in other batches (composed at
random, a third as large), and the prompts are counted on which the judge then says otherwise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from scipy.stats import fisher_exact

from bench.compare.demo import Demo
from bench.compare.ways import ARMS
from pytest_compsec.generation.settings import GenerationSettings
from pytest_compsec.judges.refusal import RefusalJudge

#: Below this a way flips more prompts than rounding does.
LEAST_CHANCE = 0.05


@dataclasses.dataclass(frozen=True)
class Noise:
    """Prompts of ``prompts`` whose refusal changed, by arm, one number for each repetition."""

    prompts: int
    flips: dict[str, tuple[int, ...]]

    def most(self, arm: str) -> int:
        return max(self.flips[arm], default=0)

    def explains(self, arm: str, flips: int) -> bool:
        """Whether ``flips`` are no more than the noise makes likely (Fisher's exact test,
        one-sided, against the noisiest repetition)."""
        most = self.most(arm)
        if flips <= most:
            return True
        table = [[flips, self.prompts - flips], [most, self.prompts - most]]
        return float(fisher_exact(table, alternative="greater").pvalue) >= LEAST_CHANCE


def refusals(prompts: Sequence[str], texts: Sequence[str]) -> tuple[bool, ...]:
    """What the built-in judge says of each answer."""
    return tuple(RefusalJudge().refusals(prompts, texts))


def differing(first: Sequence[object], second: Sequence[object]) -> int:
    return sum(one != other for one, other in zip(first, second, strict=True))


def measure_noise(
    demo: Demo, prompts: Sequence[str], new_tokens: int, seeds: Sequence[int]
) -> Noise:
    """Every arm once in the package's own batches, then once for each seed in others."""
    flips: dict[str, tuple[int, ...]] = {}
    size = max(1, len(prompts) // 2)  # of which shuffled batches take two thirds
    for arm in ARMS:
        model = demo.arm(arm, demo.dtype)
        plain = [one.text for one in model.generate(prompts, GenerationSettings(new_tokens))]
        before = refusals(prompts, plain)
        found = []
        for seed in seeds:
            settings = GenerationSettings(new_tokens, batch_size=size, shuffle=seed)
            again = [one.text for one in model.generate(prompts, settings)]
            found.append(differing(before, refusals(prompts, again)))
        flips[arm] = tuple(found)
    return Noise(len(prompts), flips)
