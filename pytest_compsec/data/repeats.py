"""A sample that a data file holds twice is one sample: counted twice, a verdict looks surer."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_compsec.errors import ConfigError


def compared(text: str) -> str:
    """What two texts have in common that differ in spaces and capitals alone: one sample."""
    return " ".join(text.casefold().split())


def refuse_repeated(
    texts: Sequence[str],
    where: Sequence[str],
    what: str,
    *,
    names: Sequence[str] = (),
    exact: bool = False,
) -> None:
    """Raise ConfigError at the first text that comes again.

    ``where`` is ``file:line`` of each text, ``what`` one of them in a word (``question``),
    ``names`` what the file calls each, where it names them. Texts that differ in spaces and
    capitals alone are the same unless ``exact``. Raises ValueError where the lengths differ.
    """
    first: dict[str, int] = {}
    for place, (text, here) in enumerate(zip(texts, where, strict=True)):
        known = first.setdefault(text if exact else compared(text), place)
        if known != place:
            other = f"that of {names[known]!r} ({where[known]})" if names else f"at {where[known]}"
            raise ConfigError(
                f"{here}: the same {what} as {other}; a sample counts once, leave one of them out"
            )
