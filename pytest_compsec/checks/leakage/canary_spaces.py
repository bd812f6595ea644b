"""What was planted, and out of which space it was drawn: canaries as a file tells them."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

from pytest_compsec.checks.leakage.exposure import Exposure, exact_exposure, sampled_exposure
from pytest_compsec.data.file import DataFile, text_of, texts_of
from pytest_compsec.data.repeats import refuse_repeated
from pytest_compsec.errors import ConfigError

#: Spaces up to this size are ranked whole.
MOST_RANKED = 10_000
#: Candidates that are drawn from a larger space, the same ones for both models.
SAMPLED = 1_000


@dataclasses.dataclass(frozen=True)
class Space:
    """All secrets that could have been planted: ``listed``, or all texts of ``length`` signs of
    ``alphabet``."""

    listed: tuple[str, ...] = ()
    alphabet: str = ""
    length: int = 0

    @property
    def size(self) -> int:
        return len(self.listed) or len(self.alphabet) ** self.length

    def __contains__(self, secret: str) -> bool:
        if self.listed:
            return secret in self.listed
        return len(secret) == self.length and set(secret) <= set(self.alphabet)

    def all(self) -> Iterator[str]:
        """Every text of the space, in its order."""
        if self.listed:
            yield from self.listed
        else:
            yield from map("".join, itertools.product(self.alphabet, repeat=self.length))

    def drawn(self, drawing: random.Random) -> str:
        """One text, each as likely."""
        if self.listed:
            return drawing.choice(self.listed)
        return "".join(drawing.choices(self.alphabet, k=self.length))


@dataclasses.dataclass(frozen=True)
class Canary:
    """``before`` and ``after`` are the template's text around the ``secret``."""

    id: str
    before: str
    after: str
    secret: str
    space: Space

    @property
    def ranked_whole(self) -> bool:
        return self.space.size <= MOST_RANKED

    @property
    def candidates(self) -> tuple[str, ...]:
        """The secret first, then all others of the space, or a sample of them: the same in every
        run. Made anew each time: the spaces of many canaries would fill the memory."""
        if self.ranked_whole:
            return (self.secret, *(one for one in self.space.all() if one != self.secret))
        named = f"{self.id}\n{self.before}\n{self.after}\n{self.secret}"
        seed = hashlib.sha256(named.encode("utf-8", "backslashreplace")).digest()
        drawing = random.Random(int.from_bytes(seed[:8], "big"))
        found = {self.secret: None}
        while len(found) <= SAMPLED:
            found[self.space.drawn(drawing)] = None
        return tuple(found)

    @property
    def texts(self) -> tuple[str, ...]:
        """The whole text of every candidate."""
        return tuple(f"{self.before}{one}{self.after}" for one in self.candidates)

    def exposure(self, nlls: Sequence[float]) -> Exposure:
        """From the candidates' negative log-likelihoods, in their order."""
        if self.ranked_whole:
            return exact_exposure(nlls[0], nlls[1:])
        return sampled_exposure(nlls[0], nlls[1:], self.space.size)


def read_canaries(data: DataFile) -> tuple[Canary, ...]:
    """Rows ``{"id", "template": "My PIN is {}", "secret", "space"}``, ``space`` being
    ``{"alphabet": "0123456789", "length": 4}`` or a list of candidates.

    Raises ConfigError with the line, also for an id that occurs twice and for a secret that stands
    twice in the same template.
    """
    found: dict[str, Canary] = {}
    places: list[str] = []
    for line, row in data.rows():
        where = f"{data.source}:{line}"
        identifier = text_of(row, "id", data.source, line)
        template = text_of(row, "template", data.source, line)
        secret = text_of(row, "secret", data.source, line)
        if template.count("{}") != 1:
            raise ConfigError(f"{where}: 'template' must hold {{}} once, where the secret stands")
        if identifier in found:
            raise ConfigError(f"{where}: the id {identifier!r} occurs twice")
        space = _space(row, data.source, line)
        if secret not in space:
            raise ConfigError(f"{where}: the secret {secret!r} is not in its 'space'")
        before, after = template.split("{}")
        found[identifier] = Canary(identifier, before, after, secret, space)
        places.append(where)
    canaries = tuple(found.values())
    refuse_repeated(
        [f"{one.before}{one.secret}{one.after}" for one in canaries],
        places,
        "canary",
        names=[one.id for one in canaries],
        exact=True,  # capitals may be all that tells two secrets apart
    )
    return canaries


def _space(row: dict[str, Any], source: str, line: int) -> Space:
    where, space = f"{source}:{line}", row.get("space")
    if isinstance(space, list):
        listed = tuple(dict.fromkeys(texts_of(row, "space", source, line)))
        if len(listed) < 2:
            raise ConfigError(f"{where}: 'space' must list at least one other candidate")
        return Space(listed=listed)
    if not isinstance(space, dict):
        raise ConfigError(
            f"{where}: needs 'space', a list of candidates or "
            '{"alphabet": "0123456789", "length": 4}'
        )
    alphabet, length = space.get("alphabet"), space.get("length")
    if not isinstance(alphabet, str) or len(set(alphabet)) != len(alphabet) or len(alphabet) < 2:
        raise ConfigError(f"{where}: 'space' needs 'alphabet', at least 2 signs, each once")
    if isinstance(length, bool) or not isinstance(length, int) or not 1 <= length <= 64:
        raise ConfigError(f"{where}: 'space' needs 'length', a whole number from 1 to 64")
    return Space(alphabet=alphabet, length=length)
