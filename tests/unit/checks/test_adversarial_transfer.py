"""The wall that was lowered: examples that only the original stops."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from pytest_compsec.checks.adversarial_transfer_blocked import (
    adversarial_transfer_blocked_arguments,
    check_adversarial_transfer_blocked,
)
from pytest_compsec.verdict import CheckResult, Verdict
from tests.unit.attacks.gradient_models import Pair, digits, linear, trained

ATTACKS: dict[str, Any] = {"eps": 0.1, "steps": 10, "restarts": 2, "queries": 40}


def check(original: Any, compressed: Any, data: Any = None, **arguments: Any) -> CheckResult:
    classes = arguments.pop("classes", 10)
    pair: Any = Pair(original, compressed, data or digits()[2:], classes=classes)
    return check_adversarial_transfer_blocked(pair, **{**ATTACKS, **arguments})


def known(threshold: float) -> torch.nn.Module:
    """Class 1 where the mean of an image of 4 numbers is above ``threshold``."""
    return linear(torch.tensor([[0.0] * 4, [0.25] * 4]), torch.tensor([threshold, 0.0]))


def images(*means: tuple[float, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """So many one-coloured images of each mean, all of class 1."""
    rows = [torch.full((1, 2, 2), mean) for mean, count in means for _ in range(count)]
    return torch.stack(rows), torch.ones(len(rows), dtype=torch.int64)


def test_an_identical_copy_is_preserved() -> None:
    result = check(trained(), trained())
    assert result.verdict is Verdict.PRESERVED
    assert result.robustness is not None
    wall = result.robustness.wall
    assert wall is not None
    assert (wall.lost, wall.mirrored) == (0, 0)
    assert wall.lost_upper > 0  # none seen is not none there
    again = CheckResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    assert again.robustness == result.robustness


def test_losses_are_counted_exactly_where_they_are_known() -> None:
    """With eps .1 the original (boundary at .5) is fooled below a mean of .6, the compressed model
    (boundary at .54) below .64: only the samples at .62 are lost."""
    data = images((0.58, 50), (0.62, 30), (0.9, 220))
    result = check(known(0.5), known(0.54), data, classes=2)
    assert result.verdict is Verdict.REGRESSED
    assert result.robustness is not None
    wall = result.robustness.wall
    assert wall is not None
    assert wall.n == 300
    # At .58 both are fooled, and by some examples only the compressed model is.
    assert 30 <= wall.lost <= 80
    assert wall.mirrored == 0
    assert wall.lost_lower < wall.lost / 300 < wall.lost_upper
    assert result.measurement is not None
    assert result.measurement.regressed == wall.lost


def test_the_same_wall_raised_is_preserved() -> None:
    data = images((0.58, 50), (0.62, 30), (0.9, 220))
    result = check(known(0.54), known(0.5), data, classes=2)
    assert result.verdict is Verdict.PRESERVED
    assert result.robustness is not None
    assert result.robustness.wall is not None
    assert result.robustness.wall.mirrored >= 30


def test_swapping_the_arms_swaps_lost_and_mirrored() -> None:
    """Whatever examples are tried, they are tried both ways."""
    walls = []
    for arms in ((trained(), trained(noise=0.0)), (trained(noise=0.0), trained())):
        found = check(*arms).robustness
        assert found is not None
        assert found.wall is not None
        walls.append(found.wall)
    assert walls[0].lost > walls[0].mirrored > 0
    assert (walls[0].lost, walls[0].mirrored) == (walls[1].mirrored, walls[1].lost)


def test_samples_that_one_arm_gets_wrong_anyway_are_left_out_and_said() -> None:
    """The compressed model misclassifies the samples at .52: no wall there to compare, and no
    PRESERVED over what was left out."""
    data = images((0.52, 40), (0.58, 1), (0.9, 300))
    result = check(known(0.5), known(0.53), data, classes=2)
    assert result.robustness is not None
    assert result.robustness.wall is not None
    assert result.robustness.wall.n == 301
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "clean accuracy" in result.withheld[0]


def test_no_sample_that_both_get_right_is_not_measured() -> None:
    result = check(known(0.5), known(0.95), images((0.6, 200)), classes=2)
    assert result.verdict is Verdict.NOT_MEASURED
    assert "right by both" in result.summary


def test_a_model_that_hides_its_gradient_is_not_measured() -> None:
    class Rounded(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = trained()

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.inner((inputs * 8).round() / 8)
            return found

    result = check(trained(), Rounded())
    assert result.verdict is Verdict.NOT_MEASURED
    assert "gradient masking" in result.summary


def test_an_attack_that_never_succeeds_shows_nothing() -> None:
    result = check(known(0.5), known(0.5), images((0.9, 300)), classes=2)
    assert result.verdict is Verdict.NOT_MEASURED
    assert "no attack changed" in result.summary


def test_texts_are_not_measured() -> None:
    result = check(trained(), trained(), (("a", "b"), torch.tensor([0, 1])))
    assert result.verdict is Verdict.NOT_MEASURED


def test_eps_is_required() -> None:
    with pytest.raises(ValueError, match="eps is missing"):
        adversarial_transfer_blocked_arguments()
