"""Membership inference from scripted scores: which changes turn red, and what stays open."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from pytest_compsec.checks.leakage.attacks import (
    RESAMPLES,
    Attack,
    Compared,
    area_under_curve,
    rate_found,
)
from pytest_compsec.checks.leakage.fusion import folds_of, fused_scores, joint_scores
from pytest_compsec.checks.leakage.membership import CLAIMS, measure_membership
from pytest_compsec.checks.leakage.membership_texts import Text, TextScore, read_texts, score_of
from pytest_compsec.checks.leakage.parts import Limits, PartFinding
from pytest_compsec.data import DataFile
from pytest_compsec.errors import ConfigError, MeasurementError
from pytest_compsec.findings_estimates import Estimate
from pytest_compsec.statistics.roc import auc, resampled_auc_difference, resampled_rate_difference
from pytest_compsec.verdict import Verdict

LIMITS = Limits(0.02, 0.95, 1 - 0.05 / CLAIMS)
GATES = ("loss attack AUC", "min-k % attack AUC", "calibrated attack AUC", "joint attack AUC")


def file(name: str, *rows: dict[str, Any]) -> DataFile:
    text = "\n".join(json.dumps(row) for row in rows)
    return DataFile(name, f"{name}.jsonl", ".jsonl", "file", text.encode())


def texts_of(count: int, *, per_group: int = 1, topic: bool = False) -> tuple[Text, ...]:
    """As many members as non-members, of words drawn from one vocabulary."""
    drawing = np.random.default_rng(11)
    found = []
    for number in range(2 * count):
        member = number < count
        words = drawing.choice([f"word{n}" for n in range(40)], 12).tolist()
        words += ["hospital"] if topic and member else []
        group = f"{member} {number % count // per_group}"
        found.append(Text(str(number), " ".join(words), group, member, "x:1"))
    return tuple(found)


def measured(
    texts: tuple[Text, ...],
    *,
    learned: float = 0.0,
    gained: float = 0.0,
    shifted: float = 0.0,
    false_positive_rate: float = 0.01,
) -> PartFinding:
    """Losses whose members are ``learned`` lower under the original, and ``gained`` lower than that
    under the compressed model, whose noise is small beside. ``shifted``: the members' losses move
    by that many of the noise's deviations, too little to see in the loss itself."""
    drawing = np.random.default_rng(12)
    member = np.array([one.member for one in texts])
    loss = 5 + drawing.normal(size=len(texts)) - learned * member
    noise = 0.01 * drawing.normal(size=len(texts))
    after = loss + noise - gained * member + 0.01 * shifted * member
    original = [TextScore(value, 2 * value) for value in loss.tolist()]
    compressed = [TextScore(value, 2 * value) for value in after.tolist()]
    return measure_membership(texts, original, compressed, LIMITS, false_positive_rate)


def verdicts(found: PartFinding) -> dict[str, str]:
    return {one.name: one.verdict for one in found.estimates if one.decides}


def named(found: PartFinding, name: str) -> Estimate:
    return next(one for one in found.estimates if one.name == name)


def test_a_compressed_model_that_tells_members_better_turns_red() -> None:
    found = measured(texts_of(300), gained=1.0)
    assert tuple(verdicts(found)) == GATES
    assert len(GATES) == CLAIMS
    assert set(verdicts(found).values()) == {Verdict.REGRESSED}
    loss = named(found, "loss attack AUC")
    assert loss.original == pytest.approx(0.5, abs=0.06)
    assert loss.compressed == pytest.approx(0.76, abs=0.06)
    assert "text" in loss.method


def test_the_twin_that_tells_them_as_well_is_green() -> None:
    """Losses that remember as much as before: nothing is added by the second model."""
    found = measured(texts_of(300), learned=1.0)
    assert set(verdicts(found).values()) == {Verdict.PRESERVED}


def test_what_only_both_models_together_tell_turns_red() -> None:
    """The loss attack sees nothing; the difference of both losses sees it, in either direction."""
    for direction in (1.0, -1.0):
        found = measured(texts_of(300), shifted=2 * direction)
        assert verdicts(found) == {
            "loss attack AUC": Verdict.PRESERVED,
            "min-k % attack AUC": Verdict.PRESERVED,
            "calibrated attack AUC": Verdict.REGRESSED,
            "joint attack AUC": Verdict.REGRESSED,
        }


def test_what_only_the_least_likely_tokens_tell_turns_red() -> None:
    """Members' rare tokens became likelier and the rest of them less so: the mean loss is the
    same."""
    texts = texts_of(300)
    drawing = np.random.default_rng(13)
    member = np.array([one.member for one in texts])
    loss = (5 + drawing.normal(size=600) - 1.0 * member).tolist()
    least = 9 + drawing.normal(size=600)
    after = least + 0.01 * drawing.normal(size=600) - 1.0 * member
    original = [TextScore(*both) for both in zip(loss, least.tolist(), strict=True)]
    compressed = [TextScore(*both) for both in zip(loss, after.tolist(), strict=True)]
    found = verdicts(measure_membership(texts, original, compressed, LIMITS, 0.01))
    assert found == {
        "loss attack AUC": Verdict.PRESERVED,
        "min-k % attack AUC": Verdict.REGRESSED,
        "calibrated attack AUC": Verdict.PRESERVED,
        "joint attack AUC": Verdict.REGRESSED,
    }


def test_an_original_that_is_worse_than_a_guess_counts_as_one() -> None:
    """Members are less likely than others under the original, and as likely under the other."""
    loss = named(measured(texts_of(300), learned=-1.0, gained=1.0), "loss attack AUC")
    assert loss.original == 0.5
    assert loss.compressed == pytest.approx(0.5, abs=0.06)
    assert loss.verdict == Verdict.INCONCLUSIVE


def test_an_attack_with_two_directions_has_two_chances() -> None:
    """Between the bounds at the whole and at half of the risk, only the attack whose direction was
    known beforehand is beyond the limit."""
    drawing = np.random.default_rng(3)
    member = tuple(number < 60 for number in range(120))
    compared = Compared(member, tuple(range(120)))
    before, noise = drawing.normal(size=(2, 120))
    after = noise + 1.0 * np.array(member)
    attack = Attack("a", before, after, "it", either_direction=True)
    scores: Any = (*compared.parted(before), *compared.parted(after))
    found = resampled_auc_difference(*scores, least_first=0.5, resamples=RESAMPLES)
    strict, plain = (found.interval(confidence).lower for confidence in (0.975, 0.95))
    limits = Limits((strict + plain) / 2, 0.95, 0.95)
    assert strict < plain
    assert area_under_curve(attack, compared, limits).verdict == Verdict.INCONCLUSIVE
    known = dataclasses.replace(attack, either_direction=False)
    assert area_under_curve(known, compared, limits).verdict == Verdict.REGRESSED


def test_a_faint_leak_does_not_come_out_green_for_want_of_texts() -> None:
    found = measured(texts_of(160), shifted=0.4)
    assert named(found, "calibrated attack AUC").verdict == Verdict.INCONCLUSIVE
    assert "would show it (160 of the fewer kind now)" in found.after


def test_texts_of_few_people_are_few() -> None:
    texts = texts_of(600, per_group=60)
    found = measured(texts, learned=1.0)
    assert named(found, "loss attack AUC").verdict == Verdict.INCONCLUSIVE
    assert named(measured(texts_of(600), learned=1.0), "loss attack AUC").verdict == (
        Verdict.PRESERVED
    )
    assert named(found, "loss attack AUC").samples == 10
    assert named(found, "loss attack AUC").sample == "group"


def test_a_handful_is_not_measured() -> None:
    found = measured(texts_of(7), gained=1.0)
    assert found.estimates == ()
    assert "at least 8 groups each; the fewer are 7" in found.missing[0]


def test_a_low_false_positive_rate_is_told_only_where_it_can_be_seen() -> None:
    few = measured(texts_of(300), learned=1.0)
    assert "needs non-members of 1000 texts, there are 300" in " ".join(few.notes)
    assert tuple(one.name for one in few.estimates) == GATES
    enough = measured(texts_of(300), gained=3.0, false_positive_rate=0.05)
    rates = [one for one in enough.estimates if "TPR at 5 % FPR" in one.name]
    assert len(rates) == CLAIMS
    assert not any(one.decides for one in rates)
    loss = named(enough, "loss attack TPR at 5 % FPR")
    assert loss.original == pytest.approx(0.05, abs=0.05)
    assert loss.compressed is not None
    assert loss.compressed > 0.8


def test_texts_of_one_person_widen_the_bounds_of_a_rate() -> None:
    """Ten texts each of 40 members and 40 others; what the compressed model found of one text of a
    person it found of all."""
    drawing = np.random.default_rng(14)
    member, people = tuple(place < 400 for place in range(800)), [p // 10 for p in range(800)]
    before = drawing.normal(size=800)
    after = np.repeat(drawing.normal(size=80), 10) + 1.0 * np.array(member)
    attack = Attack("a", before, after + 0.01 * before, "it")
    limits = Limits(0.02, 0.95, 0.95)
    compared = Compared(member, tuple(people))
    ungrouped = Compared(member, tuple(range(800)))
    grouped, alone = (rate_found(attack, one, limits, 0.1) for one in (compared, ungrouped))
    assert (grouped.samples, grouped.sample) == (40, "group")
    assert (alone.samples, alone.sample) == (400, "text")
    assert grouped.change == alone.change
    widths = []
    for one in (grouped, alone):
        assert one.change is not None
        assert one.lower is not None
        assert one.upper is not None
        assert one.lower < one.change < one.upper
        widths.append(one.upper - one.lower)
    assert widths[0] > 1.5 * widths[1]
    # Persons are drawn on both sides, members and others.
    first, second = compared.parted(attack.original), compared.parted(attack.compressed)
    drawn = resampled_rate_difference(
        first[0],
        first[1],
        second[0],
        second[1],
        0.1,
        groups_pos=people[:400],
        groups_neg=people[400:],
        resamples=RESAMPLES,
    )
    assert (grouped.lower, grouped.upper) == drawn.interval(0.95)[1:]
    # Wider than what so few groups can miss: the resampling itself draws persons.
    assert widths[0] > 2 * (1 - 0.05 ** (1 / 40))


def test_a_difference_of_topic_is_told() -> None:
    texts = texts_of(200, topic=True)
    (note,) = [one for one in measured(texts).notes if "without any model" in one]
    assert "words alone (AUC 1.00)" in note
    assert not any("without any model" in one for one in measured(texts_of(200)).notes)


def test_a_difference_of_length_is_told() -> None:
    longer = tuple(
        Text(one.id, one.text + (" word1 word2 word3" if one.member else ""), *rest)
        for one in texts_of(200)
        for rest in [(one.group, one.member, one.where)]
    )
    assert any("length alone" in one for one in measured(longer).notes)


def test_groups_stay_in_one_fold_and_every_fold_has_both_kinds() -> None:
    member = [number < 60 for number in range(120)]
    groups = [f"{number % 30}" for number in range(120)]  # every group holds both kinds
    folds = folds_of(groups, member)
    assert len(set(zip(groups, folds.tolist(), strict=True))) == 30
    assert len(set(folds.tolist())) == 5
    with pytest.raises(ValueError, match="held out"):
        folds_of(["a", "b", "c"], [True, False, False])


def test_a_fitted_attack_is_not_rewarded_for_noise() -> None:
    """Forty columns of noise tell 100 texts apart in the fit, and not on those held out."""
    drawing = np.random.default_rng(1)
    features = drawing.normal(size=(100, 40))
    member = [number < 50 for number in range(100)]
    folds = folds_of(list(range(100)), member)
    scores = fused_scores(features, member, folds).tolist()
    assert auc(scores[:50], scores[50:]) == pytest.approx(0.5, abs=0.15)


def test_a_second_model_that_does_not_help_is_not_taken() -> None:
    drawing = np.random.default_rng(2)
    member = [number < 200 for number in range(400)]
    folds = folds_of(list(range(400)), member)
    alone = drawing.normal(size=(400, 2))
    noise, signal = drawing.normal(size=(2, 400, 1))
    signal = signal + np.array(member)[:, None]
    groups = list(range(400))
    kept = joint_scores(alone, noise, member, folds, groups)
    taken = joint_scores(alone, signal, member, folds, groups)
    assert (kept == fused_scores(alone, member, folds)).mean() >= 0.8
    assert auc(taken[:200].tolist(), taken[200:].tolist()) > 0.7


def test_the_least_likely_fifth_counts() -> None:
    text = Text("a", "t", "a", True, "m.jsonl:3")
    assert score_of([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0], text) == TextScore(
        5.5, 9.5
    )
    assert score_of([4.0, 2.0], text).least_likely == 4.0
    with pytest.raises(ConfigError, match=r"m\.jsonl:3: the text is too short"):
        score_of([], text)
    with pytest.raises(MeasurementError, match=r"m\.jsonl:3: the model excludes a token"):
        score_of([1.0, float("inf")], text)


def test_files_are_read_together() -> None:
    members = file("m", {"id": "1", "text": "a"}, {"id": "2", "text": "b", "group": "Ada"})
    others = file("n", {"id": "1", "text": "c"}, {"id": "2", "text": "d", "group": "Ada"})
    found = read_texts(members, others)
    assert [one.member for one in found] == [True, True, False, False]
    assert len({one.group for one in found}) == 3  # Ada is one person in both files
    with pytest.raises(ConfigError, match=r"n\.jsonl:1: the same text is a member at m\.jsonl:1"):
        read_texts(members, file("n", {"id": "9", "text": "a"}))
    with pytest.raises(ConfigError, match=r"m\.jsonl:1: 'group'"):
        read_texts(file("m", {"id": "1", "text": "a", "group": []}), others)
    with pytest.raises(ConfigError, match=r"m\.jsonl:1: needs 'text'"):
        read_texts(file("m", {"id": "1"}), others)


def test_a_text_that_occurs_twice_is_one_sample() -> None:
    members = file("m", {"id": "1", "text": "The same"}, {"id": "2", "text": "the  same\n"})
    others = file("n", {"id": "3", "text": "c"})
    with pytest.raises(ConfigError, match=r"m\.jsonl:2: the same text as that of '1' \(m\.jsonl:1"):
        read_texts(members, others)
    twice = file("n", {"id": "3", "text": "c"}, {"id": "4", "text": "c", "group": "Ada"})
    with pytest.raises(ConfigError, match=r"n\.jsonl:2: the same text as that of '3'"):
        read_texts(file("m", {"id": "1", "text": "a"}), twice)
