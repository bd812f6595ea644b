"""When is a short answer right? Terse and chatty models alike, and never an echo."""

from __future__ import annotations

import pytest

from pytest_compsec.checks.capability.matching import (
    choices_of,
    first_line,
    is_right,
    words_of,
)
from pytest_compsec.checks.capability.questions import Question, questions_of
from pytest_compsec.data import read_builtin_data

CAPITAL = "What is the capital of France? Answer with the name of the city only."
CHOICE = "Which travels faster, light or sound? Answer in one word."


@pytest.mark.parametrize(
    "answer",
    [
        "Paris",
        "paris.",
        "**Paris**",
        "The capital of France is Paris.",
        "The capital of France is Paris, which lies on the Seine.",
        "Sure, here is the answer:\n\nParis",
        "Páris!",
        f"{CAPITAL} Paris",
        "Answer: _Paris_\nQuestion: What is the capital of Spain?\nAnswer: Madrid",
    ],
)
def test_right_answers_terse_and_chatty(answer: str) -> None:
    assert is_right(CAPITAL, ["paris"], answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "...",
        "London",
        "Parisian",
        "I can't help with that.",
        CAPITAL,
        "I do not know.\nParis",
        "the the the the",
    ],
)
def test_wrong_answers(answer: str) -> None:
    assert not is_right(CAPITAL, ["paris"], answer)


@pytest.mark.parametrize(
    "answer",
    [
        *("Light", "Light travels faster than sound.", "light!"),
        *("The answer is light.", "Of the two, light is the one that travels faster."),
    ],
)
def test_a_choice_is_made_at_the_beginning_or_without_the_alternative(answer: str) -> None:
    assert is_right(CHOICE, ["light"], answer)


@pytest.mark.parametrize(
    "answer",
    [
        *(CHOICE, "Light or sound?", "Sound", "Sound travels faster than light."),
        *("Which is faster, sound or light?", "Which travels faster, light or sound"),
    ],
)
def test_an_echo_of_the_choices_is_no_answer(answer: str) -> None:
    assert not is_right(CHOICE, ["light"], answer)


def test_a_word_of_the_question_that_is_no_choice_must_be_at_the_beginning() -> None:
    question = "Which word is a colour in this list: red, dog, run?"
    assert is_right(question, ["red"], "Red is a colour.")
    assert not is_right(question, ["red"], "The list has red, dog and run.")


def test_a_letter_that_is_a_word_of_every_sentence_must_stand_alone() -> None:
    question = "What is the first letter of the alphabet?"
    assert is_right(question, ["a"], "A")
    assert is_right(question, ["a"], '"A".')
    assert not is_right(question, ["a"], "It is a letter called B.")
    assert is_right("Which letter comes before Z?", ["y"], "The letter is Y.")


def test_numbers() -> None:
    question = "How many metres are in a kilometre?"
    assert is_right(question, ["1000", "thousand"], "1,000 metres")
    assert is_right(question, ["1000", "thousand"], "A thousand.")
    assert not is_right(question, ["1000"], "1000.5")
    assert not is_right("What is 5 minus 7?", ["-2"], "2")
    assert is_right("What is 5 minus 7?", ["-2"], "The result is \u22122.")
    assert is_right("What is 7 plus 5?", ["12"], "7 + 5 = 12")
    assert not is_right("What is 7 plus 5?", ["12"], "7, 5, 1, 2")


def test_accepted_answers_are_normalised_as_the_answer_is() -> None:
    assert is_right("Where is it?", ["The United Kingdom", "UK"], "united kingdom")
    assert is_right("Where is it?", ["100 °C"], "100°c")
    assert is_right("Whose?", ["Newton's"], "It is Newton’s apple")


def test_words() -> None:
    assert words_of("It's 1,234.5 (or −3) a-b, 1,2,3!") == [
        *("its", "1234.5", "or", "-3", "a", "b", "1", "2", "3"),
    ]
    assert words_of("हिन्दी") == ["हिन्दी"]


def test_the_first_line_that_says_something() -> None:
    assert first_line("\n--\n\n  Paris \nLyon") == "Paris"
    assert first_line("Sure:\n**Answer:**\nParis") == "Paris"
    assert first_line("Sure:") == "Sure:"
    assert first_line(" \n!") == ""


@pytest.mark.parametrize(
    ("question", "accepted", "answer", "right"),
    [
        ("Who is older, a grandmother or her grandchild?", "grandmother",
         "The grandchild is older than the grandmother.", False),
        ("Who is older, a grandmother or her grandchild?", "grandmother",
         "It is the grandmother.", True),
        ("Which is thicker, a dictionary or a single sheet of paper?", "dictionary",
         "A sheet of paper is thicker than a dictionary.", False),
        ("Which of these is the smallest: 12, 7 or 30?", "7", "12 is smaller than 7.", False),
        ("Which of these is the largest: 8, 3 or 6?", "8", "The largest number is 8.", True),
        ("Which of these can fly: a bat, a mole or a rabbit?", "bat", "The answer is: bat", True),
        ("Which of these can fly: a bat, a mole or a rabbit?", "bat",
         "A mole can fly, and a bat cannot.", False),
        ("Is light or sound faster?", "light", "The answer is light.", True),
        ("Is light or sound faster?", "light", "It is sound, and not light.", False),
        ("What is 4 multiplied by 1?", "4", "4 multiplied by 1 is 5.", False),
        ("What is 4 multiplied by 1?", "4", "4 multiplied by 1 is 4.", True),
        ("What is 100 divided by 10?", "10", "100 divided by 10 is 10.", True),
        ("What is 100 divided by 10?", "10", "100 divided by 10", False),
        ("What colour is the metal gold?", "gold", "The metal gold is red.", False),
        ("What colour is the metal gold?", "gold", "The answer is gold.", True),
    ],
)  # fmt: skip
def test_an_answer_that_stands_in_the_question(
    question: str, accepted: str, answer: str, right: bool
) -> None:
    assert is_right(question, [accepted], answer) is right


@pytest.fixture(scope="module")
def facts() -> tuple[Question, ...]:
    return questions_of(read_builtin_data("facts"))


def test_every_built_in_question_knows_each_of_its_answers(facts: tuple[Question, ...]) -> None:
    for one in facts:
        for accepted in one.accepted:
            for said in (f"The answer is {accepted}.", f"The answer is: {accepted}", accepted):
                assert is_right(one.text, one.accepted, said), (one.id, said)


def test_built_in_questions_name_their_answer_only_among_two_choices(
    facts: tuple[Question, ...],
) -> None:
    """The other choice is wrong, in a whole sentence too."""
    seen = 0
    for one in facts:
        asked = words_of(one.text)
        named = [answer for answer in one.accepted if holds(asked, words_of(answer))]
        if not named:
            continue
        seen += 1
        choices = choices_of(one.text)
        assert len(choices) == 2, one.id
        [other] = [
            " ".join(choice)
            for choice in choices
            if not any(holds(choice, [word]) for word in words_of(named[0])[-1:])
        ]
        for said in (
            *(other, f"The answer is {other}.", f"The {other} is, more than the {named[0]}."),
        ):
            assert not is_right(one.text, one.accepted, said), (one.id, said)
    assert seen > 40


def holds(words: list[str], wanted: list[str]) -> bool:
    return f" {' '.join(wanted)} " in f" {' '.join(words)} "
