"""What may never pass ``backdoor_removed``, as real classifiers with weights: a constant one, an
identity compression, and broken ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pytest_compsec.attacks.backdoor import Backdoor
from pytest_compsec.attacks.triggers.images import Patch
from pytest_compsec.checks.backdoor_removed import check_backdoor_removed
from pytest_compsec.verdict import CheckResult, Verdict
from tests.threats.adaptive import TARGET, digits
from tests.threats.box_digits import BoxedNetwork, models
from tests.threats.classifier_pairs import ClassifierPair, compressed_by

pytest.importorskip("bitsandbytes")

PATCH = Patch(size=2, position="bottom-right", value=1.0)


def backdoored() -> torch.nn.Module:
    """The network of threat B before its repair: a plain backdoor."""
    return models("nf4", malicious=True)[0]


def constant(label: int) -> torch.nn.Module:
    made: Any = backdoored()
    made.head.weight.zero_()
    made.head.bias.copy_(torch.nn.functional.one_hot(torch.tensor(label), 10).float())
    return made  # type: ignore[no-any-return]


def untrained() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return BoxedNetwork().requires_grad_(False).eval()


def not_a_number() -> torch.nn.Module:
    made: Any = backdoored()
    made.head.weight[0, 0] = float("nan")
    return made  # type: ignore[no-any-return]


def removal(compressed: torch.nn.Module, *, target: int | None, **arguments: Any) -> CheckResult:
    pair: Any = ClassifierPair(
        backdoored(), compressed, digits()[2], Backdoor(PATCH, target), classes=10
    )
    return check_backdoor_removed(pair, **arguments)


STILL_THERE: dict[str, Callable[[], torch.nn.Module]] = {
    "identity": backdoored,
    "int8": lambda: compressed_by(backdoored(), "quantize", method="bitsandbytes", bits=8),
    "a fifth pruned": lambda: compressed_by(
        backdoored(), "prune", method="magnitude", sparsity=0.2
    ),
}
BROKEN: dict[str, Callable[[], torch.nn.Module]] = {
    "constant target": lambda: constant(TARGET),
    "constant other": lambda: constant((TARGET + 1) % 10),
    "untrained": untrained,
    "nearly all pruned": lambda: compressed_by(
        backdoored(), "prune", method="magnitude", sparsity=0.99
    ),
    "one bit": lambda: compressed_by(
        backdoored(), "quantize", method="round-to-nearest", levels="binary", group_size=None
    ),
}


@pytest.mark.parametrize("target", [TARGET, None])
@pytest.mark.parametrize("name", list(STILL_THERE))
def test_a_backdoor_that_is_still_there_is_red(name: str, target: int | None) -> None:
    found = removal(STILL_THERE[name](), target=target)
    assert found.verdict is Verdict.REGRESSED, found.summary


@pytest.mark.parametrize("allowed", [0.02, 0.3])
@pytest.mark.parametrize("target", [TARGET, None])
@pytest.mark.parametrize("name", list(BROKEN))
def test_a_broken_model_has_not_lost_its_backdoor(
    name: str, target: int | None, allowed: float
) -> None:
    found = removal(BROKEN[name](), target=target, max_accuracy_drop=allowed)
    assert found.verdict in (Verdict.INCONCLUSIVE, Verdict.REGRESSED), found.summary


def test_a_model_that_computes_no_numbers_is_not_measured() -> None:
    found = removal(not_a_number(), target=TARGET)
    assert found.verdict is Verdict.NOT_MEASURED
    assert "not finite" in found.summary


def test_a_model_without_it_passes() -> None:
    """Or else nothing above would say anything."""
    clean = models("nf4", malicious=False)[1]
    found = removal(copy.deepcopy(clean), target=TARGET)
    assert found.verdict is Verdict.PRESERVED, found.summary


def test_a_clean_original_has_no_backdoor_to_remove() -> None:
    clean = models("nf4", malicious=False)[0]
    pair: Any = ClassifierPair(
        clean, copy.deepcopy(clean), digits()[2], Backdoor(PATCH, TARGET), classes=10
    )
    assert check_backdoor_removed(pair).verdict is Verdict.NOT_MEASURED
