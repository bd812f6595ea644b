"""A sample that a file holds twice is refused at its second place."""

from __future__ import annotations

import pytest

from pytest_compsec.data.repeats import compared, refuse_repeated
from pytest_compsec.errors import ConfigError

WHERE = ("f.jsonl:1", "f.jsonl:2", "g.jsonl:1")


def test_spaces_and_capitals_make_no_second_sample() -> None:
    with pytest.raises(
        ConfigError,
        match=r"^g\.jsonl:1: the same question as at f\.jsonl:1; a sample counts once, leave one",
    ):
        refuse_repeated(("Who was it?", "Who?", " who  WAS\nit? "), WHERE, "question")
    refuse_repeated(("Who was it?", "Who?", "Who was it, then?"), WHERE, "question")
    assert compared("Straße\u00a0 7") == "strasse 7"


def test_a_name_is_told_where_there_is_one() -> None:
    with pytest.raises(ConfigError, match=r"g\.jsonl:1: the same text as that of 'y' \(f\.jsonl:2"):
        refuse_repeated(("a", "b", "B"), WHERE, "text", names=("x", "y", "z"))


def test_exact_texts_differ_in_a_capital() -> None:
    refuse_repeated(("aB", "ab", "a b"), WHERE, "canary", exact=True)
    with pytest.raises(ConfigError, match="the same canary"):
        refuse_repeated(("aB", "ab", "aB"), WHERE, "canary", exact=True)


def test_texts_and_places_belong_together() -> None:
    with pytest.raises(ValueError, match="argument"):
        refuse_repeated(("a", "b"), WHERE, "text")
