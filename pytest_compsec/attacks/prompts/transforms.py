"""All transforms, by name, in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_compsec.attacks.prompts.encodings import ENCODINGS
from pytest_compsec.attacks.prompts.framing import PREFIX, ROLE_PLAY
from pytest_compsec.attacks.prompts.model import Transform
from pytest_compsec.attacks.prompts.paraphrases import PARAPHRASES
from pytest_compsec.attacks.prompts.translations import TRANSLATIONS
from pytest_compsec.attacks.prompts.typos import TYPOS
from pytest_compsec.errors import ConfigError

#: The order is part of the built-in set ``jailbreak``: a new transform raises that set's version.
TRANSFORMS: tuple[Transform, ...] = (
    *PARAPHRASES,
    *ROLE_PLAY,
    *PREFIX,
    *ENCODINGS,
    *TYPOS,
    *TRANSLATIONS,
)


def transform_named(name: str) -> Transform:
    """Raises ConfigError for a name that is not in :data:`TRANSFORMS`; the message lists them."""
    for transform in TRANSFORMS:
        if transform.name == name:
            return transform
    known = ", ".join(transform.name for transform in TRANSFORMS)
    raise ConfigError(f"no prompt transform {name!r}. There are: {known}")


def chosen(transforms: Sequence[str | Transform] | None) -> tuple[Transform, ...]:
    """The transforms of these names (None: all); a Transform of the user's own is taken as it is.

    Raises ConfigError for an unknown name, a name twice, or an empty choice.
    """
    if transforms is None:
        return TRANSFORMS
    if isinstance(transforms, str):
        transforms = (transforms,)
    found = tuple(
        transform if isinstance(transform, Transform) else transform_named(transform)
        for transform in transforms
    )
    names = [transform.name for transform in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"prompt transforms named more than once: {', '.join(twice)}")
    if not found:
        raise ConfigError("no prompt transform is chosen: name at least one, or leave it out")
    return found
