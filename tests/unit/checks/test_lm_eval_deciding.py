"""From scores of both models to an estimate: which metric, which test, which verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from pytest_compsec.checks.harness.deciding import Decided, counts_of, decide_task, losses
from pytest_compsec.checks.harness.metrics import (
    MetricFacts,
    PairedScores,
    TaskFacts,
    chosen_metrics,
    paired_scores,
)
from pytest_compsec.checks.harness.samples import Row, RowPair, paired_rows
from pytest_compsec.errors import MeasurementError
from pytest_compsec.verdict import Verdict

ACC = MetricFacts("acc", True, "mean")
F1 = MetricFacts("f1", True, "f1")
PERPLEXITY = MetricFacts("perplexity", False, "perplexity")


def facts(
    *metrics: MetricFacts, name: str = "t", output_type: str = "multiple_choice"
) -> TaskFacts:
    return TaskFacts(name, "1", output_type, metrics, 0, 1000, "pinned")


def rows(metric: str, scores: Sequence[Any], *, task: str = "t", **fields: Any) -> list[Row]:
    return [
        Row(
            task,
            i,
            fields.get("filter", "none"),
            f"d{i}",
            f"p{i}",
            f"t{i}",
            {metric: score},
            fields.get("choices"),
        )
        for i, score in enumerate(scores)
    ]


def pairs(metric: str, original: Sequence[Any], compressed: Sequence[Any], **fields: Any) -> Any:
    return paired_rows(rows(metric, original, **fields), rows(metric, compressed, **fields))


def figures(found: Sequence[RowPair], metric: str) -> dict[tuple[str, str], Any]:
    """The harness's own figures, as it aggregates a mean."""
    told = {}
    for task, kept in {(first.task, first.filter) for first, _ in found}:
        own = [pair for pair in found if pair[0].task == task and pair[0].filter == kept]
        means = [
            math.fsum(pair[place].scores[metric] or 0 for pair in own) / len(own)
            for place in (0, 1)
        ]
        told[task, f"{metric},{kept}"] = tuple(means)
    return told


def scores(
    metric: MetricFacts, original: Sequence[Any], compressed: Sequence[Any], **fields: Any
) -> PairedScores:
    found = pairs(metric.name, original, compressed, **fields)
    return paired_scores(found, metric.name, [facts(metric)], "t", figures(found, metric.name))


def decide(found: PairedScores, *, margin: float = 0.02, claims: int = 1) -> Decided:
    return decide_task("t", found, margin=margin, confidence=0.95, claims=claims)


# --- which metric


def test_without_a_name_the_first_metric_that_can_be_paired_is_taken() -> None:
    assert chosen_metrics(None, [facts(PERPLEXITY, F1, ACC)], "t") == ("acc",)
    norm = MetricFacts("acc_norm", True, "mean")
    assert chosen_metrics(None, [facts(ACC, norm), facts(norm, ACC)], "g") == ("acc", "acc_norm")


def test_an_unknown_metric_is_told_which_there_are() -> None:
    with pytest.raises(MeasurementError, match=r"no metric 'accuracy'; it has acc, f1"):
        chosen_metrics("accuracy", [facts(ACC, F1)], "t")


def test_likelihoods_are_referred_to_capability_preserved() -> None:
    with pytest.raises(MeasurementError, match=r"capability_preserved.*can be paired: acc"):
        chosen_metrics("perplexity", [facts(PERPLEXITY, ACC)], "t")
    with pytest.raises(MeasurementError, match="capability_preserved"):
        chosen_metrics(None, [facts(PERPLEXITY)], "t")
    # A likelihood whose task does not say so is seen by its size.
    odd = MetricFacts("ppl", True, None)
    found = pairs("ppl", [-3.5, -2.0], [-3.0, -2.0])
    with pytest.raises(MeasurementError, match=r"-3.5 for the document t:0.*capability_preserved"):
        paired_scores(found, None, [facts(odd)], "t", figures(found, "ppl"))


def test_figures_of_a_whole_corpus_are_refused() -> None:
    with pytest.raises(MeasurementError, match=r"whole corpus \(f1\).*can be paired: acc"):
        chosen_metrics("f1", [facts(ACC, F1)], "t")
    # And one that is no mean although nothing says so, by the harness's own figure.
    odd = MetricFacts("odd", True, None)
    found = pairs("odd", [0.5, 0.7], [0.5, 0.7])
    with pytest.raises(MeasurementError, match="no mean over documents"):
        paired_scores(found, None, [facts(odd)], "t", {("t", "odd,none"): (0.6, 0.9)})
    with pytest.raises(MeasurementError, match=r"'acc' has no number for the document t:1"):
        paired_scores(pairs("acc", [1, None], [1, 1]), None, [facts(ACC)], "t", {})


def test_a_metric_without_direction_is_refused() -> None:
    with pytest.raises(MeasurementError, match="whether higher is better"):
        chosen_metrics("odd", [facts(MetricFacts("odd", None, "mean"))], "t")
    with pytest.raises(MeasurementError, match="'ter': lower is better"):
        chosen_metrics(None, [facts(MetricFacts("ter", False, "mean"))], "t")
    mixed = [facts(ACC), facts(MetricFacts("acc", False, "mean"))]
    with pytest.raises(MeasurementError, match="high in one of its tasks and low in another"):
        paired_scores(pairs("acc", [1], [1]), "acc", mixed, "g", {("t", "acc,none"): (1.0, 1.0)})


def test_the_tasks_first_filter_is_taken_or_the_one_that_is_named() -> None:
    match = MetricFacts("exact_match", True, "mean")
    found = (
        *pairs("exact_match", [1.0, 1.0], [1.0, 0.0], filter="strict"),
        *pairs("exact_match", [0.0, 1.0], [0.0, 1.0], filter="flexible"),
    )
    told = figures(found, "exact_match")
    ordered = {key: told[key] for key in sorted(told, reverse=True)}  # strict first
    taken = paired_scores(found, None, [facts(match)], "t", ordered)
    assert (taken.label, taken.compressed) == ("exact_match,strict", (1.0, 0.0))
    named = paired_scores(found, "exact_match,flexible", [facts(match)], "t", ordered)
    assert (named.label, named.compressed) == ("exact_match,flexible", (0.0, 1.0))
    with pytest.raises(MeasurementError, match="no filter 'loose'; it has strict, flexible"):
        paired_scores(found, "exact_match,loose", [facts(match)], "t", ordered)


def test_the_kind_of_test_does_not_depend_on_the_outcomes() -> None:
    own = MetricFacts("own", True, None)
    assert scores(ACC, [1.0, 0.0], [1.0, 1.0]).binary  # by its name
    assert scores(own, [1, 0], [1, 1]).binary  # whole numbers
    assert not scores(own, [1.0, 0.0], [1.0, 1.0]).binary  # may be anything between


def test_a_group_is_one_estimate_over_all_documents_of_its_tasks() -> None:
    both = [facts(ACC, name="a"), facts(ACC, name="b")]
    found = (
        *pairs("acc", [1.0] * 30, [1.0] * 30, task="a"),
        *pairs("acc", [1.0] * 10, [0.0] * 10, task="b"),
    )
    pooled = paired_scores(found, None, both, "g", figures(found, "acc"))
    decided = decide_task("g", pooled, margin=0.02, confidence=0.95, claims=1)
    assert decided.estimate.samples == 40
    assert decided.estimate.change == pytest.approx(0.25)
    assert decided.estimate.verdict == Verdict.REGRESSED
    assert "b:0" in decided.note


# --- which verdict


def test_identical_models_are_preserved_and_a_worse_one_regressed() -> None:
    right = [1.0] * 150 + [0.0] * 50
    preserved = decide(scores(ACC, right, right)).estimate
    assert preserved.verdict == Verdict.PRESERVED
    assert (preserved.original, preserved.change, preserved.samples) == (0.75, 0.0, 200)
    worse = [0.0] * 30 + right[30:]
    regressed = decide(scores(ACC, right, worse))
    assert regressed.estimate.verdict == Verdict.REGRESSED
    assert regressed.estimate.change == pytest.approx(0.15)
    assert "30 worse, 0 better, 170 as before; worse: t:0, t:1" in regressed.note


def test_too_few_documents_are_inconclusive_and_told_how_many_would_do() -> None:
    decided = decide(scores(ACC, [1.0] * 100, [1.0] * 100))
    assert decided.estimate.verdict == Verdict.INCONCLUSIVE
    assert "about 149 documents instead of 100" in decided.settle


def test_the_same_accuracies_with_other_documents_are_told_apart() -> None:
    """Two means with standard errors cannot: both compressed models are right as often."""
    right = [1.0, 0.0] * 200
    others = [0.0, 1.0] * 200
    same, flipped = decide(scores(ACC, right, right)), decide(scores(ACC, right, others))
    for decided in (same, flipped):
        assert (decided.estimate.original, decided.estimate.compressed) == (0.5, 0.5)
    # Nor could they see that nothing changed: 1.645 standard errors of their difference are 5.8
    # points, far beyond the margin.
    unpaired_bound = 1.645 * math.sqrt(2 * 0.25 / 400)
    assert unpaired_bound > 0.05
    assert same.estimate.verdict == Verdict.PRESERVED
    assert same.estimate.upper is not None
    assert same.estimate.upper < 0.01
    assert flipped.estimate.verdict == Verdict.INCONCLUSIVE
    assert flipped.estimate.upper is not None
    assert flipped.estimate.upper > 0.05
    assert "200 worse, 200 better, 0 as before" in flipped.note


def test_a_metric_of_which_lower_is_better_is_mirrored() -> None:
    wrong = MetricFacts("hallucinated", False, "mean")
    before, after = [0] * 180 + [1] * 20, [1] * 60 + [0] * 120 + [1] * 20
    worse = scores(wrong, before, after)
    assert counts_of(worse).regressed == 60
    estimate = decide(worse).estimate
    assert (estimate.original, estimate.compressed) == (0.1, 0.4)
    assert estimate.change == pytest.approx(0.3)
    assert estimate.verdict == Verdict.REGRESSED
    assert "compressed - original" in estimate.estimand
    assert decide(scores(wrong, after, before)).estimate.verdict == Verdict.PRESERVED


def test_fractions_go_to_the_bound_of_a_mean() -> None:
    overlap = MetricFacts("overlap", True, "mean")
    before = [0.5 + (i % 5) / 10 for i in range(600)]
    same = decide(scores(overlap, before, before)).estimate
    assert same.verdict == Verdict.PRESERVED
    assert "Waudby-Smith" in same.method
    worse = decide(scores(overlap, before, [score - 0.2 for score in before])).estimate
    assert worse.verdict == Verdict.REGRESSED
    assert worse.change == pytest.approx(0.2)
    few = decide(scores(overlap, before[:60], before[:60]))
    assert few.estimate.verdict == Verdict.INCONCLUSIVE
    assert "more documents than 60" in few.settle


def test_regressed_among_several_tasks_shares_its_risk() -> None:
    right, worse = [1.0] * 100, [0.0] * 6 + [1.0] * 94
    alone = decide(scores(ACC, right, worse)).estimate
    assert alone.verdict == Verdict.REGRESSED
    among = decide(scores(ACC, right, worse), claims=10).estimate
    assert among.verdict == Verdict.INCONCLUSIVE
    # PRESERVED is asked of each at the full confidence, whatever their number.
    same = scores(ACC, [1.0] * 149, [1.0] * 149)
    assert decide(same, claims=10).estimate.verdict == Verdict.PRESERVED
    overlap = MetricFacts("overlap", True, "mean")
    drop = scores(overlap, [0.9] * 40, [0.65] * 40)
    assert decide(drop).estimate.verdict == Verdict.REGRESSED
    assert decide(drop, claims=10_000).estimate.verdict == Verdict.INCONCLUSIVE


def test_a_task_at_which_guessing_is_within_the_margin_is_not_measured() -> None:
    by_chance = [1.0, 0.0] * 200
    decided = decide(scores(ACC, by_chance, by_chance, choices=2))
    assert decided.estimate.verdict == Verdict.NOT_MEASURED
    assert decided.missing is not None
    assert "a model that guesses (50 %)" in decided.missing
    assert decide(scores(ACC, by_chance, by_chance, choices=4)).missing is None
    never = decide(scores(MetricFacts("exact_match", True, "mean"), [0.0] * 200, [0.0] * 200))
    assert never.missing is not None
    assert "always wrong" in never.missing
    # Seven of ten may be luck, 70 of 100 are not.
    few, many = [1.0] * 7 + [0.0] * 3, [1.0] * 70 + [0.0] * 30
    luck = decide(scores(ACC, few, few, choices=2)).missing
    assert luck is not None
    assert "10 documents cannot tell from a model that guesses (50 %)" in luck
    assert decide(scores(ACC, many, many, choices=2)).missing is None
    # Worse than a guess is a regression all the same.
    lost = decide(scores(ACC, by_chance, [0.0] * 400, choices=2))
    assert lost.estimate.verdict == Verdict.REGRESSED


def test_losses_are_positive_where_it_is_worse() -> None:
    assert losses(scores(ACC, [1.0, 0.0, 1.0], [0.0, 1.0, 1.0])) == (1.0, -1.0, 0.0)
