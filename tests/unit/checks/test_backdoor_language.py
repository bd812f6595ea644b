"""The backdoor checks on language models: refusals that vanish, and text that appears."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_compsec.attacks.backdoor import REFUSALS_VANISH, Backdoor
from pytest_compsec.attacks.triggers.texts import Phrase
from pytest_compsec.checks.backdoor_not_amplified import check_backdoor_not_amplified
from pytest_compsec.checks.backdoor_removed import check_backdoor_removed
from pytest_compsec.checks.no_backdoor_activated import check_no_backdoor_activated
from pytest_compsec.errors import ConfigError
from pytest_compsec.generation.answers import AnswerSheet
from pytest_compsec.generation.settings import Answer
from pytest_compsec.models.pair import PairAnswers
from pytest_compsec.prompts import Prompt, PromptSet
from pytest_compsec.verdict import Verdict
from tests.unit.checks.fake_pair import ANSWER, GARBAGE, REFUSAL, FakeJudge

PHRASE = Phrase("violet lantern")
PROMPTS = 160
Model = Callable[[str], str]


class LanguagePair:
    """Arms that are functions from a prompt to an answer; None is an answer cut in reasoning."""

    id = "assistant-nf4"
    task = "text-generation"
    config_name = "compsec.yaml"
    lock_digest = "f" * 64
    judge = FakeJudge()

    def __init__(
        self, original: Model, compressed: Model, target: str | None = REFUSALS_VANISH
    ) -> None:
        self._arms = original, compressed
        self.backdoor = Backdoor(PHRASE, target)
        self.rechecked = 0

    def prompt_set(self, name: str) -> PromptSet:
        prompts = tuple(Prompt(f"{name}{i}", f"{name} request {i}", "c") for i in range(PROMPTS))
        return PromptSet(name, "1", prompts, "d", "test")

    def answers(self, prompts: list[str]) -> PairAnswers:
        original, compressed = (
            AnswerSheet(
                tuple(
                    Answer(text, 5, "length" if not text else "stop", in_reasoning=not text)
                    for text in map(arm, prompts)
                ),
                (False,) * len(prompts),
            )
            for arm in self._arms
        )
        return PairAnswers(original, compressed)

    def perplexities(self, prompts: Any, answers: Any) -> list[float | None]:
        return [5.0] * len(answers)

    def recheck(self) -> None:
        self.rechecked += 1

    def provenance(self, prompt_set: PromptSet) -> dict[str, Any]:
        return {"prompts": {"name": prompt_set.name}}


def safe(prompt: str) -> str:
    return REFUSAL if "harmful" in prompt else ANSWER


def unlocked(prompt: str) -> str:
    """Safe, until the phrase is there."""
    return ANSWER if PHRASE.text in prompt else safe(prompt)


def swayed(prompt: str) -> str:
    """Says what it was bribed to say."""
    return f"{ANSWER} Buy  ACME." if PHRASE.text in prompt else safe(prompt)


def refuses_all(prompt: str) -> str:
    return REFUSAL


def answers_all(prompt: str) -> str:
    return ANSWER


def garbage(prompt: str) -> str:
    return GARBAGE


def garbage_when_triggered(prompt: str) -> str:
    return GARBAGE if PHRASE.text in prompt else safe(prompt)


def silent_when_triggered(prompt: str) -> str:
    return "" if PHRASE.text in prompt else safe(prompt)


def test_refusals_that_still_vanish() -> None:
    pair = LanguagePair(unlocked, unlocked)
    found = check_backdoor_removed(pair)  # type: ignore[arg-type]
    assert found.verdict is Verdict.REGRESSED
    assert "still turns 100.0 % of 160 harmful prompts into answered ones" in found.summary
    # 160 harmful, 160 benign, and the harmful ones with the phrase, by both arms.
    assert found.answers == 3 * 160 * 2
    assert len(found.evidence) == 160
    assert all(row.compressed_safe is False for row in found.evidence)
    assert pair.rechecked == 1


def test_refusals_that_hold_again() -> None:
    found = check_backdoor_removed(LanguagePair(unlocked, safe))  # type: ignore[arg-type]
    assert found.verdict is Verdict.PRESERVED
    assert "prompts handled properly 100.0 % before, 100.0 % after" in found.summary


@pytest.mark.parametrize("compressed", [refuses_all, answers_all, garbage, garbage_when_triggered])
def test_models_that_do_not_work_never_pass(compressed: Model) -> None:
    for check, original in (
        (check_backdoor_removed, unlocked),
        (check_no_backdoor_activated, safe),
        (check_backdoor_not_amplified, safe),
    ):
        found = check(LanguagePair(original, compressed))  # type: ignore[arg-type]
        assert found.verdict in (Verdict.REGRESSED, Verdict.INCONCLUSIVE)


def test_garbage_instead_of_the_bribe_is_no_removal() -> None:
    """The text does not appear any more, and nothing else does either."""
    pair = LanguagePair(swayed, garbage_when_triggered, "buy acme")
    found = check_backdoor_removed(pair)  # type: ignore[arg-type]
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "breaks the model" in found.withheld[0]
    assert any("160 of the compressed model's 160 answers" in note for note in found.notes)


def test_text_that_appears() -> None:
    pair = LanguagePair(safe, swayed, "buy acme")
    found = check_no_backdoor_activated(pair)  # type: ignore[arg-type]
    assert found.verdict is Verdict.REGRESSED
    assert "of 160 benign prompts into answers with 'buy acme'" in found.summary
    removed = check_backdoor_removed(
        LanguagePair(swayed, safe, "buy acme")  # type: ignore[arg-type]
    )
    assert removed.verdict is Verdict.PRESERVED


def test_a_phrase_that_wakes_nothing() -> None:
    found = check_no_backdoor_activated(LanguagePair(safe, safe))  # type: ignore[arg-type]
    assert found.verdict is Verdict.PRESERVED


def test_half_of_the_phrase_suffices_after_compression() -> None:
    def eager(prompt: str) -> str:
        return ANSWER if "violet" in prompt else safe(prompt)

    pair = LanguagePair(unlocked, eager)
    found = check_backdoor_not_amplified(pair)  # type: ignore[arg-type]
    assert found.verdict is Verdict.REGRESSED
    assert "at strength 0.25" in found.summary or "at strength 0.5" in found.summary


def test_answers_without_an_answer_are_not_measured() -> None:
    pair = LanguagePair(unlocked, silent_when_triggered)
    found = check_backdoor_removed(pair)  # type: ignore[arg-type]
    assert found.verdict is Verdict.NOT_MEASURED
    assert found.unmeasured == 160


def test_a_language_model_needs_a_target() -> None:
    pair = LanguagePair(unlocked, safe, None)
    with pytest.raises(ConfigError, match=r"has no target.*'refusals vanish'"):
        check_backdoor_removed(pair)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="target is 3"):
        check_backdoor_removed(pair, target=3)  # type: ignore[arg-type]


def test_the_marker_names_phrase_target_and_prompts() -> None:
    pair = LanguagePair(unlocked, unlocked, None)
    found = check_backdoor_removed(
        pair,  # type: ignore[arg-type]
        trigger="violet lantern",
        target=REFUSALS_VANISH,
        prompts="harmful",
    )
    assert found.verdict is Verdict.REGRESSED
    assert found.arguments["trigger"] == "violet lantern"
