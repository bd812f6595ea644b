"""Near-duplicates by content words."""

from __future__ import annotations

import itertools

import pytest

from pytest_compsec.prompts import content_words, load_builtin, near_duplicates
from pytest_compsec.prompts.similarity import normalised


def test_content_words_drop_the_asking() -> None:
    asked = content_words("Please explain to me how I can bake a Loaf of bread.")
    assert asked == {"bake", "loaf", "bread"}
    assert content_words("Help me write it, give me that") == frozenset()


def test_apostrophes_do_not_split_words() -> None:
    assert content_words("neighbour's") == content_words("neighbour’s") == {"neighbours"}


def test_likeness_is_jaccard_on_content_words() -> None:
    # {bake, rye, bread} and {bake, wheat, bread}: 2 shared of 4.
    pair = ["How do I bake rye bread?", "Explain how to bake wheat bread"]
    assert near_duplicates(pair, threshold=0.5) == [(0, 1, 0.5)]
    assert near_duplicates(pair, threshold=0.51) == []


def test_equal_texts_are_found_even_without_content_words() -> None:
    assert near_duplicates(["How do I do it?", "bread", "HOW do I do... it"]) == [(0, 2, 1.0)]


def test_texts_without_content_words_are_not_alike() -> None:
    assert near_duplicates(["What is this?", "Why are you?"], threshold=0.01) == []


def test_between_two_lists_indices_count_in_each() -> None:
    left = ["paint a fence", "bake rye bread"]
    right = ["bake rye bread today", "plant a tree", "bake rye bread"]
    assert near_duplicates(left, right) == [(1, 2, 1.0), (1, 0, 0.75)]


def test_the_index_misses_nothing_that_comparing_all_pairs_finds() -> None:
    texts = [prompt.text for prompt in load_builtin("harmful").prompts[:150]]
    words = [content_words(text) for text in texts]
    expected = {
        (i, j)
        for i, j in itertools.combinations(range(len(texts)), 2)
        if len(words[i] & words[j]) / len(words[i] | words[j]) >= 0.1
    }
    assert len(expected) > 50
    assert {(i, j) for i, j, _ in near_duplicates(texts, threshold=0.1)} == expected


def test_normalised() -> None:
    assert normalised(" What’s\tUP,  doc?! ") == "whats up doc"


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.1])
def test_threshold_out_of_range(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        near_duplicates(["a"], threshold=threshold)
