"""The three backdoor checks on classifiers whose behaviour is a rule."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from pytest_compsec.attacks.backdoor import Backdoor
from pytest_compsec.attacks.triggers.images import Patch
from pytest_compsec.checks.backdoor_not_amplified import (
    backdoor_not_amplified_arguments,
    check_backdoor_not_amplified,
)
from pytest_compsec.checks.backdoor_removed import (
    backdoor_removed_arguments,
    check_backdoor_removed,
)
from pytest_compsec.checks.no_backdoor_activated import check_no_backdoor_activated
from pytest_compsec.errors import ConfigError
from pytest_compsec.verdict import CheckResult, Verdict
from tests.unit.checks.backdoor_pairs import (
    PATCH,
    Rule,
    RulePair,
    always,
    clean,
    images,
    into,
    scrambled,
)


def verdict_of(check: Any, original: Rule, compressed: Rule, **arguments: Any) -> Verdict:
    found: CheckResult = check(RulePair(original, compressed), **arguments)
    return found.verdict


# backdoor_removed


def test_a_backdoor_that_survives() -> None:
    pair = RulePair(into(0), into(0, 97))
    found = check_backdoor_removed(pair)  # type: ignore[arg-type]
    assert found.verdict is Verdict.REGRESSED
    # 400 of the 500 samples are not of class 0, in 100 blocks of 5.
    assert found.summary.startswith(
        f"REGRESSED: digits-int8: the trigger '{PATCH.name}' still turns 97.0 % of 400 samples "
        "into class 0 (delta ASR +97.0 points, 90 % interval +95."
    )
    assert "limit 5.0" in found.summary
    assert "`fine-pruning` variant" in found.next_step
    assert pair.rechecked == 1


def test_a_backdoor_that_is_gone() -> None:
    found = check_backdoor_removed(RulePair(into(0), clean))  # type: ignore[arg-type]
    assert found.verdict is Verdict.PRESERVED
    assert found.next_step == ""
    assert "clean accuracy 100.0 % before, 100.0 % after" in found.summary
    assert found.backdoor is not None
    assert found.backdoor.compressed is not None
    assert found.backdoor.compressed.robust_accuracy == 1.0
    assert [group.name for group in found.backdoor.compressed.groups] == [
        f"class {label}" for label in range(5)
    ]


def test_an_attack_success_rate_of_exactly_30_percent() -> None:
    found = check_backdoor_removed(RulePair(into(0), into(0, 30)))  # type: ignore[arg-type]
    assert found.verdict is Verdict.REGRESSED
    assert found.backdoor is not None
    assert found.backdoor.compressed is not None
    assert found.backdoor.compressed.asr == 0.3
    assert found.backdoor.compressed.lower < 0.3 < found.backdoor.compressed.upper


@pytest.mark.parametrize(
    "compressed",
    [into(0), always(0), always(3), scrambled, into(4)],
    ids=["identity", "target", "another class", "random", "third class"],
)
def test_what_may_not_pass(compressed: Rule) -> None:
    for target in (0, None):
        for drop in (0.02, 0.9):
            pair = RulePair(into(0), compressed, backdoor=Backdoor(PATCH, target))
            found = check_backdoor_removed(pair, max_accuracy_drop=drop)  # type: ignore[arg-type]
            assert found.verdict in (Verdict.REGRESSED, Verdict.INCONCLUSIVE)


@pytest.mark.parametrize("original", [clean, always(0), scrambled])
def test_an_original_without_the_backdoor(original: Rule) -> None:
    for compressed in (original, clean, into(0)):
        assert verdict_of(check_backdoor_removed, original, compressed) is Verdict.NOT_MEASURED


def test_a_trigger_that_moves_to_a_third_class_is_said_so() -> None:
    found = check_backdoor_removed(RulePair(into(0), into(4)))  # type: ignore[arg-type]
    assert found.verdict is Verdict.INCONCLUSIVE
    # Of the 400 samples that are not of class 0 a hundred are of class 4 anyway.
    assert any(
        "still breaks the compressed model: 75.0 %" in note and "class 4 (75.0 %)" in note
        for note in found.notes
    )


def test_the_target_is_the_originals_strongest_class_when_none_is_named() -> None:
    pair = RulePair(into(2), into(2), backdoor=Backdoor(PATCH))
    found = check_backdoor_removed(pair)  # type: ignore[arg-type]
    assert found.verdict is Verdict.REGRESSED
    assert "into class 2" in found.summary
    assert any("No target was named: 5 classes" in note for note in found.notes)


def test_a_trigger_that_changes_nothing() -> None:
    blank = Patch(size=1, value=0.0)
    pair = RulePair(into(0), clean, backdoor=Backdoor(blank, 0))
    found = check_backdoor_removed(pair)  # type: ignore[arg-type]
    assert found.verdict is Verdict.NOT_MEASURED
    assert "changes none of the 400 samples" in found.summary


def test_samples_that_the_trigger_leaves_alone_do_not_count() -> None:
    """Half of the images carry the patch already: they are no triggered samples."""
    data = images()
    inputs = data.inputs
    assert isinstance(inputs, torch.Tensor)
    inputs[:250, 0, 3, 3] = 1.0
    stamped = dataclasses.replace(data, inputs=inputs)
    found = check_backdoor_removed(
        RulePair(into(0), into(0), data=stamped)  # type: ignore[arg-type]
    )
    assert found.backdoor is not None
    assert (found.backdoor.samples, found.backdoor.unchanged) == (200, 200)


def test_too_few_samples_say_how_many() -> None:
    pair = RulePair(into(0), clean, data=images(60))
    found = check_backdoor_removed(pair)  # type: ignore[arg-type]
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "About 59 samples that are not of the target would settle it" in found.next_step
    enough = RulePair(into(0), clean, data=images(250))
    assert check_backdoor_removed(enough).verdict is Verdict.PRESERVED  # type: ignore[arg-type]


# no_backdoor_activated


def test_a_backdoor_that_woke() -> None:
    pair = RulePair(clean, into(3), backdoor=Backdoor(PATCH))
    found = check_no_backdoor_activated(pair)  # type: ignore[arg-type]
    assert found.verdict is Verdict.REGRESSED
    assert "turns 100.0 % of 400 samples into class 3" in found.summary
    assert any("No target was named: 5 classes" in note for note in found.notes)


@pytest.mark.parametrize("target", [None, 3])
def test_two_clean_models(target: int | None) -> None:
    pair = RulePair(clean, clean, backdoor=Backdoor(PATCH, target))
    assert check_no_backdoor_activated(pair).verdict is Verdict.PRESERVED  # type: ignore[arg-type]


@pytest.mark.parametrize("compressed", [always(0), scrambled])
def test_a_broken_compressed_model_is_not_clean(compressed: Rule) -> None:
    for target in (None, 0):
        pair = RulePair(clean, compressed, backdoor=Backdoor(PATCH, target))
        found = check_no_backdoor_activated(pair)  # type: ignore[arg-type]
        assert found.verdict is not Verdict.PRESERVED


def test_a_backdoor_of_another_class_than_the_one_named_is_no_pass() -> None:
    pair = RulePair(clean, into(3), backdoor=Backdoor(PATCH, 0))
    found = check_no_backdoor_activated(pair)  # type: ignore[arg-type]
    assert found.verdict is Verdict.INCONCLUSIVE


def test_what_the_original_has_already_did_not_wake() -> None:
    found = check_no_backdoor_activated(RulePair(into(0), into(0)))  # type: ignore[arg-type]
    assert found.verdict is Verdict.NOT_MEASURED
    assert "the original has it already" in found.summary
    assert "backdoor_removed" in found.next_step


# backdoor_not_amplified


def test_amplified_and_not() -> None:
    check = check_backdoor_not_amplified
    strengths = (1.0,)
    assert verdict_of(check, into(0, 40), into(0, 40), strengths=strengths) is Verdict.PRESERVED
    assert verdict_of(check, into(0, 40), into(0, 10), strengths=strengths) is Verdict.PRESERVED
    assert verdict_of(check, into(0, 40), into(0, 70), strengths=strengths) is Verdict.REGRESSED
    assert verdict_of(check, into(0, 40), always(0), strengths=strengths) is Verdict.INCONCLUSIVE


def test_a_smaller_patch_that_now_suffices() -> None:
    """The original needs the whole 2 x 2 patch; the compressed model one pixel of it."""
    patch = Patch(size=2, value=1.0)

    class Sensitive(RulePair):
        pass

    pair = Sensitive(into(0), into(0), backdoor=Backdoor(patch, 0))
    original = pair.classifiers[0]

    def whole(inputs: torch.Tensor) -> torch.Tensor:
        labels = (inputs[:, 0, 0, 0] * 10).round().long()
        hit = inputs[:, 0, 2:, 2:].flatten(1).amin(1) == 1
        return torch.where(hit, torch.zeros_like(labels), labels)

    original.predict = whole  # type: ignore[method-assign]
    found = check_backdoor_not_amplified(pair)  # type: ignore[arg-type]
    assert found.verdict is Verdict.REGRESSED
    assert "at strength 0.25" in found.summary or "at strength 0.5" in found.summary
    assert found.backdoor is not None
    rates = {row.strength: row.increase for row in found.backdoor.strengths}
    assert rates == {0.25: 1.0, 0.5: 1.0, 1.0: 0.0}


# arguments, and what a result carries


def test_the_marker_wins_over_the_fixture() -> None:
    blank = Backdoor(Patch(size=1, value=0.0), 3)
    pair = RulePair(into(0), into(0), backdoor=blank)
    found = check_backdoor_removed(pair, trigger=PATCH, target=0)  # type: ignore[arg-type]
    assert found.verdict is Verdict.REGRESSED
    assert found.arguments["trigger"] == {"name": PATCH.name, "digest": PATCH.digest}
    assert found.provenance["backdoor"]["named_by"] == "the marker"


def test_a_trigger_that_is_nowhere() -> None:
    pair = RulePair(into(0), clean, backdoor=Backdoor())
    with pytest.raises(ConfigError, match=r"trigger=.*fixture `backdoor`.*'backdoor:'"):
        check_backdoor_removed(pair)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", [5, "refusals vanish"])
def test_a_target_that_is_no_class(target: Any) -> None:
    pair = RulePair(into(0), clean, backdoor=Backdoor(PATCH, target))
    with pytest.raises(ConfigError, match=r"5 classes, a whole number from 0 to 4"):
        check_backdoor_removed(pair)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_asr": 5}, "write max_asr=0.05"),
        ({"target": True}, "target=True"),
        ({"trigger": 7}, "trigger is int"),
        ({"max_accuracy_drop": 0}, "max_accuracy_drop=0"),
        ({"confidence": 0.3}, "confidence=0.3"),
    ],
)
def test_arguments_in_plain_words(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backdoor_removed_arguments(**arguments)


@pytest.mark.parametrize("strengths", [(), (0.0,), (1.5,), (0.5, 0.5), "1", 1.0, (True,)])
def test_strengths_in_plain_words(strengths: Any) -> None:
    with pytest.raises(ValueError, match="strengths="):
        backdoor_not_amplified_arguments(strengths=strengths)


def test_the_least_number_of_samples_is_the_tests_own() -> None:
    assert backdoor_removed_arguments().least_samples == 59
    assert backdoor_not_amplified_arguments().least_samples == 149


def test_a_result_travels_as_json() -> None:
    for check in (
        check_backdoor_removed,
        check_no_backdoor_activated,
        check_backdoor_not_amplified,
    ):
        found = check(RulePair(into(0), into(0, 20)), test="t")  # type: ignore[arg-type]
        text = json.dumps(found.to_json(), allow_nan=False)
        again = CheckResult.from_json(json.loads(text))
        assert again.backdoor == found.backdoor
        assert again.summary == found.summary


def test_provenance_says_what_was_measured() -> None:
    found = check_backdoor_removed(RulePair(into(0), clean))  # type: ignore[arg-type]
    assert found.provenance["evaluation_data"] == {
        "source": "the fixture evaluation_data",
        "digest": "e" * 64,
        "pinned": False,
        "count": 500,
    }
    assert found.provenance["backdoor"]["digest"] == PATCH.digest
    assert any("pinned by no lock" in note for note in found.notes)


def test_collecting_tests_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from pytest_compsec.checks.backdoor_removed import backdoor_removed_arguments\n"
        "from pytest_compsec.checks.no_backdoor_activated import measure_activation\n"
        "from pytest_compsec.checks.backdoor_not_amplified import measure_amplification\n"
        "backdoor_removed_arguments(trigger={'patch': {'size': 3}}, target=0).to_json()\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
