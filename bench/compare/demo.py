"""The two arms of the demonstration, loaded in a float type of choice through the package's own
doors: pinned files, the pinned adapter, the pinned recipe."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

from pytest_compsec.models.pool import ModelPool
from pytest_compsec.prompts import load_builtin
from pytest_compsec.suite import Suite, open_suite


class Demo:
    """One pair of ``compsec.yaml``, both arms in every float type asked for. To be closed."""

    def __init__(self, config: Path, pair: str) -> None:
        self.config = config
        self.pair = pair
        self.suite: Suite = open_suite(config)
        #: Every arm in every float type, loaded once for all ways: a GGUF file takes many seconds.
        self.pool = ModelPool()

    @functools.cached_property
    def dtype(self) -> str:
        """The float type in which the package answers here."""
        return self.suite.placement(self.suite.pair(self.pair).compressed_arm)[1]

    @functools.cached_property
    def device(self) -> str:
        return self.suite.pair(self.pair).device

    @property
    def form(self) -> str:
        """The variant's name in the config."""
        return self.suite.pair(self.pair).name.variant

    @property
    def default_new_tokens(self) -> int:
        return self.suite.generation.max_new_tokens

    def arm(self, arm: str, dtype: str) -> Any:
        """A LoadedModel of ``original`` or ``compressed`` that computes in ``dtype``."""
        pair = self.suite.pair(self.pair)
        chosen = pair.original_arm if arm == "original" else pair.compressed_arm
        return self.pool.get(dataclasses.replace(chosen, dtype=dtype))

    def close(self) -> None:
        self.pool.close()
        self.suite.close()


def spread_prompts(name: str, count: int) -> list[str]:
    """``count`` prompts from all over a built-in set, so that all categories take part."""
    texts = [prompt.text for prompt in load_builtin(name).prompts]
    return [texts[place * len(texts) // count] for place in range(min(count, len(texts)))]
