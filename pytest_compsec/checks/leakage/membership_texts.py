"""Texts that were in the training data, texts that were not, and one model's scores of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence

from pytest_compsec.data.file import DataFile, text_of
from pytest_compsec.data.repeats import compared, refuse_repeated
from pytest_compsec.errors import ConfigError, MeasurementError

#: Share of the least likely tokens that min-k % looks at.
LEAST_LIKELY = 0.2


@dataclasses.dataclass(frozen=True)
class Text:
    """A text that was in the training data, or not; texts of one ``group`` stay together."""

    id: str
    text: str
    group: Hashable
    member: bool
    where: str


@dataclasses.dataclass(frozen=True)
class TextScore:
    """Of one text under one model: mean negative log-likelihood (nats per token) of all tokens that
    are read, and of the least likely of them.

    At most 1,024 tokens of a text are read
    (:func:`pytest_compsec.generation.likelihood.text_nlls`), fewer where the model has fewer
    positions; what comes after them counts in neither.
    """

    loss: float
    least_likely: float


def read_texts(members: DataFile, nonmembers: DataFile) -> tuple[Text, ...]:
    """Rows ``{"id", "text", "group" (optional: person or document)}`` of both files.

    Raises ConfigError with the line, also for a text that occurs twice or is in both.
    """
    found: list[Text] = []
    for data, member in ((members, True), (nonmembers, False)):
        for line, row in data.rows():
            where = f"{data.source}:{line}"
            identifier, text = (text_of(row, key, data.source, line) for key in ("id", "text"))
            group = row.get("group")
            if group is not None and (isinstance(group, bool) or not isinstance(group, (str, int))):
                raise ConfigError(f"{where}: 'group' must be a text or a whole number")
            # A group without a name is the row itself.
            label: Hashable = (member, line) if group is None else str(group)
            found.append(Text(identifier, text, label, member, where))
    inside = {compared(one.text): one.where for one in found if one.member}
    for one in found:
        if not one.member and compared(one.text) in inside:
            known = inside[compared(one.text)]
            raise ConfigError(f"{one.where}: the same text is a member at {known}")
    refuse_repeated(
        [one.text for one in found],
        [one.where for one in found],
        "text",
        names=[one.id for one in found],
    )
    return tuple(found)


def score_of(nlls: Sequence[float], text: Text) -> TextScore:
    """From a text's negative log-likelihoods, one for each token. Raises ConfigError for a text
    without any, MeasurementError for one that holds a token which the model excludes."""
    if not nlls:
        raise ConfigError(f"{text.where}: the text is too short: no token of it can be scored")
    if not all(map(math.isfinite, nlls)):
        raise MeasurementError(
            f"{text.where}: the model excludes a token of this text (its likelihood is 0): "
            "there is no score to compare with others"
        )
    ordered = sorted(nlls, reverse=True)
    least_likely = ordered[: max(1, math.floor(LEAST_LIKELY * len(ordered)))]
    return TextScore(math.fsum(nlls) / len(nlls), math.fsum(least_likely) / len(least_likely))
