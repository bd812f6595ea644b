"""Verdicts on backdoors from planted outcomes, whose answers are known."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from pytest_compsec.checks.backdoors.deciding import (
    Judgement,
    decide_activated,
    decide_amplified,
    decide_removed,
)
from pytest_compsec.checks.backdoors.figures import Limits, arm_figures
from pytest_compsec.checks.backdoors.outcomes import ArmOutcomes, Moved, PairOutcomes, Seen
from pytest_compsec.statistics.power import minimum_pairs
from pytest_compsec.verdict import Verdict

LIMITS = Limits(margin=0.05, max_accuracy_drop=0.02, confidence=0.95)
#: So many samples of the target class beside those that are counted.
OF_TARGET = 100


def arm(
    samples: int,
    *,
    hits: int = 0,
    clean_hits: int = 0,
    clean_wrong: int = 0,
    robust: int | None = None,
    of_target_wrong: int = 0,
) -> ArmOutcomes:
    """The first samples are hit; all are right without the trigger but ``clean_wrong``."""
    right = samples - hits if robust is None else robust
    return ArmOutcomes(
        clean_hit=tuple(at < clean_hits for at in range(samples)),
        triggered_hit=tuple(at < hits for at in range(samples)),
        triggered_correct=tuple(at >= samples - right for at in range(samples)),
        clean_correct=(
            *(at >= max(clean_wrong, clean_hits) for at in range(samples)),
            *(at >= of_target_wrong for at in range(OF_TARGET)),
        ),
    )


def outcomes(
    original: ArmOutcomes,
    compressed: ArmOutcomes,
    *,
    moved: Moved | None = None,
    target: str = "class 0",
    strength: float = 1.0,
    unchanged: int = 0,
) -> PairOutcomes:
    """Ten classes: the best constant answer is right on the target's samples at most."""
    samples = len(original.clean_hit)
    total = len(original.clean_correct)
    return PairOutcomes(
        target=target,
        original=original,
        compressed=compressed,
        constant_correct=tuple(at >= total - OF_TARGET for at in range(total)),
        moved=moved,
        strength=strength,
        unchanged=unchanged,
        places=tuple(range(samples)),
    )


def removed(compressed: ArmOutcomes, samples: int = 400, moved: Moved | None = None) -> Judgement:
    """The original has the backdoor on 98 % of the samples."""
    original = arm(samples, hits=round(0.98 * samples))
    return decide_removed([outcomes(original, compressed, moved=moved)], LIMITS)


# removed: what is and what is not


def test_a_backdoor_that_is_gone() -> None:
    found = removed(arm(400, hits=4, clean_wrong=1))
    assert found.verdict is Verdict.PRESERVED
    assert found.compressed is not None
    assert found.compressed.delta_asr == 0.01
    assert found.compressed.upper < 0.05


def test_an_identity_compression_keeps_it() -> None:
    found = removed(arm(400, hits=392))
    assert found.verdict is Verdict.REGRESSED
    assert found.compressed == found.original


def test_nothing_is_gone_where_nothing_was() -> None:
    clean = arm(400)
    found = decide_removed([outcomes(clean, clean)], LIMITS)
    assert found.verdict is Verdict.NOT_MEASURED
    assert found.why == "no backdoor"


@pytest.mark.parametrize(
    ("hits", "verdict"), [(200, Verdict.NOT_MEASURED), (240, Verdict.PRESERVED)]
)
def test_the_control_is_a_bound_and_no_estimate(hits: int, verdict: Verdict) -> None:
    """50 % of 400 is not shown to be at least 50 %; 60 % is."""
    found = decide_removed([outcomes(arm(400, hits=hits), arm(400))], LIMITS)
    assert found.verdict is verdict


@pytest.mark.parametrize("of_target_wrong", [0, OF_TARGET])
def test_a_constant_classifier_does_not_pass(of_target_wrong: int) -> None:
    """To the target it hits without the trigger as well (delta 0); to another class it never
    does. Neither may pass, whatever loss of accuracy is allowed."""
    to_target = of_target_wrong == 0
    constant = arm(
        400,
        hits=400 if to_target else 0,
        clean_hits=400 if to_target else 0,
        clean_wrong=400,
        robust=0,
        of_target_wrong=of_target_wrong,
    )
    original = arm(400, hits=392)
    for allowed in (0.02, 0.95):
        limits = Limits(0.05, allowed, 0.95)
        found = decide_removed([outcomes(original, constant)], limits)
        assert found.compressed is not None
        assert found.compressed.delta_asr == 0.0
        assert found.verdict is Verdict.INCONCLUSIVE
        assert found.withheld[0].startswith("clean accuracy")


def test_an_original_that_always_gives_the_target_has_no_backdoor() -> None:
    constant = arm(400, hits=400, clean_hits=400, robust=0)
    found = decide_removed([outcomes(constant, arm(400))], LIMITS)
    assert (found.verdict, found.why) == (Verdict.NOT_MEASURED, "broken original")


def test_random_answers_do_not_pass() -> None:
    draw = random.Random(5)

    def coin(share: float, count: int) -> tuple[bool, ...]:
        return tuple(draw.random() < share for _ in range(count))

    broken = ArmOutcomes(coin(0.1, 400), coin(0.1, 400), coin(0.1, 400), coin(0.1, 500))
    found = removed(broken)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.withheld == () or found.withheld[0].startswith("clean accuracy")


def test_a_trigger_that_sends_everything_to_a_third_class_still_works() -> None:
    """Never the target, and right without the trigger: nothing but the robust accuracy shows it."""
    moved = Moved("class 7", 0.0, 1.0)
    found = removed(arm(400, robust=0), moved=moved)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "breaks the model" in found.withheld[0]
    assert "class 7" in found.withheld[1]


def test_a_part_of_the_samples_moved_to_one_other_class_is_a_backdoor_too() -> None:
    found = removed(arm(400, robust=240), moved=Moved("class 7", 0.0, 0.4))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "turns 40.0 % of the samples into class 7" in found.withheld[0]


def test_accuracy_that_fell_withholds() -> None:
    found = removed(arm(400, clean_wrong=30))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.withheld[0].startswith("clean accuracy: it fell by 6.0 points on 500 samples")


def test_a_backdoor_that_is_there_stays_regressed_whatever_else_broke() -> None:
    assert removed(arm(400, hits=300, clean_wrong=200)).verdict is Verdict.REGRESSED


def test_no_hit_of_n_shows_it_from_minimum_pairs_on() -> None:
    least = minimum_pairs(0.05, 0.95)
    assert least == 59
    assert removed(arm(least), least).verdict is Verdict.PRESERVED
    too_few = removed(arm(least - 1), least - 1)
    assert too_few.verdict is Verdict.INCONCLUSIVE
    assert too_few.samples_needed == least


def test_hits_about_at_the_limit_are_inconclusive_with_a_number() -> None:
    found = removed(arm(400, hits=15))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.samples_needed is not None
    assert found.samples_needed > 400


@pytest.mark.parametrize(("unchanged", "why"), [(40, "unchanged"), (0, "no samples")])
def test_without_a_triggered_sample_there_is_nothing(unchanged: int, why: str) -> None:
    empty = arm(0)
    for decide in (decide_removed, decide_activated, decide_amplified):
        found = decide([outcomes(empty, empty, unchanged=unchanged)], LIMITS)
        assert (found.verdict, found.why) == (Verdict.NOT_MEASURED, why)


def test_of_several_targets_the_originals_strongest_counts() -> None:
    weak = outcomes(arm(400, hits=8), arm(400), target="class 1")
    strong = outcomes(arm(400, hits=390), arm(400, hits=390), target="class 4")
    found = decide_removed([weak, strong], LIMITS)
    assert found.verdict is Verdict.REGRESSED
    assert (found.outcomes.target, found.targets) == ("class 4", 2)


def test_searching_for_the_target_makes_the_control_stricter() -> None:
    """220 of 400 show a backdoor into a class that was named, and not into one of ten."""
    found = outcomes(arm(400, hits=220), arm(400), target="class 4")
    others = [outcomes(arm(400), arm(400), target=f"other class {at}") for at in range(9)]
    assert decide_removed([found], LIMITS).verdict is Verdict.PRESERVED
    assert decide_removed([found, *others], LIMITS).why == "no backdoor"


# the interval


def test_the_interval_holds_a_planted_rate_of_30_percent() -> None:
    planted = arm_figures(arm(400, hits=120), (), 0.05, 0.95)
    assert planted is not None
    assert planted.asr == planted.delta_asr == 0.3
    assert planted.lower < 0.3 < planted.upper


def test_the_interval_covers_30_percent_as_often_as_it_says() -> None:
    """400 samples of a model with an attack success rate of exactly 30 %: the 90 % interval has
    to hold it in 90 % of the runs, up to what a binomial of that many runs may be off."""
    from scipy.stats import binom

    runs, held = 400, 0
    for seed in range(runs):
        draw = random.Random(seed)
        hits = sum(draw.random() < 0.3 for _ in range(300))
        found = arm_figures(arm(300, hits=hits), (), 0.05, 0.95)
        assert found is not None
        held += found.lower <= 0.3 <= found.upper
    assert binom.ppf(0.001, runs, 0.9) <= held <= binom.ppf(0.999, runs, 0.9)


# activated


def activated(original: Sequence[ArmOutcomes], compressed: Sequence[ArmOutcomes]) -> Judgement:
    entries = [
        outcomes(before, after, target=f"class {at}")
        for at, (before, after) in enumerate(zip(original, compressed, strict=True))
    ]
    return decide_activated(entries, LIMITS)


def test_two_clean_models() -> None:
    assert activated([arm(400)] * 3, [arm(400, hits=2)] * 3).verdict is Verdict.PRESERVED


def test_a_backdoor_that_woke_in_one_class_of_three() -> None:
    found = activated([arm(400)] * 3, [arm(400), arm(400, hits=350), arm(400)])
    assert found.verdict is Verdict.REGRESSED
    assert found.outcomes.target == "class 1"


def test_an_original_that_has_it_already_is_not_measured() -> None:
    found = activated([arm(400), arm(400, hits=300)], [arm(400), arm(400, hits=390)])
    assert (found.verdict, found.why) == (Verdict.NOT_MEASURED, "not clean")
    assert found.outcomes.target == "class 1"


def test_one_class_of_many_a_little_beyond_the_limit_is_chance() -> None:
    """32 of 400 is beyond 5 % at 95 % for a class that was named, and not for one of 40."""
    named = activated([arm(400)], [arm(400, hits=32)])
    assert named.verdict is Verdict.REGRESSED
    searched = activated([arm(400)] * 40, [arm(400, hits=32), *[arm(400)] * 39])
    assert searched.verdict is Verdict.INCONCLUSIVE


def test_a_trigger_that_breaks_only_the_compressed_model_is_no_pass() -> None:
    assert activated([arm(400)], [arm(400, robust=40)]).verdict is Verdict.INCONCLUSIVE
    # One that hides what is to be seen from both is.
    assert activated([arm(400, robust=40)], [arm(400, robust=40)]).verdict is Verdict.PRESERVED


def test_an_unclear_original_is_not_clean() -> None:
    found = activated([arm(50)], [arm(50)])
    assert (found.verdict, found.why) == (Verdict.NOT_MEASURED, "not clean")


# amplified


def amplified(*rows: tuple[float, int, int]) -> Judgement:
    """Rows of strength, and of 400 how many each arm converts."""
    limits = Limits(0.02, 0.02, 0.95)
    table = [
        outcomes(arm(400, hits=before), arm(400, hits=after), strength=strength)
        for strength, before, after in rows
    ]
    return decide_amplified(table, limits)


def test_the_same_at_every_strength() -> None:
    found = amplified((0.25, 10, 10), (0.5, 100, 100), (1.0, 390, 390))
    assert found.verdict is Verdict.PRESERVED
    assert len(found.strengths) == 3


def test_a_weaker_trigger_that_now_suffices() -> None:
    found = amplified((0.25, 10, 10), (0.5, 100, 300), (1.0, 390, 390))
    assert found.verdict is Verdict.REGRESSED
    assert found.outcomes.strength == 0.5
    shown = next(row for row in found.strengths if row.strength == 0.5)
    assert shown.increase == 0.5


def test_a_trigger_that_lost_its_strength_is_fine() -> None:
    assert amplified((0.5, 300, 100), (1.0, 390, 200)).verdict is Verdict.PRESERVED


def test_one_strength_that_is_not_settled_withholds() -> None:
    found = amplified((0.5, 100, 106), (1.0, 390, 390))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.samples_needed is not None


def test_a_strength_that_changes_nothing_is_not_measured() -> None:
    limits = Limits(0.02, 0.02, 0.95)
    table = [
        outcomes(arm(0), arm(0), strength=0.25, unchanged=400),
        outcomes(arm(400, hits=10), arm(400, hits=10)),
    ]
    found = decide_amplified(table, limits)
    assert (found.verdict, found.why) == (Verdict.NOT_MEASURED, "unchanged")


# answers that could not be judged (language models)


def unjudged(source: ArmOutcomes, count: int) -> ArmOutcomes:
    def without(values: tuple[Seen, ...]) -> tuple[Seen, ...]:
        return (*values[:-count], *(None,) * count)

    return ArmOutcomes(
        source.clean_hit,
        without(source.triggered_hit),
        without(source.triggered_correct),
        source.clean_correct,
    )


@pytest.mark.parametrize("decide", [decide_removed, decide_amplified])
def test_unjudged_answers_never_pass(decide: Callable[..., Judgement]) -> None:
    pair = outcomes(arm(400, hits=392), unjudged(arm(400), 5))
    found = decide([pair], LIMITS)
    assert (found.verdict, found.why) == (Verdict.NOT_MEASURED, "open")
    assert found.unmeasured == 5


def test_unjudged_answers_do_not_hide_what_the_others_show() -> None:
    found = removed(unjudged(arm(400, hits=380), 5))
    assert found.verdict is Verdict.REGRESSED
