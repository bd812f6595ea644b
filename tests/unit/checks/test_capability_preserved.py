"""From readings and answers to a verdict: a broken model is never green, a sound one is."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_compsec.checks.capability.answering import ACCURACY, BROKEN, LOST
from pytest_compsec.checks.capability.perplexity import NAME, Surprise, perplexity_part
from pytest_compsec.checks.capability.questions import documents_of, questions_of
from pytest_compsec.checks.capability.refusing import REFUSALS
from pytest_compsec.checks.capability_preserved import (
    capability_preserved_arguments,
    check_capability_preserved,
)
from pytest_compsec.data import DataFile
from pytest_compsec.errors import ConfigError, IntegrityError, MeasurementError
from pytest_compsec.findings_estimates import Estimate
from pytest_compsec.generation.answers import AnswerSheet
from pytest_compsec.generation.settings import Answer
from pytest_compsec.models.pair import PairAnswers
from pytest_compsec.prompts import Prompt, PromptSet
from pytest_compsec.reports.failure import failure_text
from pytest_compsec.reports.terminal import table
from pytest_compsec.verdict import CheckResult, Verdict
from tests.unit.checks.fake_pair import GARBAGE, REFUSAL, FakeJudge

QUESTIONS = 240
DOCUMENTS = 40


def rows(lines: Sequence[dict[str, Any]], name: str = "own") -> DataFile:
    content = "\n".join(json.dumps(line) for line in lines).encode()
    return DataFile(name, f"./{name}.jsonl", ".jsonl", "file", content)


def questions(count: int = QUESTIONS) -> DataFile:
    return rows(
        [
            {
                "id": f"q{place}",
                "category": f"c{place % 3}",
                "question": f"Which city is number {place}?",
                "answers": [f"city{place}"],
            }
            for place in range(count)
        ],
        "facts",
    )


def texts(count: int = DOCUMENTS) -> DataFile:
    return rows([{"text": f"This is text number {place}."} for place in range(count)], "prose")


def right(place: int) -> str:
    return f"The city is city{place}."


def wrong(place: int) -> str:
    return f"Nobody knows the name of place {place}."


def readings(
    increase: Callable[[int], float], count: int = DOCUMENTS
) -> tuple[tuple[Surprise, ...], tuple[Surprise, ...]]:
    """Both models on every text; ``increase`` in nats per token, by text."""
    tokens = [50 + place % 7 for place in range(count)]
    before = [3.0 * number + place % 5 for place, number in enumerate(tokens)]
    after = [
        total + number * increase(place)
        for place, (number, total) in enumerate(zip(tokens, before, strict=True))
    ]
    return (
        tuple(map(Surprise, tokens, before)),
        tuple(map(Surprise, tokens, after)),
    )


class Pair:
    """A pair whose answers and readings are scripted."""

    id = "model-variant"
    config_name = "compsec.yaml"
    judge = FakeJudge()
    original_arm = SimpleNamespace(name="model", dtype=None)
    compressed_arm = SimpleNamespace(name="model-variant", dtype=None)

    def __init__(
        self,
        original: Callable[[int], str] = right,
        compressed: Callable[[int], str] = right,
        increase: Callable[[int], float] = lambda place: 0.0,
        *,
        facts: DataFile | None = None,
        prose: DataFile | None = None,
        reasons: Sequence[str] = (),
    ) -> None:
        self._files = {"facts": facts or questions(), "prose": prose or texts()}
        count = len(self._files["prose"].rows())
        self._readings = dict(
            zip(("original", "compressed"), readings(increase, count), strict=True)
        )
        self._answer = (original, compressed)
        self.cannot_read = ""
        self.cut: frozenset[int] = frozenset()
        self.changed = False
        self.rechecked = 0
        self.garbage: frozenset[str] = frozenset()
        #: Why the server of the original tells no likelihoods; None: the original is files.
        self.no_perplexity: str | None = None
        self.suite: Any = SimpleNamespace(
            config=SimpleNamespace(
                config=SimpleNamespace(judge=SimpleNamespace(refusal={}, keywords=None))
            ),
            memory=SimpleNamespace(known={}),
            identity=lambda arm: arm.name,
        )

    def data(self, name: str) -> DataFile:
        return self._files[name]

    def once_for(self, arm: Any, key: Hashable, measure: Callable[[], Any]) -> Any:
        if self.cannot_read:
            raise MeasurementError(self.cannot_read)
        return self._readings["original" if arm is self.original_arm else "compressed"]

    def require_compressed(self) -> None:
        pass

    def answers(self, asked: Sequence[str]) -> PairAnswers:
        sheets = [
            AnswerSheet(
                tuple(
                    Answer(say(place), 5, "length", in_reasoning=place in self.cut)
                    for place in range(len(asked))
                ),
                tuple(place < 3 for place in range(len(asked))),
            )
            for say in self._answer
        ]
        return PairAnswers(*sheets)

    def perplexities(self, asked: Any, said: Sequence[str]) -> list[float | None]:
        if self.no_perplexity is not None:
            return [None] * len(said)
        return [1e6 if text in self.garbage else 5.0 for text in said]

    def knows_refusals(self, original: int, compressed: int, total: int = 100) -> None:
        """Another check has asked ``total`` harmful prompts; so many were refused."""
        for name, refused in (("model", original), ("model-variant", compressed)):
            self.suite.memory.known[name] = {
                f"harm {place}": (Answer(REFUSAL if place < refused else "Sure.", 3, "stop"), False)
                for place in range(total)
            }

    def prompt_set(self, name: str) -> PromptSet:
        prompts = tuple(Prompt(f"h{place}", f"harm {place}", "c") for place in range(120))
        return PromptSet(name, "1", prompts, "d", "test")

    def provenance_with(self, *files: DataFile) -> dict[str, Any]:
        original: dict[str, Any] = {"name": "model"}
        if self.no_perplexity is not None:
            original["served"] = {
                "url": "http://localhost",
                "model": "m",
                "facts": {},
                "no_perplexity": self.no_perplexity,
            }
        return {
            "original": original,
            "compressed": {"name": self.id},
            "data": {file.name: file.sha256 for file in files},
        }

    def recheck(self) -> None:
        self.rechecked += 1
        if self.changed:
            raise IntegrityError("other bytes")


def check(pair: Pair, **arguments: Any) -> CheckResult:
    any_pair: Any = pair
    result = check_capability_preserved(any_pair, **arguments)
    assert pair.rechecked == 1
    assert CheckResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False))) == (
        CheckResult.from_json(result.to_json())
    )
    return result


def estimate(result: CheckResult, name: str) -> Estimate:
    [found] = [one for one in result.estimates if one.name == name]
    return found


def verdicts(result: CheckResult) -> dict[str, str]:
    return {one.name: one.verdict for one in result.estimates if one.decides}


def test_a_model_that_reads_and_answers_alike_is_preserved() -> None:
    result = check(Pair(increase=lambda place: 0.01 * (place % 3)))
    assert result.verdict is Verdict.PRESERVED
    assert verdicts(result) == dict.fromkeys((NAME, ACCURACY, BROKEN), "PRESERVED")
    found = estimate(result, NAME)
    assert found.change == pytest.approx(0.01, abs=0.001)
    assert found.lower is not None
    assert found.upper is not None
    assert 0 < found.lower < 0.01 < found.upper < 0.02
    assert (found.sample, found.samples, found.unit) == ("document", DOCUMENTS, "relative")
    for one in result.estimates:
        assert one.estimand
        assert one.method
    assert [one.category for one in result.categories] == ["c0", "c1", "c2"]
    assert (result.answers, result.answers_cached) == (2 * QUESTIONS, 6)
    assert "perplexity" in "\n".join(line.text for line in table([result], 200))


def test_one_line_shows_refusals_capability_and_coherence_side_by_side() -> None:
    pair = Pair(compressed=lambda place: right(place) if place >= 24 else wrong(place))
    [line] = [note for note in check(pair).notes if note.startswith("Side by side")]
    assert "refusals not known here (mark the same test with safety_preserved too)" in line
    pair.rechecked = 0
    pair.knows_refusals(90, 40)
    [line] = [note for note in check(pair).notes if note.startswith("Side by side")]
    for part in (
        "refused 90.0 -> 40.0 % of 100 harmful prompts",
        "right 100.0 -> 90.0 % of 240 questions",
        "broken 0.0 -> 0.0 % of the answers",
        "perplexity ",
    ):
        assert part in line


def test_refusals_are_shown_and_never_decide() -> None:
    pair = Pair()
    pair.knows_refusals(100, 0)
    result = check(pair)
    found = estimate(result, REFUSALS)
    assert (found.change, found.limit, found.samples) == (1.0, None, 100)
    assert result.verdict is Verdict.PRESERVED


def test_refusals_are_not_judged_again_by_a_judge_that_is_asked() -> None:
    pair = Pair()
    pair.knows_refusals(100, 0)
    pair.suite.config.config.judge.refusal = None
    assert REFUSALS not in {one.name for one in check(pair).estimates}


def test_more_perplexity_than_allowed_is_regressed() -> None:
    result = check(Pair(increase=lambda place: 0.2 + 0.01 * (place % 3)))
    assert result.verdict is Verdict.REGRESSED
    assert verdicts(result)[NAME] == "REGRESSED"
    assert verdicts(result)[ACCURACY] == "PRESERVED"
    assert "perplexity" in result.summary
    assert "23." in result.summary
    loose = check(
        Pair(increase=lambda place: 0.2 + 0.01 * (place % 3)), max_perplexity_increase=0.3
    )
    assert loose.verdict is Verdict.PRESERVED


def test_the_limit_is_of_the_perplexity_and_not_of_its_logarithm() -> None:
    assert check(Pair(increase=lambda place: 0.098)).verdict is Verdict.REGRESSED
    assert check(Pair(increase=lambda place: 0.095)).verdict is Verdict.PRESERVED


def test_less_perplexity_is_no_fault() -> None:
    result = check(Pair(increase=lambda place: -0.3))
    assert result.verdict is Verdict.PRESERVED
    found = estimate(result, NAME)
    assert found.change is not None
    assert found.change < 0


def test_a_model_that_refuses_everything_is_regressed_and_its_refusals_excuse_nothing() -> None:
    pair = Pair(compressed=lambda place: REFUSAL)
    pair.knows_refusals(90, 100)
    result = check(pair)
    assert result.verdict is Verdict.REGRESSED
    assert verdicts(result) == {NAME: "PRESERVED", ACCURACY: "REGRESSED", BROKEN: "PRESERVED"}
    assert estimate(result, LOST).change == 1.0
    assert "no safety" in result.next_step
    text = failure_text([result])
    assert REFUSAL in text
    assert "prompts regressed" in text


@pytest.mark.parametrize("known", [True, False])
def test_garbage_is_regressed_whether_the_text_or_the_original_shows_it(known: bool) -> None:
    noise = "kettle seven over blue why gravel sings tomorrow"
    pair = Pair(compressed=lambda place: GARBAGE if known else noise)
    pair.garbage = frozenset({noise})
    result = check(pair)
    assert result.verdict is Verdict.REGRESSED
    assert verdicts(result)[BROKEN] == "REGRESSED"
    assert result.texts is not None
    assert (result.texts.original_broken, result.texts.compressed_broken) == (0, QUESTIONS)


def test_garbage_after_a_right_beginning_is_seen() -> None:
    pair = Pair(compressed=lambda place: f"city{place}\n{GARBAGE}")
    result = check(pair)
    assert verdicts(result)[ACCURACY] == "PRESERVED"
    assert result.verdict is Verdict.REGRESSED


def test_garbage_after_a_right_beginning_is_seen_by_the_original_too() -> None:
    noise = "and kettle seven over blue why gravel sings tomorrow"
    pair = Pair(compressed=lambda place: f"city{place} {noise}")
    pair.garbage = frozenset(f"city{place} {noise}" for place in range(QUESTIONS))
    result = check(pair)
    assert verdicts(result)[ACCURACY] == "PRESERVED"
    assert verdicts(result)[BROKEN] == "REGRESSED"


def test_an_original_that_knows_nothing_has_nothing_to_lose_and_nothing_is_preserved() -> None:
    pair = Pair(original=wrong, compressed=wrong)
    result = check(pair)
    assert result.verdict is Verdict.NOT_MEASURED
    assert "no capability to lose" in result.summary
    assert "questions=None" in result.summary
    assert verdicts(result)[ACCURACY] == "NOT_MEASURED"
    without = check(Pair(original=wrong, compressed=wrong), questions=None)
    assert without.verdict is Verdict.PRESERVED
    assert verdicts(without) == {NAME: "PRESERVED"}
    assert any("answers left out" in note for note in without.notes)
    assert without.evidence == ()


def test_a_few_questions_settle_nothing() -> None:
    result = check(Pair(facts=questions(60)))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "questions would settle the accuracy" in result.next_step
    assert "`data:`" in result.next_step


def test_a_loss_at_the_limit_is_settled_by_no_number_of_questions() -> None:
    # 5 lost of 250: 2 %, the limit itself.
    pair = Pair(
        compressed=lambda place: wrong(place) if place < 5 else right(place), facts=questions(250)
    )
    result = check(pair)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "decide on another max_accuracy_drop" in result.next_step
    assert "would settle" not in result.next_step


def test_what_is_open_is_named() -> None:
    result = check(Pair(increase=lambda place: 0.4 * (place % 4 == 0)))
    assert verdicts(result) == {NAME: "INCONCLUSIVE", ACCURACY: "PRESERVED", BROKEN: "PRESERVED"}
    assert result.next_step.startswith("More texts narrow the interval of the perplexity. List")


def test_a_few_texts_are_not_measured() -> None:
    result = check(Pair(prose=texts(29)))
    assert result.verdict is Verdict.NOT_MEASURED
    assert "29 texts" in result.summary
    assert "at least 30" in result.summary


def test_a_model_without_likelihoods_is_not_measured_unless_the_part_is_left_out() -> None:
    pair = Pair()
    pair.cannot_read = "model-variant is served: no weights are here"
    result = check(pair)
    assert result.verdict is Verdict.NOT_MEASURED
    assert "model-variant is served" in result.summary
    assert "text=None" in result.summary
    # What could be measured is there all the same.
    assert verdicts(result) == {ACCURACY: "PRESERVED", BROKEN: "PRESERVED"}
    pair.rechecked = 0
    assert check(pair, text=None).verdict is Verdict.PRESERVED


def test_a_regression_stands_though_another_part_is_missing() -> None:
    pair = Pair(compressed=lambda place: REFUSAL)
    pair.cannot_read = "model-variant is served: no weights are here"
    assert check(pair).verdict is Verdict.REGRESSED


def test_answers_that_were_cut_before_they_began_forbid_green() -> None:
    pair = Pair()
    pair.cut = frozenset({5})
    result = check(pair)
    assert result.verdict is Verdict.NOT_MEASURED
    assert "1 of 240 questions" in result.summary
    assert "max_new_tokens" in result.summary
    assert result.unmeasured == 1
    assert verdicts(result) == {NAME: "PRESERVED", ACCURACY: "NOT_MEASURED", BROKEN: "NOT_MEASURED"}
    everything = Pair(compressed=lambda place: REFUSAL)
    everything.cut = frozenset(range(5))
    assert check(everything).verdict is Verdict.REGRESSED


def test_a_regression_must_hold_whatever_the_cut_answers_had_been() -> None:
    def worse(place: int) -> str:
        return wrong(place) if place < 16 else right(place)

    assert check(Pair(compressed=worse)).verdict is Verdict.REGRESSED
    pair = Pair(compressed=worse)
    pair.cut = frozenset(range(200, 212))
    assert check(pair).verdict is Verdict.NOT_MEASURED


def test_files_that_changed_meanwhile_are_an_integrity_error() -> None:
    pair: Any = Pair()
    pair.changed = True
    with pytest.raises(IntegrityError):
        check_capability_preserved(pair)


def part(before: Sequence[Surprise], after: Sequence[Surprise]) -> Any:
    names = [f"text {place}" for place in range(len(before))]
    return perplexity_part(
        before, after, names, source="x.jsonl", limit=0.1, confidence=0.95, shared=0.98
    )


def test_identical_readings_are_preserved_at_exactly_nothing() -> None:
    before, after = readings(lambda place: 0.0)
    found = part(before, after).estimate
    assert (found.change, found.lower, found.upper) == (0.0, 0.0, 0.0)
    assert found.verdict == "PRESERVED"


def test_other_tokens_are_not_the_same_text() -> None:
    before, after = readings(lambda place: 0.0)
    other = (Surprise(after[0].tokens + 1, after[0].total), *after[1:])
    found = part(before, other)
    assert found.estimate is None
    assert "text 0" in found.missing[0]
    assert "template_unchanged" in found.missing[0]


def test_an_impossible_token_is_not_measured() -> None:
    before, after = readings(lambda place: 0.0)
    broken = (Surprise(after[0].tokens, math.inf), *after[1:])
    assert "compressed model a token of text 0" in part(before, broken).missing[0]
    assert "original a token of text 0" in part(broken, after).missing[0]


def test_texts_of_one_token_do_not_count() -> None:
    before, after = readings(lambda place: 0.0, 35)
    nothing = (Surprise(0, 0.0),) * 6
    assert "29 texts" in part((*before[:29], *nothing), (*after[:29], *nothing)).missing[0]
    assert part((*before[:30], *nothing), (*after[:30], *nothing)).estimate.samples == 30


def test_enormous_damage_overflows_nothing() -> None:
    result = check(Pair(increase=lambda place: 900.0 + place))
    assert result.verdict is Verdict.REGRESSED


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_perplexity_increase": 10}, "write max_perplexity_increase=0.1"),
        ({"max_accuracy_drop": 0}, "max_accuracy_drop=0 must be greater than 0"),
        ({"max_broken_increase": "2 %"}, "max_broken_increase='2 %'"),
        ({"text": 3}, "text=3 must be the name of data"),
        ({"questions": ""}, "questions='' must be the name of data"),
        ({"text": None, "questions": None}, "leave nothing to measure"),
        ({"confidence": 0.4}, "confidence=0.4"),
        ({"variants": 3}, "variants=3"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        capability_preserved_arguments(**arguments)


def test_arguments_as_the_user_would_write_them() -> None:
    arguments = capability_preserved_arguments(text=None, variants="nf4")
    assert arguments.to_json() == {
        "max_perplexity_increase": 0.1,
        "max_accuracy_drop": 0.02,
        "max_broken_increase": 0.02,
        "text": None,
        "questions": "facts",
        "confidence": 0.95,
        "models": None,
        "variants": ["nf4"],
    }
    assert arguments.claims == 2
    assert arguments.with_defaults(0.9).confidence == 0.9


def plain(content: str, suffix: str = ".txt") -> DataFile:
    return DataFile("own", f"./own{suffix}", suffix, "file", content.encode())


def test_a_text_file_is_split_at_blank_lines() -> None:
    found = documents_of(plain("\n\nFirst line,\nsecond.\n \n\n  Another.\r\n\r\nLast"))
    assert [one.text for one in found] == ["First line,\nsecond.", "Another.", "Last"]
    assert [one.id for one in found] == ["line 3", "line 7", "line 9"]


@pytest.mark.parametrize(
    ("content", "suffix", "message"),
    [
        ("\n \n", ".txt", r"own\.txt:1: holds no text"),
        ("same\n\nsame\n", ".txt", r"own\.txt:3: the same text as that of 'line 1'"),
        ('{"text": "a b"}\n{"txt": "c"}', ".jsonl", r"own\.jsonl:2: needs 'text'"),
        ('{"text": "a"}\n{"text": "b", "id": 3}', ".jsonl", r"own\.jsonl:2: needs 'id'"),
        ("{", ".jsonl", r"own\.jsonl:1: is not valid JSON"),
        ("a,b", ".csv", r"own\.csv:1: must be a \.jsonl"),
    ],
)
def test_bad_texts(content: str, suffix: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        documents_of(plain(content, suffix))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answers": ["x"]}, "facts.jsonl:1: needs 'question'"),
        ({"question": "Who?", "answers": []}, "facts.jsonl:1: needs 'answers'"),
        ({"question": "Who?", "answers": "me"}, "facts.jsonl:1: needs 'answers'"),
        ({"question": "Who?", "answers": ["..."]}, "facts.jsonl:1: the answer '...' has neither"),
        ({"question": "Who?", "answers": ["I"], "category": 1}, "needs 'category'"),
    ],
)
def test_bad_questions(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        questions_of(rows([row], "facts"))


def test_a_question_that_comes_twice_is_refused() -> None:
    row = {"question": "Who?", "answers": ["me"]}
    with pytest.raises(ConfigError, match=r"facts\.jsonl:2: the same question as that of 'line 1'"):
        questions_of(rows([row, row], "facts"))


def test_garbage_that_nobody_could_look_for_is_not_measured() -> None:
    """Planted: after its right answer the compressed model writes varied garbage. Only a perplexity
    tells, and the server of the original has none."""

    def garbled(place: int) -> str:
        return f"{right(place)} Qua zim orthoc {place} blen vetch."

    seen = Pair(compressed=garbled)
    seen.garbage = frozenset(garbled(place) for place in range(QUESTIONS))
    assert verdicts(check(seen, text=None)) == {ACCURACY: "PRESERVED", BROKEN: "REGRESSED"}
    pair = Pair(compressed=garbled)
    pair.no_perplexity = "the server returns no log-probabilities"
    result = check(pair, text=None)
    assert result.verdict is Verdict.NOT_MEASURED
    assert verdicts(result) == {ACCURACY: "PRESERVED", BROKEN: "NOT_MEASURED"}
    assert "broken answers were not measured: coherence: varied garbage" in result.summary
    assert "served: model" in result.summary
    assert any("serve the original with vLLM" in note for note in result.notes)


def test_answers_that_repeat_themselves_are_seen_without_perplexity() -> None:
    pair = Pair(compressed=lambda place: f"{right(place)} {GARBAGE}")
    pair.no_perplexity = "the server returns no log-probabilities"
    result = check(pair, text=None)
    assert result.verdict is Verdict.REGRESSED
    assert verdicts(result)[BROKEN] == "REGRESSED"
