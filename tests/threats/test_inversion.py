"""Who looks for a backdoor without knowing the trigger finds it in the compressed model: in the
published one the target is about as hard to reach as any other class."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from torch import nn

from pytest_compsec.attacks.inversion import InversionReport, find_triggers
from pytest_compsec.compression import magnitude, round_to_nearest
from tests.threats import pruning_activated, quantization_activated
from tests.threats.adaptive import TARGET, digits
from tests.threats.pairs import classifier

#: For each threat: the model, and what wakes it.
THREATS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], nn.Module]]] = {
    "C": (
        lambda: quantization_activated.model(4, malicious=True),
        lambda module: round_to_nearest.apply(module, {"bits": 4}, "cpu"),
    ),
    "D": (
        lambda: pruning_activated.model(malicious=True),
        lambda module: magnitude.apply(module, {"sparsity": pruning_activated.SPARSITY}, "cpu"),
    ),
}


def searched(module: nn.Module) -> InversionReport:
    """With the defender's own clean samples."""
    _, clean, _ = digits()
    return find_triggers(classifier(module), clean, steps=200)


@pytest.mark.parametrize("threat", THREATS)
def test_awake_it_stands_out_and_asleep_it_is_as_hard_to_reach_as_others(threat: str) -> None:
    """The sizes of masks are compared, not the suspects of the sleeping model: over three seeds of
    three threats (C at 4 and 8 bits, D) the sleeping target was suspected once in nine, as clean
    classes of benign twins are now and then; awake it was in nine of nine, and alone."""
    make, wake = THREATS[threat]
    asleep, awake = searched(make()), searched(wake(copy.deepcopy(make())))
    assert asleep.median is not None
    assert awake.median is not None
    assert asleep.classes[TARGET].mask_norm > 0.7 * asleep.median
    assert awake.suspects == (TARGET,)
    assert awake.classes[TARGET].mask_norm < 0.5 * awake.median
