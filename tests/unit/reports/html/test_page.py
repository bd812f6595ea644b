"""What the page says, read as text: the decision, the parts, and that nothing of it is markup."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import re
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.reports.facts import Report
from pytest_compsec.reports.html import files, page
from pytest_compsec.reports.html.categories import heat_maps, shade
from pytest_compsec.reports.html.decision import decide
from pytest_compsec.reports.html.evidence_rows import evidence_data, kind_of_row
from pytest_compsec.reports.html.forest import forest_of
from pytest_compsec.reports.html.page import page_of
from pytest_compsec.reports.html.precision import known_bits, precision_of
from pytest_compsec.reports.html.shown_text import cut, first_difference, visible
from pytest_compsec.verdict import Evidence, Verdict
from tests.unit.reports.html import sample_reports as samples
from tests.unit.reports.html.sample_reports import check, not_measured, preserved, report


class Elements(html.parser.HTMLParser):
    """Every tag of a page with its attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def everyday() -> str:
    return page_of(samples.everyday())


@pytest.mark.parametrize(
    ("given", "tone", "headline"),
    [
        (report(), "bad", "Nothing is known: no check has a result"),
        (report(preserved()), "good", "The only check is PRESERVED"),
        (report(preserved(), preserved("x")), "good", "All 2 checks are PRESERVED"),
        (report(check()), "bad", "May not ship: the only check is REGRESSED"),
        (
            report(
                check(), preserved(), not_measured(), check(Verdict.INCONCLUSIVE, expected=True)
            ),
            "bad",
            "May not ship: 3 of 4 checks are not PRESERVED",
        ),
        (
            report(not_measured(), preserved()),
            "bad",
            "May not ship: 1 of 2 checks is not PRESERVED",
        ),
        (
            report(preserved(), integrity=("x.bin changed",)),
            "bad",
            "May not ship: an integrity check failed",
        ),
        (report(preserved(), interrupted=True), "bad", "May not ship: the run did not finish"),
        (
            report(preserved(), checks=(samples.collected(preserved(), state="unfinished"),)),
            "bad",
            "May not ship: the run did not finish",
        ),
        (
            report(preserved(), checks=(samples.collected(preserved(), outcome="failed"),)),
            "open",
            "Not decided: the checks are PRESERVED, but the run failed",
        ),
        (
            report(preserved(), exit_status=1),
            "open",
            "Not decided: the checks are PRESERVED, but the run failed",
        ),
        (
            report(
                preserved(),
                checks=(
                    samples.collected(preserved()),
                    samples.collected(check(), state="deselected", outcome=None),
                ),
            ),
            "open",
            "Not decided: 1 collected check did not run",
        ),
    ],
)
def test_the_first_sentence_says_no_more_than_the_verdicts(
    given: Report, tone: str, headline: str
) -> None:
    found = decide(given)
    assert (found.tone, found.headline) == (tone, headline)


def test_an_expected_failure_is_counted_and_called_no_approval() -> None:
    told = decide(report(check(expected=True), not_measured(), preserved())).sentences
    assert any(one.startswith("1 of the 2 that are not PRESERVED was expected") for one in told)
    assert "1 of 3 pairs is PRESERVED in all the checks that ran on it: assistant-int8." in told


def test_a_skipped_check_is_told_and_shown_in_its_cell() -> None:
    skipped = samples.collected(not_measured("awq"), outcome="skipped")
    found = report(preserved(), checks=(samples.collected(preserved()), skipped))
    assert "1 collected check did not run: 1 skipped." in decide(found).sentences
    assert ">skipped<" in page_of(found)


def test_the_page_has_every_part_and_its_numbers(everyday: str) -> None:
    words = " ".join(" ".join(Elements(everyday).words).split())
    for part in (
        "May not ship: 5 of 8 checks are not PRESERVED",
        "84 of 2,800 answers came from the cache",
        "c4" * 32,
        "1b" * 32,
        "max_degradation",
        "Degradation against the limit",
        "Precision against safety and capability",
        "Where it was lost: categories",
        "model.layers.7.self_attn",
        "relative change of perplexity",
        "chat_template",
        "OWASP",
        "LLM01",
        "MEASURE 2.6",
        "How to read it",
        "What it cannot see",
        "--compsec-report=out.html",
    ):
        assert part in words, part


def test_one_file_that_is_the_same_every_time(tmp_path: Path) -> None:
    found = samples.classifiers()
    ((path, text),) = files(tmp_path / "out.html", found)
    assert path == tmp_path / "out.html"
    assert text == page_of(found)
    assert text.startswith("<!doctype html>")
    text.encode("utf-8")


def test_nothing_comes_from_elsewhere(everyday: str) -> None:
    for tag, attributes in Elements(everyday).tags:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith("#") or value == "data:,", (tag, value)
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag
    assert "@import" not in everyday
    assert "url(#" in everyday  # the clip paths of the drawings
    assert not re.search(r"url\((?!#)", everyday)


def test_the_policy_allows_this_style_and_this_script_alone(everyday: str) -> None:
    tags = Elements(everyday).tags
    assert tags[3][1]["http-equiv"] == "Content-Security-Policy"
    policy = tags[3][1]["content"] or ""
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert page.policy("a", "b") != page.policy("a", "c") != page.policy("d", "c")
    scripts = [attributes for tag, attributes in tags if tag == "script"]
    assert [one.get("type") for one in scripts] == ["application/json", None]


def hostile_tags(text: str) -> list[str]:
    """Tags and attributes that only a text taken for markup could have made."""
    found = []
    for tag, attributes in Elements(text).tags:
        if tag in ("img", "b2", "iframe") or any(name.startswith("on") for name in attributes):
            found.append(tag)
    if len(re.findall(r"<script", text)) != 2 or len(re.findall(r"<style", text)) != 1:
        found.append("script or style")
    return found


def test_hostile_texts_are_text_wherever_they_stand() -> None:
    text = page_of(samples.hostile())
    assert hostile_tags(text) == []
    text.encode("utf-8")
    for character in "\x00\x07\x1b\u202e\u2066\u2028\u2029\U000e0041\ud800":
        assert character not in text, hex(ord(character))
    assert "{{ 7 * 7 }}" in text
    assert "Integrity failure" in text


def test_the_search_for_markup_would_find_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = page._environment

    def careless() -> Any:
        environment = made()
        environment.autoescape = False
        return environment

    monkeypatch.setattr(page, "_environment", careless)
    assert "img" in hostile_tags(page_of(report(check(pair=samples.HOSTILE[1]))))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nul \x00, esc \x1b[31m, del \x7f", "nul ⟨U+0000⟩, esc ⟨U+001B⟩[31m, del ⟨U+007F⟩"),
        ("a\u202eb\ud800", "a⟨U+202E⟩b⟨U+D800⟩"),
        ("one\r\ntwo\rthree\tfour", "one\ntwo\nthree\tfour"),
        ("👩\u200d👧 e\u0301 日本", "👩\u200d👧 e\u0301 日本"),
    ],
)
def test_what_cannot_be_seen_is_made_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    ("one", "other", "at"),
    [("", "", 0), ("a", "", 0), ("abc", "abd", 2), ("abc", "abcd", 3), ("x" * 999, "x" * 999, 999)],
)
def test_first_difference(one: str, other: str, at: int) -> None:
    assert first_difference(one, other) == at == first_difference(other, one)


def test_a_cut_text_keeps_the_place_of_the_difference() -> None:
    text = "a" * 50_000 + "HERE" + "b" * 50_000
    found = cut(text, 1_000, around=50_000)
    assert "HERE" in found
    assert len(found) < 1_200
    kept = re.sub(r"\n?\[… [\d,]+ characters left out …\]\n?", "", found)
    lost = sum(int(n.replace(",", "")) for n in re.findall(r"… ([\d,]+) characters", found))
    assert len(kept) + lost == len(text)
    assert cut("short", 1_000) == "short"
    assert cut(text, 1_000).endswith("[… 99,004 characters left out …]")


def test_evidence_is_json_that_no_script_element_ends_with() -> None:
    row = Evidence("i", "c", "</script>\u2028", "<!--", "&amp;", True, False)
    data = evidence_data([check(evidence=(row,))])
    assert not set("<>&\u2028") & set(data.text)
    loaded = json.loads(data.text)
    assert [loaded["texts"][at] for at in loaded["rows"][0][4:7]] == [
        "</script>⟨U+2028⟩",
        "<!--",
        "&amp;",
    ]


def test_texts_are_cut_to_a_budget_and_counted_once() -> None:
    evidence = tuple(
        Evidence(str(at), "c", "p", "the same answer " * 500, f"{at} " + "x" * 9_000, True, False)
        for at in range(50)
    )
    whole = evidence_data([check(evidence=evidence)], budget=10**7)
    assert (whole.limit, whole.shortened) == (8_000, 50)
    small = evidence_data([check(evidence=evidence)] * 3, budget=60_000)
    assert small.limit == 1_000
    assert small.rows == 150
    assert len(small.text) < 90_000
    assert whole.text.count("the same answer the same") < small.text.count("the same answer") * 10


def test_every_row_is_of_one_kind() -> None:
    kinds = [kind_of_row(row) for row in samples.rows(5)]
    assert kinds == ["regressed", "improved", "unjudged", "kept", "neither"]


def test_the_forest_has_a_row_for_each_degradation_and_names_the_rest() -> None:
    found = forest_of(samples.everyday().results)
    assert [(row.pair, row.what, row.verdict) for row in found.rows] == [
        ("assistant-nf4", "capability_preserved: accuracy", Verdict.PRESERVED),
        ("assistant-int8", "over_refusal_preserved", Verdict.PRESERVED),
        ("assistant-nf4", "safety_preserved", Verdict.REGRESSED),
        ("assistant-fp4", "safety_preserved", Verdict.INCONCLUSIVE),
        ("assistant-int8", "safety_preserved", Verdict.PRESERVED),
    ]
    assert found.others == (
        "safety_preserved of assistant-gptq",
        "layers_within of assistant-nf4",
        "template_unchanged of assistant-nf4",
    )
    assert found.rows[2].numbers == "+9.0 [+6.0, +12.0]"
    assert found.drawing is not None
    for text in ("assistant-nf4", "+9.0 [+6.0, +12.0]", "<title", "<desc", "fill-regressed"):
        assert text in found.drawing.wide
    assert "#0000" not in found.drawing.wide
    assert "style=" not in found.drawing.wide
    assert forest_of([not_measured()]).drawing is None


def test_measured_bits_count_more_than_asked_ones() -> None:
    measured = samples.estimate("lowest bits per weight", unit="bits", compressed=4.5)
    policy = check(check="precision_policy", measurement=None, estimates=(measured,))
    assert known_bits([check()]) == {"assistant-nf4": (4.0, "asked for in compsec.yaml")}
    assert known_bits([policy, check()])["assistant-nf4"][0] == 4.5
    assert known_bits([check(bits=None)]) == {}


def test_without_bits_the_drawing_is_left_out_with_the_reason() -> None:
    assert "does not know how many bits" in precision_of([check(bits=None)]).reason
    assert "has 4 bits" in precision_of([check()]).reason
    both = precision_of([check(), preserved()])
    assert (both.reason, len(both.points)) == ("", 2)
    assert both.drawing is not None
    assert "no check" in precision_of([not_measured()]).reason


def test_the_heat_map_has_the_worst_category_first() -> None:
    other = check(
        variant="fp4",
        categories=tuple(
            dataclasses.replace(one, category=f"x-{one.category}") for one in samples.categories()
        ),
    )
    (found,) = heat_maps([check(), other, preserved(categories=samples.categories()[:1])])
    assert [column.pair for column in found.columns] == ["assistant-nf4", "assistant-fp4"]
    assert [name for name, _ in found.rows][:2] == ["cyber", "x-cyber"]
    first = found.rows[0][1]
    assert first[0] is not None
    assert (first[0].number, first[0].flips, first[0].shade) == ("+40.0", "5 / 1", "worse-4")
    assert first[1] is None
    assert [shade(one) for one in (0.0, 0.009, 0.01, 0.5, -0.06)] == [
        "even",
        "even",
        "worse-1",
        "worse-5",
        "better-2",
    ]


def test_nothing_measured_still_is_a_page() -> None:
    text = page_of(report(not_measured(), not_measured("awq")))
    assert "May not ship: 2 of 2 checks are not PRESERVED" in text
    assert text.count("Left out: no check of this run") == 4
    assert "No check of this run asked prompts" in text
    assert "No check of this run has a verdict." in page_of(report())
