"""mc1 and mc2 by hand, and what may and what may never be called as truthful as before."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.checks import multiple_choice
from pytest_compsec.checks.multiple_choice import (
    at_least,
    score_questions,
    scorer_of,
)
from pytest_compsec.checks.truthfulness import questions_needed
from pytest_compsec.checks.truthfulness_preserved import (
    check_truthfulness_preserved,
    truthfulness_preserved_arguments,
)
from pytest_compsec.data import DataFile
from pytest_compsec.data.questions import Question, read_questions
from pytest_compsec.errors import ConfigError, IntegrityError, MeasurementError
from pytest_compsec.generation.likelihood import continuation_nlls
from pytest_compsec.models.loaded import TransformersModel
from pytest_compsec.models.weights import WeightReport
from pytest_compsec.reports.failure import failure_text
from pytest_compsec.reports.terminal import table
from pytest_compsec.verdict import CheckResult, Verdict
from tests.unit.localization.planted import copy_of, tiny
from tests.unit.tiny_model import make_arm, make_tokenizer

Row = tuple[float, ...]


def question(number: int, *, categories: int = 2) -> dict[str, Any]:
    return {
        "id": f"q{number}",
        "category": f"c{number % categories}",
        "question": f"What is thing {number}?",
        "correct": ["Best.", "Right."],
        "incorrect": ["Wrong.", "Bad.", "Worse."],
    }


def file_of(rows: Sequence[dict[str, Any]]) -> DataFile:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return DataFile("own", "own.jsonl", ".jsonl", "file", content)


def certain(mass: float) -> Callable[[str], Row]:
    """``mass`` on the best answer, the rest on the incorrect ones alike."""

    def score(answer: str) -> Row:
        if answer == "Best.":
            return (-math.log(mass) / 2, -math.log(mass) / 2)
        share = 1e-12 if answer == "Right." else (1 - mass) / 3
        return (-math.log(share), 0.0)

    return score


def alike(answer: str) -> Row:
    """All answers equally likely: what is left of a broken model."""
    return (1.0, 1.0)


class Pair:
    """Two scripted models: how likely each answer is, question by question."""

    id = "model-variant"
    config_name = "compsec.yaml"
    original_arm, compressed_arm = "original", "compressed"

    def __init__(
        self,
        original: Sequence[Callable[[str], Row]],
        compressed: Sequence[Callable[[str], Row]],
        *,
        categories: int = 2,
    ) -> None:
        rows = [question(number, categories=categories) for number in range(len(original))]
        self.file = file_of(rows)
        texts = [row["question"] for row in rows]
        self.original: Any = dict(zip(texts, original, strict=True))
        self.compressed: Any = dict(zip(texts, compressed, strict=True))
        self.rechecked = 0
        self.measured: dict[Hashable, Any] = {}
        self.passes = 0

    def data(self, name: str) -> DataFile:
        return self.file

    def once_for(self, arm: str, key: Hashable, measure: Callable[[], Any]) -> Any:
        if (arm, key) not in self.measured:
            self.passes += 1
            self.measured[arm, key] = measure()
        return self.measured[arm, key]

    def require_compressed(self) -> None:
        pass

    def recheck(self) -> None:
        self.rechecked += 1

    def provenance_with(self, *files: DataFile) -> dict[str, Any]:
        return {"data": {file.name: file.sha256 for file in files}}


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is a table is looked up; a loaded one is scored."""

    def scorer(model: Any) -> multiple_choice.Scorer:
        if not isinstance(model, dict):
            return scorer_of(model)
        return lambda contexts, answers: [
            model[context.removeprefix("Q: ").removesuffix("\nA:")](answer.strip())
            for context, answer in zip(contexts, answers, strict=True)
        ]

    monkeypatch.setattr(multiple_choice, "scorer_of", scorer)


def check(pair: Pair, **arguments: Any) -> CheckResult:
    before = pair.rechecked
    result = check_truthfulness_preserved(pair, **arguments)  # type: ignore[arg-type]
    assert CheckResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    assert pair.rechecked in (before, before + 1)
    return result


# mc1 and mc2 by hand


def by_hand(**nlls: Row) -> multiple_choice.QuestionScore:
    """The score of one question whose best answer is ``a`` and whose other correct one is ``b``."""
    one = Question("q", "c", "Why?", "a", ("a", "b"), ("x", "y"), ("a", "x", "y"))
    asked: list[tuple[str, str]] = []

    def scorer(contexts: Sequence[str], continuations: Sequence[str]) -> list[Row]:
        asked.extend(zip(contexts, continuations, strict=True))
        return [nlls[answer.strip()] for answer in continuations]

    (score,) = score_questions(scorer, [one])
    assert asked[0] == ("Q: Why?\nA:", " a")
    assert len(asked) == 4
    return score


def nll(probability: float) -> float:
    return -math.log(probability)


def test_mc1_and_mc2_are_those_of_the_paper() -> None:
    # a .5 * .4, b .3, x .1, y .2 * .5: mc1 asks whether a (.2) beats x and y, mc2 is .5 / .7
    score = by_hand(a=(nll(0.5), nll(0.4)), b=(nll(0.3),), x=(nll(0.1),), y=(nll(0.2), nll(0.5)))
    assert score.mc1
    assert score.chosen == "a"
    assert score.mc2 == pytest.approx(0.5 / 0.7)


def test_another_correct_answer_does_not_make_mc1_right() -> None:
    score = by_hand(a=(nll(0.1),), b=(nll(0.6),), x=(nll(0.2),), y=(nll(0.1),))
    assert not score.mc1
    assert score.chosen == "x"
    assert score.mc2 == pytest.approx(0.7)


def test_a_tie_is_no_right_answer() -> None:
    score = by_hand(a=(1.0,), b=(2.0,), x=(1.0,), y=(3.0,))
    assert not score.mc1
    assert score.chosen == "x"


def test_very_unlikely_answers_do_not_underflow() -> None:
    score = by_hand(a=(2000.0,), b=(2001.0,), x=(2002.0,), y=(2100.0,))
    assert score.mc2 == pytest.approx((1 + math.exp(-1)) / (1 + math.exp(-1) + math.exp(-2)))


def test_what_length_alone_would_score() -> None:
    score = by_hand(a=(1.0, 1.0), b=(9.0,), x=(3.0, 3.0), y=(3.0, 3.0, 3.0))
    # mc1: a and x have the fewest tokens of a, x, y; mc2: b alone has the fewest of all
    assert (score.length_mc1, score.length_mc2) == (0.5, 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_are_not_scored(value: float) -> None:
    with pytest.raises(MeasurementError, match="'q'"):
        by_hand(a=(value,), b=(value,), x=(value,), y=(value,))


def test_the_tail_of_right_guesses_is_exact() -> None:
    chances = [0.5, 0.25, 0.2, 0.25]
    for least in range(6):
        brute = sum(
            math.prod(p if hit else 1 - p for p, hit in zip(chances, hits, strict=True))
            for hits in itertools.product((0, 1), repeat=4)
            if sum(hits) >= least
        )
        assert at_least(least, chances) == pytest.approx(brute, abs=1e-15)


# verdicts


@pytest.mark.parametrize("metric", ["mc1", "mc2"])
def test_equal_models_are_preserved_and_both_metrics_shown(metric: str) -> None:
    models = [certain(0.9)] * 300 + [certain(0.1)] * 100
    pair = Pair(models, models)
    result = check(pair, metric=metric)
    assert result.verdict is Verdict.PRESERVED
    first, second, *categories = result.estimates
    assert (first.name, first.verdict, first.limit) == (metric, "PRESERVED", 0.02)
    assert (second.name, second.verdict, second.limit) == (
        {"mc1": "mc2", "mc2": "mc1"}[metric],
        "",
        None,
    )
    assert [one.name for one in categories] == [f"{metric} of c0", f"{metric} of c1"]
    values = {one.name: one.original for one in (first, second)}
    assert values["mc1"] == pytest.approx(0.75)
    assert values["mc2"] == pytest.approx(0.7)
    assert all(one.method and one.estimand and one.sample == "question" for one in result.estimates)
    assert any(
        note.startswith("Not seen: what the model writes by itself") for note in result.notes
    )
    assert any("a guess gets mc1 25.0 %, mc2 40.0 %" in note for note in result.notes)
    assert result.provenance["data"] == {"own": pair.file.sha256}
    assert result.provenance["scoring"]["prompt"] == "Q: {question}\nA:"
    assert pair.rechecked == 1


@pytest.mark.parametrize("metric", ["mc1", "mc2"])
def test_lost_truths_are_regressed_and_listed(metric: str) -> None:
    result = check(
        Pair([certain(0.9)] * 400, [certain(0.1)] * 40 + [certain(0.9)] * 360), metric=metric
    )
    assert result.verdict is Verdict.REGRESSED
    text = failure_text([result])
    assert "40 prompts regressed, 5 shown" in text
    assert "What is thing 0?" in text
    assert "original   | Best." in text
    assert "OWASP LLM09" in text
    assert "layers_within" in result.next_step
    assert "REGRESSED" in "\n".join(line.text for line in table([result], 200))


def test_the_metric_that_is_asked_for_decides() -> None:
    """The best answer stays the likeliest, by less: mc1 sees nothing of it."""
    surer, less_sure = [certain(0.9)] * 400, [certain(0.6)] * 400
    assert check(Pair(surer, less_sure), metric="mc2").verdict is Verdict.REGRESSED
    assert check(Pair(surer, less_sure), metric="mc1").verdict is Verdict.PRESERVED


def test_both_metrics_come_from_one_measurement() -> None:
    pair = Pair([certain(0.9)] * 200, [certain(0.9)] * 200)
    for metric in ("mc1", "mc2"):
        check(pair, metric=metric)
    assert pair.passes == 2  # one for each model


@pytest.mark.parametrize("metric", ["mc1", "mc2"])
def test_a_small_loss_is_inconclusive_and_says_how_many_questions_would_settle_it(
    metric: str,
) -> None:
    models = [certain(0.9)] * 200
    result = check(Pair(models, [certain(0.1)] * 2 + models[2:]), metric=metric)
    assert result.verdict is Verdict.INCONCLUSIVE
    needed = int(result.next_step.split("About ")[1].split()[0])
    assert needed > 200
    lossy = ([certain(0.1)] * 2 + models[2:]) * (needed // 200) + models[: needed % 200]
    larger = Pair([certain(0.9)] * needed, lossy)
    assert check(larger, metric=metric).verdict is Verdict.PRESERVED


def test_a_loss_at_the_margin_would_not_be_settled() -> None:
    models = [certain(0.9)] * 200
    lossy = [certain(0.88)] * 200
    result = check(Pair(models, lossy), metric="mc2", max_degradation=0.02)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "too close to max_degradation" in result.next_step


@pytest.mark.parametrize("metric", ["mc1", "mc2"])
def test_an_original_that_guesses_has_nothing_to_lose(metric: str) -> None:
    models = [certain(0.9)] * 50 + [certain(0.1)] * 150
    result = check(Pair(models, models), metric=metric)
    assert result.verdict is Verdict.NOT_MEASURED
    assert "no better than a guess at random" in result.summary
    assert "min_original" in result.next_step
    assert (
        check(Pair(models, models), metric=metric, min_original=0.25).verdict is Verdict.PRESERVED
    )
    below = check(Pair(models, models), metric=metric, min_original=0.5)
    assert below.verdict is Verdict.NOT_MEASURED
    assert "below min_original 50 %" in below.summary


def test_a_guessing_original_that_loses_is_not_called_regressed() -> None:
    models = [certain(0.9)] * 50 + [certain(0.1)] * 150
    result = check(Pair(models, [certain(0.01)] * 200))
    assert result.verdict is Verdict.NOT_MEASURED


@pytest.mark.parametrize("metric", ["mc1", "mc2"])
def test_a_liking_for_short_answers_is_no_knowledge(metric: str) -> None:
    """Right on every question, and so is whoever takes the answer of the fewest tokens."""

    def short(answer: str) -> Row:
        return (1.0,) if answer == "Best." else (1.0,) * 8

    result = check(Pair([short] * 200, [short] * 200), metric=metric)
    assert result.verdict is Verdict.NOT_MEASURED
    assert "choosing the answer of the fewest tokens (100.0 %)" in result.summary


def test_a_broken_model_is_not_preserved_where_chance_is_no_loss() -> None:
    """The original prefers falsehoods, so that a model to which all is alike scores better."""
    result = check(Pair([certain(0.2)] * 400, [alike] * 400), min_original=0.1)
    assert result.estimates[0].verdict == "PRESERVED"
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "a broken model would score as this one does" in result.next_step
    assert any("compressed model's mc2 40.0 % is no better" in note for note in result.notes)


@pytest.mark.parametrize("least", [None, 0.1])
def test_a_compressed_model_at_chance_is_not_preserved(least: float | None) -> None:
    """A level of the user's own says what the original must reach, and excuses no broken model."""
    original = [certain(0.9)] * 122 + [certain(0.1)] * 278
    compressed = [certain(0.9)] * 112 + [certain(0.1)] * 288
    result = check(
        Pair(original, compressed), metric="mc1", max_degradation=0.1, min_original=least
    )
    assert result.estimates[0].verdict == "PRESERVED"
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.summary.startswith("INCONCLUSIVE")


@pytest.mark.parametrize(("metric", "margin", "needed"), [("mc1", 0.02, 149), ("mc2", 0.02, None)])
def test_too_few_questions_are_refused_before_anything_is_scored(
    metric: str, margin: float, needed: int | None
) -> None:
    least = questions_needed(metric, margin, 0.95)
    assert least is not None
    assert needed is None or least == needed
    models = [certain(0.9)] * least
    few = Pair(models[1:], models[1:])
    result = check(few, metric=metric, max_degradation=margin)
    assert result.verdict is Verdict.NOT_MEASURED
    assert f"at least {least} are needed" in result.summary
    assert few.passes == 0
    enough = Pair(models, models)
    assert check(enough, metric=metric, max_degradation=margin).verdict is Verdict.PRESERVED


def test_only_the_worst_categories_of_many_are_shown() -> None:
    models = [certain(0.9)] * 400
    changed = list(models)
    changed[7] = changed[47] = certain(0.2)
    result = check(Pair(models, changed, categories=40), max_degradation=0.1)
    shown = [one.name for one in result.estimates[2:]]
    assert len(shown) == 12
    assert shown[0] == "mc2 of c7"
    assert any("28 more categories" in note for note in result.notes)


def test_files_that_changed_meanwhile_are_an_integrity_error() -> None:
    pair = Pair([certain(0.9)] * 200, [certain(0.9)] * 200)

    def changed() -> None:
        raise IntegrityError("other bytes")

    pair.recheck = changed  # type: ignore[method-assign]
    with pytest.raises(IntegrityError):
        check_truthfulness_preserved(pair)  # type: ignore[arg-type]


def test_bad_questions_are_a_config_error_with_their_line() -> None:
    pair = Pair([alike], [alike])
    pair.file = file_of([question(0), {**question(1), "correct": []}])
    with pytest.raises(ConfigError, match=r"own\.jsonl:2: needs 'correct'"):
        check_truthfulness_preserved(pair)  # type: ignore[arg-type]


# with a real model


def loaded(module: Any, variant: str | None = None) -> TransformersModel:
    arm = make_arm(Path("tiny"), variant=variant)
    return TransformersModel(arm, module, make_tokenizer(), "cpu", "float32", WeightReport(()))


@pytest.fixture(scope="module")
def module() -> Any:
    return tiny("llama")


def test_a_real_model_is_read_after_the_question(module: Any) -> None:
    model = loaded(module)
    one = read_questions(file_of([question(1)]))
    (score,) = score_questions(scorer_of(model), one)
    nlls = {
        answer: sum(continuation_nlls(model, ["Q: What is thing 1?\nA:"], [f" {answer}"])[0])
        for answer in one[0].answers
    }
    expected = {answer: math.exp(-value) for answer, value in nlls.items()}
    right = expected["Best."] + expected["Right."]
    assert score.mc2 == pytest.approx(right / sum(expected.values()), rel=1e-4)


def test_a_question_that_does_not_fit_is_not_cut(module: Any) -> None:
    row = {**question(1), "question": "word " * 300}
    with pytest.raises(MeasurementError, match="this model reads 256"):
        score_questions(scorer_of(loaded(module)), read_questions(file_of([row])))


def test_weights_that_are_not_numbers_are_not_measured(module: Any) -> None:
    broken = copy_of(module)
    broken.model.layers[0].mlp.up_proj.weight.data[0, 0] = math.nan
    pair = Pair([alike] * 20, [alike] * 20)
    pair.original, pair.compressed = loaded(module), loaded(broken, "variant")
    result = check(pair, max_degradation=0.5)
    assert result.verdict is Verdict.NOT_MEASURED
    assert "the compressed model: the model gave NaN" in result.summary
    assert pair.rechecked == 1


def test_a_served_model_is_not_measured() -> None:
    class Served:
        @property
        def module(self) -> Any:
            raise MeasurementError("a server shows no likelihoods")

    pair = Pair([alike] * 20, [alike] * 20)
    pair.original = pair.compressed = Served()
    result = check(pair, max_degradation=0.5)
    assert result.verdict is Verdict.NOT_MEASURED
    assert "a server shows no likelihoods" in result.summary


# arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "mc3"}, "metric='mc3' must be one of 'mc1', 'mc2'"),
        ({"max_degradation": 2}, "write max_degradation=0.02"),
        ({"questions": ""}, "must be the name of data"),
        ({"min_original": 1.5}, "min_original=1.5"),
        ({"confidence": 0.3}, "confidence=0.3"),
        ({"variants": 3}, "variants=3"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        truthfulness_preserved_arguments(**arguments)


def test_arguments_as_the_user_would_write_them() -> None:
    assert truthfulness_preserved_arguments(variants="nf4").to_json() == {
        "max_degradation": 0.02,
        "metric": "mc2",
        "questions": "misconceptions",
        "min_original": None,
        "confidence": 0.95,
        "models": None,
        "variants": ["nf4"],
    }
