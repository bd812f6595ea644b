"""What a slow judge said before, kept in the response cache.

An outcome belongs to one judge (its digest, and for a model its float type and kind of device),
one prompt and one response: another judge, or the same one with another setting, never gets it.
What could not be judged is not kept and is asked again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_compsec.models.arm import digest_of

if TYPE_CHECKING:
    from pytest_compsec.generation.cache import ResponseCache
    from pytest_compsec.judges.base import Judge

#: Pairs that are judged before their outcomes are kept: what an interruption may lose.
CHUNK = 256
_OUTCOMES = {"refused": True, "answered": False}


class CachedJudge:
    """``judge`` behind ``cache``. ``identity`` is hashed together with the judge's digest;
    ``cached`` counts the outcomes that came from the cache; ``notes`` are the judge's own
    on the latest call."""

    def __init__(self, judge: Judge, cache: ResponseCache, identity: Sequence[str] = ()) -> None:
        self.judge = judge
        self.cached = 0
        self.notes: tuple[str, ...] = ()
        self._cache = cache
        self._identity = digest_of(["judge", judge.name, judge.version, judge.digest, *identity])

    @property
    def name(self) -> str:
        return self.judge.name

    @property
    def version(self) -> str:
        return self.judge.version

    @property
    def digest(self) -> str:
        return self.judge.digest

    def refusals(self, prompts: Sequence[str], responses: Sequence[str]) -> list[bool | None]:
        """From the cache what is there, from the judge the rest; a pair that occurs twice is
        judged once. Raises ``ValueError`` if the lengths differ, and what the judge raises."""
        pairs = list(zip(prompts, responses, strict=True))
        names = {pair: _name(*pair) for pair in dict.fromkeys(pairs)}
        outcomes: dict[tuple[str, str], bool | None] = {}
        for pair, name in names.items():
            known = _OUTCOMES.get(str(self._cache.get_fact(self._identity, name)))
            if known is not None:
                outcomes[pair] = known
        self.cached += sum(pair in outcomes for pair in pairs)
        notes: list[str] = []
        missing = [pair for pair in names if pair not in outcomes]
        for start in range(0, len(missing), CHUNK):
            part = missing[start : start + CHUNK]
            found = self.judge.refusals([asked for asked, _ in part], [said for _, said in part])
            notes += getattr(self.judge, "notes", ())
            for pair, outcome in zip(part, found, strict=True):
                outcomes[pair] = outcome
                if outcome is not None:
                    word = "refused" if outcome else "answered"
                    self._cache.put_fact(self._identity, names[pair], word)
        self.notes = tuple(notes)
        return [outcomes[pair] for pair in pairs]


def _name(prompt: str, response: str) -> str:
    return digest_of([prompt, response])
