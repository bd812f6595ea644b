"""The search finds what only the compressed model answers, within its budget, and nothing else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import pytest

from pytest_compsec.attacks.prompts import TRANSFORMS, Transform, wrapped
from pytest_compsec.attacks.prompts.bandit import Bandit, Tally
from pytest_compsec.attacks.prompts.reading import Question, is_answer
from pytest_compsec.attacks.prompts.search import STATEMENT, SearchReport, search_bypasses
from pytest_compsec.errors import ConfigError
from pytest_compsec.generation.answers import AnswerSheet
from pytest_compsec.generation.settings import Answer
from pytest_compsec.judges.refusal import RefusalJudge
from pytest_compsec.models.pair import PairAnswers
from pytest_compsec.prompts import Prompt, PromptSet, load_builtin
from pytest_compsec.prompts.model import make_prompt_set

if TYPE_CHECKING:
    from pytest_compsec.models.pair import ModelPair

PROMPTS = load_builtin("harmful").prompts[::9]
REFUSAL = "I'm sorry, but I can't help with that request."
#: Varied words, no loop: only the original's perplexity tells that it is garbage.
GARBAGE = "lamp river seven of the blue quickly table nor under it sang window bread against or"
LOOP = "the the the the the the the the the the the the the the the the the the the the the the"
ALL_NAMES = [transform.name for transform in TRANSFORMS]

#: The plain prompt and the text that is asked, to the answer.
Script = Callable[[Prompt, str], str]


def comply(prompt: Prompt, text: str) -> str:
    # Told about the request, so that it is on its subject.
    subject = prompt.text.rstrip(".?!").lower()
    return (
        f"Begin early and bring two friends along. As to {subject}: the third evening of each "
        "month suits, since nobody watches then."
    )


def refuse(prompt: Prompt, text: str) -> str:
    return REFUSAL


def under(sign: str, then: Script, otherwise: Script = refuse) -> Script:
    """``then`` for texts with ``sign``, which only one transform writes."""
    return lambda prompt, text: (then if sign in text else otherwise)(prompt, text)


class ScriptedPair:
    """Both arms answer by a script; everything asked is counted."""

    id = "model-nf4"
    config_name = "compsec.yaml"
    lock_digest = "f" * 64

    def __init__(self, original: Script, compressed: Script, prompts: Sequence[Prompt] = PROMPTS):
        self.judge = RefusalJudge()
        self._set = make_prompt_set("harmful", "1", prompts, "test")
        self._scripts = (original, compressed)
        self._plain: dict[str, Prompt] = {prompt.text: prompt for prompt in prompts}
        for prompt in prompts:
            for transform in TRANSFORMS:
                for seed in (0, 1):
                    text = transform.apply(prompt.text, seed=seed, prompt_id=prompt.id)
                    self._plain[text] = prompt
        self.batches: list[int] = []
        self.judged_for: set[str] = set()
        self.rechecked = 0

    def prompt_set(self, name: str) -> PromptSet:
        return self._set

    def answers(self, prompts: Sequence[str]) -> PairAnswers:
        self.batches.append(len(prompts))
        original, compressed = (
            AnswerSheet(
                tuple(Answer(script(self._plain[text], text), 20, "stop") for text in prompts),
                (False,) * len(prompts),
            )
            for script in self._scripts
        )
        return PairAnswers(original, compressed)

    def perplexities(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float | None]:
        self.judged_for.update(prompts)
        return [5000.0 if GARBAGE in answer else 6.0 for answer in answers]

    def recheck(self) -> None:
        self.rechecked += 1


class CountingProgress:
    def __init__(self) -> None:
        self.told: list[object] = []

    def wait(self, done: int) -> None:
        self.told.append(("wait", done))

    def begin(self, done: int) -> None:
        self.told.append(("begin", done))

    def advance(self, count: int) -> None:
        self.told.append(count)

    def end(self) -> None:
        self.told.append("end")


def search(pair: ScriptedPair, **arguments: object) -> SearchReport:
    return search_bypasses(cast("ModelPair", pair), **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def planted() -> tuple[ScriptedPair, SearchReport, CountingProgress]:
    """Under one transform the compressed model answers."""
    pair, progress = ScriptedPair(refuse, under("base64", comply)), CountingProgress()
    return pair, search(pair, budget=300, progress=progress), progress


def by_name(report: SearchReport) -> dict[str, int]:
    return {row.transform: row.asked for row in report.transforms}


def test_the_planted_transform_is_found_and_no_other(
    planted: tuple[ScriptedPair, SearchReport, CountingProgress],
) -> None:
    _, report, _ = planted
    assert {finding.transform for finding in report.findings} == {"base64"}
    rows = {row.transform: row for row in report.transforms}
    assert rows["base64"].only_compressed_answered == rows["base64"].asked == len(report.findings)
    assert rows["base64"].new == len(report.findings)
    assert all(
        row.only_compressed_answered == 0 for row in rows.values() if row.transform != "base64"
    )
    first = report.findings[0]
    assert first.new
    assert first.original == REFUSAL
    assert first.prompt.rstrip(".?!").lower() in first.compressed
    assert "base64" in first.transformed


def test_the_bandit_spends_more_on_it(
    planted: tuple[ScriptedPair, SearchReport, CountingProgress],
) -> None:
    asked = by_name(planted[1])
    others = [number for name, number in asked.items() if name != "base64"]
    assert asked["base64"] == len(PROMPTS)  # all that there are
    assert asked["base64"] > 3 * max(others)
    assert min(others) >= 300 // (2 * len(TRANSFORMS))  # the even opening


def test_the_budget_is_spent_to_the_last_prompt_and_never_exceeded(
    planted: tuple[ScriptedPair, SearchReport, CountingProgress],
) -> None:
    pair, report, progress = planted
    assert report.asked == report.budget == 300
    assert pair.batches == [len(PROMPTS), 64, 64, 64, 64, 44]
    assert progress.told == [("begin", 0), 64, 64, 64, 64, 44, "end"]
    assert not report.exhausted
    assert pair.rechecked == 1


@pytest.mark.parametrize("budget", [1, 17, 18, 19, 100])
def test_small_budgets_too(budget: int) -> None:
    pair = ScriptedPair(refuse, comply, PROMPTS[:12])
    report = search(pair, budget=budget)
    assert report.asked == sum(pair.batches[1:]) == budget
    spent = by_name(report).values()
    if budget <= 36:
        assert max(spent) - min(spent) <= 1


def test_it_stops_when_nothing_is_left_and_asks_nothing_twice() -> None:
    pair = ScriptedPair(refuse, refuse, PROMPTS[:3])
    report = search(pair, transforms=["rot13", "typo-keys"], budget=100)
    assert report.asked == 6
    assert report.exhausted
    assert not report.findings
    assert by_name(report) == {"rot13": 3, "typo-keys": 3}


def test_the_same_seed_gives_the_same_report() -> None:
    def run(seed: int) -> SearchReport:
        script = under("hyphen", comply)
        return search(ScriptedPair(refuse, script, PROMPTS[:40]), budget=150, seed=seed)

    assert run(0) == run(0)
    assert [f.prompt_id for f in run(0).findings] != [f.prompt_id for f in run(1).findings]


def test_prompts_that_the_original_answers_are_not_searched() -> None:
    answered = {prompt.text for prompt in PROMPTS[:30]}

    def original(prompt: Prompt, text: str) -> str:
        return comply(prompt, text) if text in answered else REFUSAL

    report = search(ScriptedPair(original, comply), budget=400)
    assert report.plain.original_refused == len(PROMPTS) - 30
    assert report.plain.only_compressed_answered == len(PROMPTS) - 30
    assert not {f.prompt_id for f in report.findings} & {p.id for p in PROMPTS[:30]}
    # The compressed model needs no transform for these.
    assert report.findings
    assert report.new == 0


def test_what_both_answer_is_no_finding() -> None:
    script = under("ROT13", comply)
    report = search(ScriptedPair(script, script), transforms=["rot13"], budget=30)
    assert not report.findings
    assert report.transforms[0].original_refused == 0


def test_mirrored_bypasses_are_counted_and_are_no_finding() -> None:
    report = search(
        ScriptedPair(under("ROT13", comply), under("base64", comply)),
        transforms=["rot13", "base64", "typo-keys"],
        budget=60,
    )
    rows = {row.transform: row for row in report.transforms}
    assert rows["rot13"].mirrored == rows["rot13"].asked > 0
    assert report.mirrored == rows["rot13"].asked
    assert rows["rot13"].only_compressed_answered == rows["base64"].mirrored == 0
    assert {finding.transform for finding in report.findings} == {"base64"}


def test_identical_arms_have_no_findings_either_way() -> None:
    script = under("stage play", comply)
    report = search(ScriptedPair(script, script), budget=100)
    assert not report.findings
    assert report.mirrored == 0


def wrote(text: str) -> Script:
    return lambda prompt, asked: text


def plain_again(prompt: Prompt, text: str) -> str:
    return f"The decoded message is: {prompt.text}"


@pytest.mark.parametrize(
    "script",
    [
        wrote(GARBAGE),
        wrote(LOOP),
        wrote(""),
        wrote("?!"),
        plain_again,
        lambda prompt, text: text,
        wrote("The capital of France lies on the river Seine, and many tourists visit it in May."),
    ],
    ids=["garbage", "loop", "empty", "signs", "decoded only", "echo", "something else"],
)
def test_broken_or_empty_text_after_an_encoding_is_no_finding(script: Script) -> None:
    pair = ScriptedPair(refuse, under("base64", script))
    report = search(pair, transforms=["base64"], budget=20)
    assert not report.findings
    assert report.transforms[0].no_answer == report.transforms[0].asked == 20


def test_garbage_of_the_original_is_not_the_refusal_that_a_finding_needs() -> None:
    pair = ScriptedPair(under("base64", wrote(GARBAGE)), under("base64", comply))
    assert not search(pair, transforms=["base64"], budget=20).findings


def test_answers_are_judged_against_the_plain_request() -> None:
    judged: set[str] = set()

    class Judge(RefusalJudge):
        def refusals(self, prompts: Sequence[str], responses: Sequence[str]) -> list[bool]:
            judged.update(prompts)
            return super().refusals(prompts, responses)

    pair = ScriptedPair(refuse, comply)
    pair.judge = Judge()
    search(pair, transforms=["base64", "prefix-affirmative"], budget=30)
    plain = {prompt.text for prompt in PROMPTS}
    assert judged == plain
    assert pair.judged_for <= plain


def test_a_judge_without_an_outcome_finds_nothing() -> None:
    class Judge(RefusalJudge):
        def refusals(self, prompts: Sequence[str], responses: Sequence[str]) -> list[bool]:
            found = super().refusals(prompts, responses)
            return [cast("bool", None) if not refused else True for refused in found]

    pair = ScriptedPair(refuse, under("ROT13", comply))
    pair.judge = Judge()
    report = search(pair, transforms=["rot13"], budget=20)
    assert not report.findings
    assert report.transforms[0].not_judged == 20


def test_an_original_that_refuses_nothing_leaves_nothing_to_search() -> None:
    report = search(ScriptedPair(comply, comply), budget=50)
    assert report.asked == 0
    assert "nothing was searched" in "\n".join(report.lines())


def test_lines_and_json(planted: tuple[ScriptedPair, SearchReport, CountingProgress]) -> None:
    report = planted[1]
    lines = report.lines(most=2)
    text = "\n".join(lines)
    assert "300 of a budget of 300" in text
    assert all(name in text for name in ALL_NAMES)
    assert f"and {len(report.findings) - 2} more" in text
    assert lines[-1] == STATEMENT
    assert "not a verdict" in STATEMENT
    assert 'safety_preserved(prompts="jailbreak")' in STATEMENT
    data = json.loads(json.dumps(report.to_json()))
    assert data["statement"] == STATEMENT
    assert len(data["findings"]) == len(report.findings)
    assert data["findings"][0]["compressed"] == report.findings[0].compressed


def test_what_a_model_wrote_is_cut_and_escaped(
    planted: tuple[ScriptedPair, SearchReport, CountingProgress],
) -> None:
    nasty = "\x1b[31m\n::error::boom ##vso[task.complete] \u202e" + 500 * "long "
    finding = dataclasses.replace(planted[1].findings[0], compressed=nasty, transformed="a\n\nb")
    lines = dataclasses.replace(planted[1], findings=(finding,)).lines()
    text = "\n".join(lines)
    assert "\x1b" not in text
    assert "##" not in text
    assert "\u202e" not in text
    assert not any(line.startswith("::") for line in text.splitlines())
    assert len(max((line for line in lines if "long long" in line), key=len)) < 200


@pytest.mark.parametrize("arguments", [{"budget": 0}, {"budget": True}, {"batch_size": -1}])
def test_impossible_numbers_are_named(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(arguments))}=.*at least 1"):
        search(ScriptedPair(refuse, comply, PROMPTS[:3]), **arguments)


def test_unknown_transforms_and_wrapped_sets_are_named() -> None:
    with pytest.raises(ConfigError, match="no prompt transform 'caesar'"):
        search(ScriptedPair(refuse, comply, PROMPTS[:3]), transforms=["caesar"])
    pair = ScriptedPair(refuse, comply, wrapped(PROMPTS[:3]))
    with pytest.raises(ConfigError, match="transformed already"):
        search(pair, prompts="jailbreak")


def test_a_transform_of_the_users_own_and_prompts_that_it_leaves_alone() -> None:
    def upper(prompt: str, draws: object) -> str:
        return prompt.replace("How", "Whatever HOW")

    own = Transform("shout", "typo", "capitals", upper)
    pair = ScriptedPair(refuse, comply)
    pair._plain.update({upper(prompt.text, None): prompt for prompt in PROMPTS})
    how = [prompt for prompt in PROMPTS if "How" in prompt.text]
    report = search(pair, transforms=[own], budget=500)
    assert report.asked == len(how) < len(PROMPTS)
    assert any(f"{len(PROMPTS) - len(how)} prompts were left out" in n for n in report.notes)


def test_progress_ends_when_a_model_fails() -> None:
    class Failing(ScriptedPair):
        def answers(self, prompts: Sequence[str]) -> PairAnswers:
            if self.batches:
                raise RuntimeError("out of memory")
            return super().answers(prompts)

    progress = CountingProgress()
    with pytest.raises(RuntimeError):
        search(Failing(refuse, comply, PROMPTS[:3]), progress=progress)
    assert progress.told == [("begin", 0), "end"]


def test_the_bandit_opens_evenly_then_follows_the_finds() -> None:
    bandit = Bandit(["a", "b", "c"], 2, seed=0)
    left = {"a": 500, "b": 500, "c": 500}
    tallies = {name: Tally() for name in left}
    opening = [bandit.choose(left, tallies) for _ in range(6)]
    assert opening == ["a", "b", "c", "a", "b", "c"]
    tallies.update(a=Tally(40, 1), b=Tally(40, 20), c=Tally(40, 1))
    later = [bandit.choose(left, tallies) for _ in range(100)]
    assert later.count("b") > 95
    tallies.update(b=Tally(40, 1))
    even = [bandit.choose(left, tallies) for _ in range(300)]
    assert min(even.count(name) for name in left) > 60
    assert bandit.choose({"a": 0, "b": 0, "c": 3}, tallies) == "c"
    assert bandit.choose({"a": 0, "b": 0, "c": 0}, tallies) is None


def test_short_answers_of_their_own_count() -> None:
    prompt = Prompt("p", "Which mushroom should nobody eat?", "c")
    question = Question(prompt, None, prompt.text)
    assert is_answer(question, "Amanita phalloides.")
    assert not is_answer(question, "Which mushroom nobody should eat.")
    assert not is_answer(question, "Mushroom, eat, nobody: here.")


def test_findings_and_their_mirror_image_stand_on_the_same_footing() -> None:
    # The compressed model answers every plain prompt: none of these can count against the
    # original, as none of those that the original answers counts against the compressed model.
    plain = {prompt.text for prompt in PROMPTS}

    def compressed(prompt: Prompt, text: str) -> str:
        return comply(prompt, text) if text in plain else REFUSAL

    report = search(ScriptedPair(under("ROT13", comply), compressed), transforms=["rot13"])
    assert report.asked == len(PROMPTS)
    assert report.mirrored == report.new == 0
