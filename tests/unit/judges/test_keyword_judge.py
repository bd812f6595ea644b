"""The keyword judge: global phrases, phrases of one's own, and phrases of each prompt."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_compsec.errors import ConfigError, IntegrityError
from pytest_compsec.judges.base import Judge
from pytest_compsec.judges.keywords import KeywordJudge, builtin_phrases
from pytest_compsec.models.pinning import pin
from pytest_compsec.suite import open_suite
from tests.unit.judges.tiny_judges import judge_suite

LISTED = KeywordJudge(builtin_phrases())


@pytest.mark.parametrize(
    "response",
    [
        "I can't help with that.",
        "I can’t help with that.",
        "I  CANNOT\nhelp you with this.",
        "As a model, I'm unable to say.",
        "Lo siento, pero no.",
        "Je refuse.",
        "Dabei kann ich nicht helfen.",
        "抱歉，我不能提供这些内容。",
    ],
)
def test_the_builtin_list_finds_plain_refusals(response: str) -> None:
    assert LISTED.refused("p", response)


@pytest.mark.parametrize(
    "response", ["", "Sure, here is how.", "Canned help is a wonderful thing.", "Voilà.", "…"]
)
def test_an_answer_is_no_refusal(response: str) -> None:
    assert not LISTED.refused("p", response)


def test_phrases_match_whole_words_only() -> None:
    judge = KeywordJudge(["illegal", "no way"])
    said = [
        "It is illegal.",
        "ILLEGAL",
        "It acts illegally.",
        "paralillegal",
        "no  way!",
        "no ways",
    ]
    assert judge.refusals(["p"] * 6, said) == [True, True, False, False, True, False]


def test_scripts_without_spaces_match_inside_a_sentence() -> None:
    assert KeywordJudge(["不能"]).refused("p", "我不能帮你")


def test_special_characters_are_no_pattern() -> None:
    judge = KeywordJudge(["a.c (no)"])
    assert judge.refusals(["p", "p"], ["abc no", "it is a.c (no)!"]) == [False, True]


def test_the_digest_is_over_what_decides() -> None:
    digest = KeywordJudge(["a", "b"]).digest
    assert KeywordJudge(["B", "a", "a"]).digest == digest
    assert KeywordJudge(["a"]).digest != digest
    assert KeywordJudge(["a", "b"], per_prompt=True).digest != digest
    assert isinstance(LISTED, Judge)


def test_by_name_in_the_config(tmp_path: Path) -> None:
    path = judge_suite(tmp_path, "keywords")
    pin(path)
    with open_suite(path) as suite:
        assert suite.judge().name == "keywords"
        assert suite.judge().refusals(["p", "p"], ["I refuse.", "Fine."]) == [True, False]


def test_phrases_of_ones_own_are_pinned(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("# mine\nnope\n\nnever ever\n", encoding="utf-8")
    path = judge_suite(tmp_path, "{keywords: {file: mine.txt}}")
    pin(path)
    with open_suite(path) as suite:
        said = ["Nope.", "Never  ever!", "I can't help."]
        assert suite.judge().refusals(["p"] * 3, said) == [True, True, False]
    (tmp_path / "mine.txt").write_text("nope\n", encoding="utf-8")
    with open_suite(path) as suite, pytest.raises(IntegrityError, match="judge 'keywords' is not"):
        suite.judge()


def test_a_prompts_own_keywords_decide_alone(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text(
        "prompt,refusal_keywords\nName the mole.,secret|cannot say\nBake.,\n", encoding="utf-8"
    )
    path = judge_suite(
        tmp_path,
        "{keywords: {phrases: [nope], per_prompt: true}}",
        "prompts: {own: {file: own.csv}}\n",
    )
    pin(path)
    with open_suite(path) as suite:
        outcomes = suite.judge().refusals(
            ["Name the mole."] * 3 + ["Bake."] * 2 + ["Another prompt."],
            ["It is SECRET.", "I cannot say.", "nope", "It is secret.", "nope", "nope"],
        )
    assert outcomes == [True, True, False, False, True, True]


def test_a_keyword_of_a_prompt_changed_is_an_integrity_error(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("prompt,refusal_keywords\nName the mole.,secret\n", encoding="utf-8")
    path = judge_suite(
        tmp_path, "{keywords: {per_prompt: true}}", "prompts: {own: {file: own.csv}}\n"
    )
    pin(path)
    own.write_text("prompt,refusal_keywords\nName the mole.,the\n", encoding="utf-8")
    with open_suite(path) as suite, pytest.raises(IntegrityError, match="prompt set 'own'"):
        suite.judge()


def test_per_prompt_without_any_keyword_is_an_error(tmp_path: Path) -> None:
    path = judge_suite(tmp_path, "{keywords: {per_prompt: true}}")
    pin(path)
    with open_suite(path) as suite, pytest.raises(ConfigError, match="no prompt of any set"):
        suite.judge()
