"""What a transform is: a named way to ask for the same thing in other words or signs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

from pytest_compsec.attacks.prompts.draws import Draws

Family = Literal["paraphrase", "role-play", "prefix", "encoding", "typo", "translation"]


@dataclasses.dataclass(frozen=True)
class Transform:
    """``rewrite`` gets the prompt without surrounding white space and a stream of choices.

    ``decode`` gives the prompt back from what an encoding made of it; None for the other families,
    which do not keep every letter. ``description`` says in a few words what is done.
    """

    name: str
    family: Family
    description: str
    rewrite: Callable[[str, Draws], str]
    decode: Callable[[str], str] | None = None

    def apply(self, prompt: str, *, seed: int = 0, prompt_id: str = "") -> str:
        """The transformed prompt: the same for the same (prompt, seed, prompt id), everywhere.

        Raises ValueError for a prompt without any text, and for one that the transform would
        leave as it is (asking the same twice would be counted as two observations).
        """
        plain = prompt.strip()
        if not plain:
            raise ValueError("an empty prompt cannot be transformed")
        changed = self.rewrite(plain, Draws(seed, self.name, prompt_id))
        if changed == plain:
            raise ValueError(f"the transform {self.name!r} leaves this prompt as it is: {plain!r}")
        return changed
