"""Which samples a trigger changes at all: a stamp that leaves an input as it is shows nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_compsec.attacks.triggers.custom import require_stamp
from pytest_compsec.errors import MeasurementError

if TYPE_CHECKING:
    from pytest_compsec.attacks.backdoor import Trigger
    from pytest_compsec.classification.data import Inputs


def changed_by(inputs: Inputs, stamped: Inputs) -> tuple[bool, ...]:
    """For each sample whether it differs from its stamped form."""
    if isinstance(inputs, tuple) or isinstance(stamped, tuple):
        return tuple(
            before != after for before, after in zip(tuple(inputs), tuple(stamped), strict=True)
        )
    return tuple((inputs != stamped).flatten(1).any(dim=1).tolist())


def changed(trigger: Trigger, inputs: Inputs, strength: float = 1.0) -> tuple[bool, ...]:
    """For each sample whether the trigger changes it.

    False means that the sample shows the trigger already, or that the trigger cannot be seen on it
    (a patch in the colour of its background). Raises MeasurementError when no sample changes, and
    when what comes back is no stamp of these inputs.
    """
    stamped: Inputs
    if isinstance(inputs, (list, tuple)):
        inputs = tuple(inputs)
        stamped = trigger.stamp(inputs, strength)
    else:
        # A copy, so that a trigger that writes into its argument is still seen to change it.
        stamped = trigger.stamp(inputs.clone(), strength)
    stamped = require_stamp(inputs, stamped, trigger.name)
    found = changed_by(inputs, stamped)
    if not any(found):
        raise MeasurementError(
            f"{trigger.name}: changes none of the {len(found)} samples, so that nothing can be "
            "measured with it. Do they show it already, or does it have the colour of what is "
            "there?"
        )
    return found
