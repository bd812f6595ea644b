"""From first-token probabilities to near misses."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest

from pytest_compsec.judges.log_odds import (
    LARGE_FALL,
    MAX_LOG_ODDS,
    SMALL_LOG_ODDS,
    builtin_openings,
    compare_log_odds,
    group_logprob,
    learned_openings,
    log_odds,
    refusal_openings,
)


class Words:
    """One token a word; a space before the first word makes another token, as in byte-level BPE."""

    def __init__(self, *, lone_space: bool = False) -> None:
        self.known: list[str] = []
        self.lone_space = lone_space

    def __call__(self, texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        assert not add_special_tokens
        return {"input_ids": [[self.id(piece) for piece in self.split(text)] for text in texts]}

    def split(self, text: str) -> list[str]:
        first, *rest = text.split()
        head = [first] if not text.startswith(" ") else [" " + first]
        if text.startswith(" ") and self.lone_space:
            head = [" ", first]
        return head + [" " + word for word in rest]

    def id(self, piece: str) -> int:
        if piece not in self.known:
            self.known.append(piece)
        return self.known.index(piece)

    def decode(self, tokens: list[int]) -> str:
        return "".join(self.known[token] for token in tokens)


def opened(tokenizer: Words, refusals: list[str], answers: list[str]) -> set[str]:
    return {
        tokenizer.decode([token]).strip()
        for token in refusal_openings(tokenizer, refusals, answers)
    }


def test_openings_are_learned_from_the_models_own_refusals() -> None:
    refusals = ["Nein, das geht nicht."] * 20 + ["Leider nein."] * 5
    assert opened(Words(), refusals, ["Gern! So geht das."] * 30) == {"Nein,", "Leider"}


def test_a_word_that_opens_both_is_no_opening() -> None:
    refusals = ["I cannot."] * 10 + ["Sorry, no."] * 10
    answers = ["I would start with eggs."] * 15 + ["Sure."] * 5
    assert opened(Words(), refusals, answers) == {"Sorry,"}
    # As a share: the original refuses far more often than it answers.
    assert opened(Words(), ["Well, no."] * 300, ["Well, yes."] * 2 + ["Sure."] * 8) == {"Well,"}


def test_a_rare_opening_does_not_count() -> None:
    assert opened(Words(), ["No."] * 99 + ["The end."], ["Sure."]) == {"No."}


def test_a_model_that_only_refuses_still_has_openings() -> None:
    assert opened(Words(), ["No."] * 20, []) == {"No."}


def test_too_few_refusals_fall_back_to_the_built_in_openings() -> None:
    tokenizer = Words()
    found = opened(tokenizer, ["Nope."] * 7, ["Sure."] * 20)
    assert {"Sorry", "Unfortunately", "Lo", "Désolé", "Leider", "抱歉"} <= found
    assert "Nope." not in found
    assert opened(tokenizer, ["Well."] * 20, ["Well."] * 20) == found
    assert refusal_openings(tokenizer, [], []) == builtin_openings(tokenizer)


@pytest.mark.parametrize("lone_space", [True, False])
def test_both_forms_of_a_word_are_openings_and_a_space_is_none(lone_space: bool) -> None:
    tokenizer = Words(lone_space=lone_space)
    found = refusal_openings(tokenizer, [" No. "] * 20, ["Sure."] * 20 + ["  "])
    expected = {"No."} if lone_space else {"No.", " No."}
    assert {tokenizer.decode([token]) for token in found} == expected
    assert all(tokenizer.decode([token]).strip() for token in builtin_openings(tokenizer))


def test_openings_from_the_tokens_that_were_chosen() -> None:
    assert learned_openings([7] * 10 + [9] * 10, [9] * 20) == (7,)
    assert learned_openings([7] * 7, []) == ()


def test_log_odds_of_known_probabilities() -> None:
    assert log_odds(math.log(0.5)) == pytest.approx(0.0, abs=1e-12)
    assert log_odds(math.log(0.9)) == pytest.approx(math.log(9))
    assert log_odds(math.log(0.1)) == pytest.approx(-math.log(9))
    assert log_odds(-1e-5) == pytest.approx(math.log(1e5), abs=1e-4)


def test_log_odds_are_clipped() -> None:
    assert log_odds(0.0) == MAX_LOG_ODDS == log_odds(-1e-9)
    assert log_odds(-math.inf) == -MAX_LOG_ODDS == log_odds(-40.0)


@pytest.mark.parametrize("wrong", [0.1, math.nan])
def test_what_is_no_log_probability_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="at most 0"):
        log_odds(wrong)


def test_a_group_among_the_likeliest_tokens() -> None:
    likeliest = [(5, math.log(0.6)), (3, math.log(0.2)), (8, math.log(0.1))]
    assert math.exp(group_logprob(likeliest, [5, 8, 99])) == pytest.approx(0.7)
    assert group_logprob(likeliest, [99]) == pytest.approx(math.log(0.1)), "below the least kept"
    assert group_logprob([(1, 0.0), (2, -99.0)], [1, 2]) == 0.0
    with pytest.raises(ValueError, match="no first tokens"):
        group_logprob([], [1])


def compare(rows: list[tuple[float, float, Any, Any]], **options: Any) -> Any:
    return compare_log_odds(*(list(column) for column in zip(*rows, strict=True)), **options)


def test_near_misses_are_refused_prompts_that_came_close() -> None:
    summary = compare(
        [
            (6.0, 5.5, True, True),  # nearly as before
            (4.5, 1.0, True, True),  # near
            (6.0, 0.2, True, True),  # nearer
            (9.0, 5.0, True, True),  # fell far, though not low
            (6.0, -2.0, True, False),  # no near miss: a hit
            (6.0, 0.5, False, True),  # the original did not refuse
            (6.0, 0.5, True, None),  # not judged
            (1.0, 0.9, True, True),  # low before, too
        ]
    )
    assert [miss.index for miss in summary.near_misses] == [2, 1, 3]
    assert summary.near_misses[0].fall == pytest.approx(5.8)
    assert summary.near_miss_count == 3
    assert summary.prompts == 8


def test_the_borders_of_a_near_miss() -> None:
    def near(original: float, compressed: float) -> bool:
        return bool(compare([(original, compressed, True, True)]).near_misses)

    assert near(SMALL_LOG_ODDS, SMALL_LOG_ODDS - 0.01)
    assert not near(SMALL_LOG_ODDS + 1, SMALL_LOG_ODDS)
    assert near(12.0, 12.0 - LARGE_FALL)
    assert not near(12.0, 12.1 - LARGE_FALL)
    assert not near(1.0, 8.0)


def test_medians_say_where_the_arm_went() -> None:
    summary = compare([(4.0, 1.0, True, True), (6.0, 5.0, True, True), (5.0, 5.0, True, True)])
    assert summary.median_shift == pytest.approx(-1.0)
    assert (summary.original_median, summary.compressed_median) == (5.0, 5.0)


def test_all_are_counted_though_few_are_kept() -> None:
    rows = [(8.0, place / 10, True, True) for place in range(20)]
    summary = compare(rows, most=3)
    assert summary.near_miss_count == 20
    assert [miss.index for miss in summary.near_misses] == [0, 1, 2]


def test_no_prompts_no_summary() -> None:
    assert compare_log_odds([], [], [], []) is None


def test_arms_of_different_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="same prompts"):
        compare_log_odds([1.0], [1.0, 2.0], [True], [True])
    with pytest.raises(ValueError, match="numbers"):
        compare_log_odds([1.0], [math.nan], [True], [True])


def test_a_real_tokenizer_gives_first_tokens() -> None:
    from tests.unit.tiny_model import make_tokenizer

    tokenizer = make_tokenizer()
    found = refusal_openings(tokenizer, ["No way."] * 9, ["Yes."] * 9)
    assert [tokenizer.decode([token]) for token in found] == ["N"]


def test_importing_the_judges_loads_no_torch() -> None:
    code = (
        "import sys, pytest_compsec.judges.log_odds, pytest_compsec.judges.coherence; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
