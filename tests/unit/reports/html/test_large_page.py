"""A run of many pairs and checks: every pair can be told from the others, on screen and paper."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

import pytest

from pytest_compsec.reports.facts import Report
from pytest_compsec.reports.html.forest import forest_of
from pytest_compsec.reports.html.overview import overview_of
from pytest_compsec.reports.html.page import page_of
from pytest_compsec.reports.html.precision import MOST_APART, precision_of
from pytest_compsec.reports.html.shown_text import short
from pytest_compsec.verdict import Verdict
from tests.unit.reports.html.chromium import Chromium, chromium
from tests.unit.reports.html.probes import overflow
from tests.unit.reports.html.sample_reports import check, preserved, report

PAIRS, CHECKS = 16, 8
STEM = "llama-3.1-8b-instruct-with-a-long-name"


def many(pairs: int = PAIRS, checks: int = CHECKS) -> Report:
    return report(
        *(
            check(
                Verdict.PRESERVED if pair % 2 else Verdict.REGRESSED,
                f"{STEM}-{pair:02d}",
                8 if pair % 2 else 4,
                check=f"check_{at:02d}",
                test=f"test_{at}[{pair}]",
                evidence=(),
            )
            for pair in range(pairs)
            for at in range(checks)
        )
    )


def words(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


@pytest.mark.parametrize("limit", [18, 24, 36])
def test_a_short_name_keeps_the_end_that_tells_variants_apart(limit: int) -> None:
    names = [f"assistant-{STEM}-{at:02d}" for at in range(20)]
    shown = [short(name, limit) for name in names]
    assert len(set(shown)) == len(names)
    assert max(map(len, shown)) == limit
    assert short("int8", limit) == "int8"
    assert "\u202e" not in short("a\u202eb" * 99, limit)


def test_every_bar_has_a_name_of_its_own() -> None:
    drawing = forest_of(many(checks=1).results).drawing
    assert drawing is not None
    for svg in (drawing.wide, drawing.narrow):
        found = {text for text in words(svg) if re.search(r"-\d\d$", text)}
        assert len(found) == PAIRS


def test_many_series_are_drawn_apart_and_few_share_one_drawing_with_a_legend() -> None:
    large = precision_of(many().results)
    assert large.drawing is not None
    assert large.series == ()
    assert large.undrawn == 0
    titles = [text for text in words(large.drawing.wide) if text.startswith("check_")]
    assert [title[:8] for title in titles] == [f"check_{at:02d}" for at in range(CHECKS)]
    assert not any(STEM[:9] in text for text in words(large.drawing.wide))
    assert precision_of(many(2, MOST_APART + 3).results).undrawn == 3
    few = precision_of(many(2, 2).results)
    assert [colour for _, colour in few.series] == ["first", "second"]
    text = page_of(many(2, 2))
    assert 'href="#icon-second"' in text.partition('id="precision"')[2].partition("</figure>")[0]


def test_the_pair_with_the_most_losses_comes_first() -> None:
    found = report(
        check(variant="a"),
        preserved("a", check="x"),
        check(variant="b"),
        check(variant="b", check="x"),
        preserved("c"),
    )
    assert [row.pair[-1] for row in overview_of(found).rows] == ["b", "a", "c"]


def test_numbers_that_are_not_finite_are_named_and_not_drawn() -> None:
    odd = check(limit=float("inf"))
    found = forest_of([odd, check(variant="b")])
    assert [row.pair[-1] for row in found.rows] == ["b"]
    assert found.others == (f"safety_preserved of {odd.pair}",)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.mark.browser
def test_pair_and_check_stay_in_sight_where_the_table_is_scrolled(browser: Chromium) -> None:
    browser.open(page_of(many()))
    browser.script(
        "const it = document.querySelector('.tall'); it.scrollTop = 400; it.scrollLeft = 500"
    )
    table, head, pair = (
        browser.script(
            "const box = document.querySelector(arguments[0]).getBoundingClientRect();"
            "return [box.left, box.top]",
            place,
        )
        for place in (".tall", ".matrix thead th:nth-child(5)", ".matrix tbody tr:last-child th")
    )
    assert head[1] == pytest.approx(table[1], abs=2)
    assert pair[0] == pytest.approx(table[0], abs=2)
    assert overflow(browser) == []


@pytest.mark.browser
def test_no_verdict_is_beyond_the_edge_of_the_paper(browser: Chromium) -> None:
    def ends() -> list[float]:
        found: list[float] = browser.script(
            "return Array.from(document.querySelectorAll('.matrix td > *, .heatmap td b'),"
            " (one) => one.getBoundingClientRect().right)"
        )
        return found

    browser.open(page_of(many()), width=680, media="print")
    assert len(ends()) >= PAIRS * CHECKS
    assert max(ends()) <= 680
    # Each cell says of which check it is: the head of the table is gone.
    said = browser.script(
        "return getComputedStyle(document.querySelector('.matrix td'), '::before').content"
    )
    assert said.startswith('"check_00')
    # Planted fault: the tables stay tables.
    browser.script(
        "document.querySelectorAll('.many').forEach((one) => one.classList.remove('many'))"
    )
    assert max(ends()) > 680
    assert base64.b64decode(browser.command("Page.printToPDF")["data"]).startswith(b"%PDF")


@pytest.mark.browser
def test_a_telephone_has_a_line_for_each_check(browser: Chromium) -> None:
    browser.open(page_of(many()), width=360)
    assert overflow(browser) == []
    height = browser.script("return document.querySelector('.matrix tbody tr').offsetHeight")
    assert height < 75 * CHECKS
    assert browser.complaints() == []
    assert Verdict.REGRESSED in browser.script(
        "return document.querySelector('.matrix td').innerText"
    )
