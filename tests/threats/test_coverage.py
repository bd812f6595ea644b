"""Known answers: a classifier whose attack success rate is 30 % by construction, asked through its
predictions on fresh samples many times. The interval holds it as often as it says."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import nn

from pytest_compsec.attacks.backdoor import Backdoor
from pytest_compsec.attacks.triggers.images import Patch
from pytest_compsec.checks.backdoor_removed import check_backdoor_removed
from pytest_compsec.checks.backdoors.classification import outcomes_of, predictions
from pytest_compsec.checks.backdoors.figures import beyond_pvalue, bounds, within_pvalue
from pytest_compsec.checks.no_backdoor_activated import check_no_backdoor_activated
from pytest_compsec.classification.data import EvaluationData
from pytest_compsec.statistics.counts import PairedCounts
from pytest_compsec.verdict import Verdict
from tests.threats.pairs import StandInPair

CLASSES = 5
TARGET = 0
SAMPLES = 200
DRAWS = 300
#: Without the trigger, so many samples of other classes are taken for the target anyway.
CLEAN_RATE = 0.04
PLANTED = 0.30
PATCH = Patch(size=1, position="bottom-right", value=1.0)
BACKDOOR = Backdoor(PATCH, TARGET)


class Planted(nn.Module):
    """Right, but for the target: without the trigger where the image's first number is below
    ``clean_rate``, with it where its second one is below ``attack_success_rate``. Both are uniform
    in [0, 1], so the shares are the model's, over all images that there may be."""

    num_classes = CLASSES

    def __init__(self, clean_rate: float, attack_success_rate: float) -> None:
        super().__init__()
        self.clean_rate, self.attack_success_rate = clean_rate, attack_success_rate

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        labels = (images[:, 0, 0, 0] * 10).round().long()
        triggered = images[:, 0, 3, 3] == 1
        hit = torch.where(
            triggered,
            images[:, 0, 0, 2] < self.attack_success_rate,
            images[:, 0, 0, 1] < self.clean_rate,
        )
        found = torch.where(hit, torch.full_like(labels, TARGET), labels)
        return nn.functional.one_hot(found, CLASSES).float()


def drawn(seed: int) -> EvaluationData:
    """Fresh samples: as many of each class, and the two numbers at random."""
    labels = torch.arange(SAMPLES) % CLASSES
    images = torch.zeros(SAMPLES, 1, 4, 4)
    images[:, 0, 0, 0] = labels / 10
    numbers = torch.rand(SAMPLES, 2, generator=torch.Generator().manual_seed(seed))
    images[:, 0, 0, 1:3] = numbers
    return EvaluationData(images, labels, f"draw {seed}", "0" * 64)


def pair_of(compressed: Planted, seed: int) -> StandInPair:
    """On fresh samples, with an original that the trigger always turns into the target."""
    return StandInPair(
        Planted(0.0, 1.0), compressed, data=drawn(seed), backdoor=BACKDOOR, classes=CLASSES
    )


def hits(compressed: Planted, draws: int = DRAWS) -> list[PairedCounts]:
    """What the check counts of the compressed model, on each of so many draws."""
    found = []
    for seed in range(draws):
        pair = pair_of(compressed, seed)
        seen = predictions(pair.classifiers, pair.evaluation_data, PATCH, [1.0])
        found.append(outcomes_of(seen, TARGET).compressed.hits())
    return found


@pytest.fixture(scope="module")
def counts() -> list[PairedCounts]:
    return hits(Planted(0.0, PLANTED))


def share(values: Iterable[bool]) -> float:
    known = list(values)
    return sum(known) / len(known)


def test_the_check_reports_what_is_counted_here(counts: list[PairedCounts]) -> None:
    for seed in (0, 1):
        pair = pair_of(Planted(0.0, PLANTED), seed)
        found = check_backdoor_removed(pair)  # type: ignore[arg-type]
        assert found.verdict is Verdict.REGRESSED
        assert found.backdoor is not None
        arm = found.backdoor.compressed
        assert arm is not None
        assert arm.asr == counts[seed].degradation
        assert (arm.lower, arm.upper) == bounds(counts[seed], 0.95)
    assert sum(one.degradation for one in counts) / DRAWS == pytest.approx(PLANTED, abs=0.01)


def test_the_interval_holds_the_planted_rate_as_often_as_it_says(
    counts: list[PairedCounts],
) -> None:
    """Each bound is wrong in 5 % of all draws, give or take 2.5 points: two standard errors."""
    intervals = [bounds(one, 0.95) for one in counts]
    assert 0.02 <= share(upper < PLANTED for _, upper in intervals) <= 0.08
    assert 0.02 <= share(lower > PLANTED for lower, _ in intervals) <= 0.08


def test_what_the_clean_model_says_anyway_is_not_the_triggers_doing() -> None:
    """With 4 % of clean samples taken for the target the delta is 26 %, and that is what the
    interval holds; it does not hold the 44 % of ``mean(pred == target)`` over all samples."""
    delta, usual = PLANTED - CLEAN_RATE, (CLASSES - 1) / CLASSES * PLANTED + 1 / CLASSES
    intervals = [bounds(one, 0.95) for one in hits(Planted(CLEAN_RATE, PLANTED))]
    assert 0.02 <= share(upper < delta for _, upper in intervals) <= 0.08
    assert 0.02 <= share(lower > delta for lower, _ in intervals) <= 0.08
    assert share(lower <= usual <= upper for lower, upper in intervals) < 0.01


def test_at_the_limit_neither_test_decides_more_often_than_allowed(
    counts: list[PairedCounts],
) -> None:
    """With the limit at the planted rate both verdicts would be wrong."""
    for pvalue in (within_pvalue, beyond_pvalue):
        assert 0 < share(pvalue(one, PLANTED) <= 0.05 for one in counts) <= 0.075


def test_exactly_30_of_100_is_reported_as_30_percent() -> None:
    """And an original that is clean: the backdoor woke."""
    labels = torch.arange(500) % CLASSES
    images = torch.zeros(500, 1, 4, 4)
    images[:, 0, 0, 0] = labels / 10
    images[:, 0, 0, 1] = 1.0
    images[:, 0, 0, 2] = (torch.arange(500) // CLASSES % 100 + 0.5) / 100
    data = EvaluationData(images, labels, "planted", "0" * 64)
    pair = StandInPair(
        Planted(0.0, 0.0), Planted(0.0, PLANTED), data=data, backdoor=BACKDOOR, classes=CLASSES
    )
    found = check_no_backdoor_activated(pair)  # type: ignore[arg-type]
    assert found.verdict is Verdict.REGRESSED
    assert found.backdoor is not None
    assert found.backdoor.compressed is not None
    assert found.backdoor.compressed.asr == 0.3
    assert found.backdoor.compressed.lower < 0.3 < found.backdoor.compressed.upper
