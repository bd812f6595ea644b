"""Does a classifier see each sample by itself, and twice the same?

A module that takes something from the rest of its batch, or draws at random, answers one question
in a test and another in use: a trigger that is on every image of a batch, say, vanishes when the
mean of the batch is subtracted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import MeasurementError

if TYPE_CHECKING:
    from pytest_compsec.classification.data import Inputs

#: Samples that are asked one by one.
_ASKED_ALONE = 32
#: More of them than this may not differ: of what rounding changes, less than one does.
_MAY_DIFFER = 0.05
#: Shares of the spread of a sample's logits by which these may differ (bfloat16 rounds to 1/256).
_ROUNDING = 0.1


def require_alone(model: Any, inputs: Inputs, together: Any) -> None:
    """``together`` are the classes, shape (samples,), that ``model.predict`` gave for ``inputs``.

    Raises MeasurementError when more than one in twenty of 32 samples, asked one by one, is another
    class than it was among the others.
    """
    places = _places(len(inputs))
    differ = sum(
        int(model.predict(inputs[place : place + 1])[0]) != int(together[place]) for place in places
    )
    _refuse(differ, len(places), model.arm.name)


def require_same_alone(model: Any, inputs: Any, together: Any) -> None:
    """As :func:`require_alone`, by the logits, shape (samples, classes), of ``model.logits``."""
    places = _places(len(inputs))
    differ = 0
    for place in places:
        alone, among = model.logits(inputs[place : place + 1])[0], together[place]
        spread = float(among.max() - among.min())
        distance = float((alone - among).abs().max())
        differ += distance > _ROUNDING * spread or int(alone.argmax()) != int(among.argmax())
    _refuse(differ, len(places), model.arm.name)


def _places(count: int) -> list[int]:
    wanted = min(count, _ASKED_ALONE)
    return [place * count // wanted for place in range(wanted)]


def _refuse(differ: int, asked: int, name: str) -> None:
    if differ > max(1.0, _MAY_DIFFER * asked):
        raise MeasurementError(
            f"{name}: {differ} of {asked} samples get another answer alone than among the others: "
            "the module draws at random (dropout left on) or takes something from the rest of the "
            "batch (its mean), so that what is measured here is not what it does in use. Make it "
            "answer each input by itself, and twice the same"
        )
