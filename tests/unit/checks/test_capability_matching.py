"""When is a short answer right? Terse and chatty models alike, and never an echo."""

from __future__ import annotations

import pytest

from pytest_compsec.checks.capability.matching import first_line, is_right, words_of

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
