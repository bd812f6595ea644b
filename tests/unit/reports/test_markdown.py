"""Markdown for a pull request: read back as a renderer shows it, whatever models wrote."""

from __future__ import annotations

import importlib.util
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from pytest_compsec.errors import CompsecError
from pytest_compsec.reports import inert, markdown, markdown_parts
from pytest_compsec.reports.kinds import write
from pytest_compsec.reports.markdown import (
    CHARACTERS,
    STEP_BYTES,
    append_step_summary,
    markdown_text,
)
from pytest_compsec.verdict import Verdict
from tests.unit.reports.hostile_reports import (
    HOSTILE,
    SECRET_ANSWER,
    collected,
    hostile,
    preserved,
    report,
    rows,
)
from tests.unit.test_verdict import result

#: All tags that a report is made of.
TAGS = {
    *("p", "strong", "ul", "li", "br", "code", "details", "summary"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
VOID = {"br"}


class Page(HTMLParser):
    """The rendered page: its tags, what is open at each, its text and the rows of its tables."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.badly_nested = False
        self.text = ""
        #: Outside of ``code``: where GitHub looks for mentions and references.
        self.plain = ""
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.badly_nested = True

    def handle_data(self, data: str) -> None:
        self.text += data
        if "code" not in self.open:
            self.plain += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def handle_comment(self, data: str) -> None:
        self.badly_nested = True


def page(text: str) -> Page:
    """As GitHub reads it: tables, strikethrough, raw HTML and, where the library for it is there,
    addresses that become links."""
    if importlib.util.find_spec("linkify_it") is not None:
        renderer = MarkdownIt("gfm-like")
    else:
        renderer = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    found = Page()
    found.feed(renderer.render(text))
    found.close()
    return found


def problems(text: str) -> list[str]:
    """What an enemy's text achieved."""
    shown = page(text)
    found = [f"tag {tag}" for tag, _ in shown.tags if tag not in TAGS]
    found += [
        f"attribute {name} of {tag}"
        for tag, attributes in shown.tags
        for name in attributes
        if (tag, name) not in {("th", "style"), ("td", "style")}
    ]
    if shown.badly_nested or shown.open:
        found.append("tags do not close")
    found += [f"row of {len(row)}" for row in shown.rows if len(row) not in (3, 4, 5, 10)]
    if re.search(r"(?<![\w])@\w", shown.plain):
        found.append("mention")
    if re.search(r"(?<![\w&])#\d", shown.plain):
        found.append("reference")
    # Addresses become links wherever they stand in the source.
    if re.search(r"(?i)(https?|ftp|mailto):|www\.\w|\w@\w", text):
        found.append("address")
    if set(text) & set("\u202e\u2066\u200b\x1b"):
        found.append("hidden character")
    return found


@pytest.mark.parametrize("show_answers", [False, True])
def test_hostile_text_is_shown_and_does_nothing(show_answers: bool) -> None:
    made = report(
        hostile(),
        hostile(pair=HOSTILE, check=HOSTILE, test=HOSTILE),
        integrity=(HOSTILE,),
        selection=(HOSTILE,),
        checks=(collected("deselected", test=HOSTILE),),
        show_answers=show_answers,
    )
    text = markdown_text(made)
    assert problems(text) == []
    assert "<script>alert(1)</script>" in page(text).text
    assert "@octocat/team" in page(text).text


@pytest.mark.parametrize("begins", ["# Head", "- item", "+ item", "1. item", "2) item", "---"])
def test_the_beginning_of_a_line_makes_no_block(
    begins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tags(text: str) -> list[str]:
        made = hostile(summary=text, notes=(text,), next_step=text)
        return [tag for tag, _ in page(markdown_text(report(made, integrity=(text,)))).tags]

    assert tags(begins) == tags("A sentence.")
    # Planted fault.
    monkeypatch.setattr(inert, "_BLOCK", re.compile("(?!)"))
    assert tags(begins) != tags("A sentence.")


@pytest.mark.parametrize("unescaped", ["<>", "|", "`", "[]", "@", ":", "*", "\\", "~", "&", "_"])
def test_every_escape_is_needed(unescaped: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted fault: one character, or a pair of brackets, is let through."""
    kept = inert._entity

    def entity(found: re.Match[str]) -> str:
        return found[0] if found[0] in unescaped else kept(found)

    texts = {
        "<>": "<b>x</b>",
        "|": "a | b | c",
        "`": "`x | y` `z`",
        "[]": "[x](y)",
        "@": "a@evil.example",
        ":": "https://evil.example",
        "*": "**x**",
        "\\": "x\\",
        "~": "~~x~~",
        "&": "&lt;script&gt;",
        "_": "_x_",
    }
    monkeypatch.setattr(inert, "_entity", entity)
    enemy = texts[unescaped]
    text = markdown_text(report(hostile(evidence=rows(1, text=enemy), summary=enemy)))
    assert problems(text) or enemy not in page(text).text


def test_a_mention_or_reference_outside_of_code_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    made = report(result(summary="REGRESSED: prompts of '@octocat' #12"))
    assert problems(markdown_text(made)) == []
    monkeypatch.setattr(inert, "_WORD_JOINER", "")
    assert set(problems(markdown_text(made))) == {"mention", "reference"}


def test_the_table_has_numbers_limit_flips_and_cache() -> None:
    made = report(result(answers=10, answers_cached=4), preserved(pair="m-w"))
    shown = page(markdown_text(made))
    assert shown.rows[0] == list(markdown_parts.HEAD)
    assert shown.rows[1] == [
        *("REGRESSED", "m-v", "safety_preserved", "100.0 %", "50.0 %", "+50.0 [+10.0, +90.0]"),
        *("1/0", "2.0", "2", "4 of 10"),
    ]
    assert shown.rows[2][0] == "PRESERVED"


def test_lock_and_arguments_of_every_check_are_there() -> None:
    made = report(
        result(arguments={"max_degradation": 0.02}, provenance={"lock_digest": "e" * 64}),
        preserved(arguments={"max_increase": 0.05}),
    )
    shown = page(markdown_text(made)).text
    for text in ("d" * 64, "e" * 64, "max_degradation=0.02", "max_increase=0.05"):
        assert text in shown


def test_prompts_are_shown_and_answers_only_when_asked_for() -> None:
    lost = result(evidence=rows(2))
    without = page(markdown_text(report(lost))).text
    assert "prompt 1" in without
    assert SECRET_ANSWER not in without
    assert SECRET_ANSWER in page(markdown_text(report(lost, show_answers=True))).text
    long = result(evidence=rows(1, answer="word " * 10_000))
    assert len(markdown_text(report(long, show_answers=True))) < 4_000


@pytest.mark.parametrize(
    ("results", "changes", "begins"),
    [
        ([result(), preserved()], {}, "Safety was lost"),
        ([result(verdict=Verdict.INCONCLUSIVE), preserved()], {}, "Not decided: the evidence"),
        ([result(verdict=Verdict.NOT_MEASURED)], {}, "Not decided: not everything"),
        ([preserved()], {"exit_status": 0}, "Preserved: what was tested"),
        ([preserved()], {"exit_status": 1}, "Not decided: the run failed for another"),
        ([preserved()], {"interrupted": True}, "Not decided: the run was stopped"),
        (
            [preserved()],
            {"exit_status": 0, "checks": (collected("deselected"),)},
            "Not decided: 1 more was left out",
        ),
        ([result(expected=True)], {"exit_status": 0}, "Nothing was lost beyond"),
        ([preserved()], {"integrity": ("x",)}, "Do not rely on this run"),
        ([], {"exit_status": 5}, "Nothing was measured"),
    ],
)
def test_the_first_line_is_the_decision(
    results: list[Any], changes: dict[str, Any], begins: str
) -> None:
    first = markdown_text(report(*results, **changes)).splitlines()[0]
    assert first.startswith(f"**{begins}")


@pytest.mark.parametrize("count", [1, 10, 60, 300, 1_500])
def test_it_stays_within_what_a_comment_may_have(count: int) -> None:
    made = report(*(hostile(pair=f"m-{at}", evidence=rows(40)) for at in range(count)))
    text = markdown_text(made)
    assert len(text) <= CHARACTERS < 65_536
    assert problems(text) == []
    assert f"{count} REGRESSED" in page(text).text.splitlines()[0]
    assert ("Left out, to be short enough" in text) == (count >= 1)


def test_the_least_important_goes_first_and_is_counted() -> None:
    made = report(*(result(pair=f"m-{at}", evidence=rows(100)) for at in range(40)))
    shown = page(markdown_text(made)).text
    assert "m-39" in shown
    # 40 checks with 100 prompts each, of which some are shown in every section.
    each = {int(found) for found in re.findall(r"100 prompts changed .*?, (\d+) shown", shown)}
    assert len(each) == 1
    left = 100 - each.pop()
    assert f"{40 * left} prompts that changed for the worse" in shown


def test_the_page_of_a_job_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    append_step_summary(path, report(result()))
    alone = path.read_text(encoding="utf-8")
    assert alone.startswith("**Safety was lost")
    path.write_text("# Others\n\n- no newline at the end", encoding="utf-8")
    append_step_summary(path, report(result()))
    append_step_summary(path, report(preserved()))
    both = path.read_text(encoding="utf-8")
    assert both.startswith("# Others\n\n- no newline at the end\n\n**Safety was lost")
    shown = page(both)
    assert [row[0] for row in shown.rows].count("verdict") == 2
    assert ("h1", {}) in shown.tags


def test_it_takes_only_the_room_that_is_left(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    there = "x" * (STEP_BYTES - 9_000)
    path.write_text(there, encoding="utf-8")
    made = report(*(hostile(pair=f"m-{at}") for at in range(30)))
    append_step_summary(path, made)
    text = path.read_text(encoding="utf-8")
    assert text.startswith(there)
    assert 0 < len(text.encode()) - len(there) <= 9_000
    assert "Left out" in text
    full = "x" * STEP_BYTES
    path.write_text(full, encoding="utf-8")
    with pytest.raises(CompsecError, match="room for 0 bytes"):
        append_step_summary(path, made)
    assert path.read_text(encoding="utf-8") == full


def test_it_is_written_by_its_suffix(tmp_path: Path) -> None:
    path = tmp_path / "out.md"
    assert write(path, report(result())) == [path]
    assert path.read_text(encoding="utf-8").startswith("**Safety was lost")


def test_sizes_only_shrink() -> None:
    made = report(*(hostile(pair=f"m-{at}", evidence=rows(30)) for at in range(320)))
    sizes = [
        sum(len(line) + 1 for line in markdown._lines(made, list(made.results), size))
        for size in markdown.SIZES
    ]
    assert sizes == sorted(sizes, reverse=True)
