"""The page in a real browser: no complaint, no request, nothing hostile runs, everything works."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from pytest_compsec.reports.html import page
from pytest_compsec.reports.html.page import page_of
from tests.unit.reports.html import chromium as browsers
from tests.unit.reports.html import sample_reports as samples
from tests.unit.reports.html.chromium import Chromium, chromium
from tests.unit.reports.html.probes import low_contrast, overflow
from tests.unit.reports.html.sample_reports import check, not_measured, report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def everyday() -> str:
    return page_of(samples.everyday())


@pytest.fixture(scope="module")
def hostile() -> str:
    return page_of(samples.hostile())


def rows(browser: Chromium) -> list[str]:
    """The rows of the browser of prompts, as a reader sees them."""
    found: list[str] = browser.script(
        "return Array.from(document.querySelectorAll('#rows > li'), (one) => one.innerText)"
    )
    return found


def choose(browser: Chromium, name: str, value: str) -> None:
    browser.script(
        "const it = document.getElementById(arguments[0]); it.value = arguments[1];"
        "it.dispatchEvent(new Event('change'))",
        f"filter-{name}",
        value,
    )


def search(browser: Chromium, words: str) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    before = browser.script("return document.getElementById('found').textContent")
    field = browser.driver.find_element("id", "filter-text")
    field.clear()
    field.send_keys(words)
    WebDriverWait(browser.driver, 20, 0.05).until(
        lambda driver: driver.find_element("id", "found").text != before
    )


@pytest.mark.parametrize(
    "name", ["everyday", "classifiers", "hostile", "nothing", "unmeasured", "interrupted"]
)
def test_every_page_opens_without_a_complaint_or_a_request(browser: Chromium, name: str) -> None:
    made = {
        "nothing": lambda: report(),
        "unmeasured": lambda: report(not_measured(), not_measured("awq")),
        "interrupted": lambda: report(
            not_measured(), interrupted=True, integrity=("a\nsha256 of b\n",), exit_status=2
        ),
    }.get(name, getattr(samples, name, None))
    assert made is not None
    browser.open(page_of(made()))
    assert browser.script("return document.querySelectorAll('h2').length") >= 10
    assert browser.complaints() == []
    if name == "interrupted":
        banners = browser.driver.find_elements("css selector", "[role=alert]")
        assert [one.is_displayed() for one in banners] == [True, True]
        assert banners[0].value_of_css_property("background-color").startswith("rgba(163, 21, 21")


def test_hostile_answers_are_shown_and_nothing_of_them_runs(
    browser: Chromium, hostile: str
) -> None:
    browser.open(hostile)
    choose(browser, "kind", "all")
    browser.script("document.getElementById('reveal').click()")
    seen = "".join(rows(browser))
    for text in ("</script><script>window.ran = 1</script>", "<img src=x onerror=", "⟨U+202E⟩"):
        assert text in seen
    assert "characters left out" in seen
    assert "nul ⟨U+0000⟩ bell ⟨U+0007⟩ ⟨U+001B⟩[31mred⟨U+001B⟩[0m" in seen
    assert browser.script("return window.ran === undefined")
    assert browser.script("return document.querySelectorAll('img, iframe, [onload]').length") == 0
    assert browser.script("return document.querySelectorAll('script').length") == 2
    assert browser.script("return getComputedStyle(document.body).display") == "block"
    assert browser.complaints() == []


def test_markup_that_got_through_would_be_complained_about(
    browser: Chromium, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = page._environment
    monkeypatch.setattr(page, "_environment", lambda: made().overlay(autoescape=False))
    image = '<img src="http://127.0.0.1:9/x.png" onerror="window.ran = 1">'
    bad = f"{image}<script>window.ran = 2</script>"
    browser.open(page_of(report(check(summary=bad))))
    found = "\n".join(browser.complaints())
    assert "127.0.0.1:9/x.png" in found
    assert "Content Security Policy" in found
    # The second wall holds: it was in the page, and did not run.
    assert browser.script("return window.ran === undefined")


def test_filters_search_and_pages(browser: Chromium, everyday: str) -> None:
    browser.open(everyday)
    assert len(rows(browser)) == 25
    assert all(text.startswith("Regressed") for text in rows(browser))
    choose(browser, "pair", "=assistant-nf4")
    assert len(rows(browser)) == 12
    choose(browser, "category", "=fraud")
    assert 0 < len(rows(browser)) < 12
    assert all("fraud" in text for text in rows(browser))
    choose(browser, "category", "")
    for kind, first in (("improved", "Improved"), ("unjudged", "Not judged")):
        choose(browser, "kind", kind)
        assert {text.split(" assistant")[0].split("\n")[0] for text in rows(browser)} == {first}
    choose(browser, "kind", "all")
    choose(browser, "check", "=over_refusal_preserved")
    assert rows(browser) == []
    assert "No prompt matches" in browser.driver.find_element("id", "found").text
    choose(browser, "check", "")
    search(browser, "number 17?")
    assert [("prompt-00017" in text) for text in rows(browser)] == [True]
    search(browser, "zzz")
    assert rows(browser) == []
    assert browser.complaints() == []


def test_texts_are_hidden_until_they_are_asked_for(browser: Chromium, everyday: str) -> None:
    browser.open(everyday)
    assert not any("Question number" in text for text in rows(browser))
    buttons = browser.driver.find_elements("css selector", "#rows button")
    browser.script("arguments[0].scrollIntoView({block: 'center'})", buttons[1])
    buttons[1].click()
    assert ["Question number" in text for text in rows(browser)][:3] == [False, True, False]
    assert "glad to help: answer 5." in rows(browser)[1]
    marks = browser.script(
        "return Array.from(document.querySelectorAll('mark'), (one) => one.innerText)"
    )
    assert [one.split(":")[-1].strip() for one in marks] == ["sorry,", "glad"]
    assert buttons[1].get_attribute("aria-expanded") == "true"
    browser.script("document.getElementById('reveal').click()")
    assert all("Question number" in text for text in rows(browser))
    browser.script("document.getElementById('reveal').click()")
    assert not any("Question number" in text for text in rows(browser))


def test_a_keyboard_is_enough(browser: Chromium, everyday: str) -> None:
    from selenium.webdriver.common.keys import Keys

    def press(*keys: str) -> None:
        for key in keys:
            browser.driver.switch_to.active_element.send_keys(key)

    def focused() -> str:
        return str(
            browser.script("const one = document.activeElement; return one.id || one.innerText")
        )

    browser.open(everyday)
    press(Keys.TAB)
    assert focused() == "Skip to the report"
    press(Keys.ENTER)
    assert focused() == "main"
    browser.open(everyday)
    seen = []
    for _ in range(5):
        press(Keys.TAB)
        seen.append(focused())
    assert seen[:3] == ["Skip to the report", "theme", "print"]
    # Every control is reached, in the order of the page.
    assert browser.script(
        "return Array.from(document.querySelectorAll('[tabindex]'), (one) => one.tabIndex)"
        ".every((one) => one <= 0)"
    )
    assert (
        browser.script(
            "return document.querySelectorAll('main :is(div, span)[role=button]').length"
        )
        == 0
    )
    # A verdict leads to its check, which opens; its button leads to its prompts; a row opens.
    browser.script(
        "const card = document.querySelector('button[data-prompts]').closest('.card');"
        "document.querySelector(`a.chip[href='#${card.id}']`).focus()"
    )
    press(Keys.ENTER)
    assert browser.script("return document.querySelector(location.hash).open")
    assert browser.script("return document.activeElement.tagName") == "SUMMARY"
    browser.script("document.querySelector('.card[open] button[data-prompts]').focus()")
    press(Keys.ENTER)
    assert focused() == "prompts"
    browser.script("document.querySelector('#rows button').focus()")
    press(Keys.SPACE)
    assert "Question number" in rows(browser)[0]
    press(Keys.SPACE)
    assert "Question number" not in rows(browser)[0]


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_are_both_readable(browser: Chromium, everyday: str, dark: bool) -> None:
    def light() -> int:
        value = browser.driver.find_element("tag name", "body").value_of_css_property(
            "background-color"
        )
        return int(value.split("(")[1].split(",")[0])

    browser.open(everyday, dark=dark)
    assert (light() < 64) is dark
    browser.script("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    browser.script("document.getElementById('reveal').click()")
    assert low_contrast(browser) == []
    browser.driver.find_element("id", "theme").click()
    assert (light() < 64) is not dark
    assert browser.driver.find_element("id", "theme").text == ("Dark" if dark else "Light")
    assert low_contrast(browser) == []


def test_the_measure_of_contrast_sees_pale_text(browser: Chromium, everyday: str) -> None:
    browser.open(everyday)
    browser.script("document.documentElement.style.setProperty('--muted', '#b0b0b0')")
    assert low_contrast(browser) != []


@pytest.mark.parametrize("name", ["everyday", "hostile"])
def test_a_telephone_needs_no_scrolling_sideways(
    browser: Chromium, name: str, request: pytest.FixtureRequest
) -> None:
    browser.open(request.getfixturevalue(name), width=360)
    browser.script("document.getElementById('reveal').click()")
    assert overflow(browser) == []
    assert browser.driver.find_element("css selector", ".plot.narrow svg").is_displayed()
    assert not browser.driver.find_element("css selector", ".plot.wide svg").is_displayed()
    browser.script("document.querySelector('h1').style.width = '500px'")
    assert overflow(browser) != []


def test_paper_shows_what_is_folded_away_and_no_controls(browser: Chromium, everyday: str) -> None:
    browser.open(everyday, width=794, dark=True, media="print")
    hidden = browser.script(
        "return Array.from(document.querySelectorAll('#filters, #pager, #theme, nav, .bar'),"
        "(one) => getComputedStyle(one).display)"
    )
    assert set(hidden) == {"none"}
    assert (
        browser.script("return getComputedStyle(document.body).backgroundColor")
        == "rgb(255, 255, 255)"
    )
    # Folded away or not.
    assert browser.script(
        "return Array.from(document.querySelectorAll('.card .summary'))"
        ".every((one) => one.checkVisibility() && one.offsetHeight > 0)"
    )
    browser.script(
        "window.opened = 0; window.addEventListener('beforeprint', () => {"
        "window.opened = document.querySelectorAll('details[open]').length })"
    )
    paper = base64.b64decode(browser.command("Page.printToPDF", printBackground=True)["data"])
    assert paper.startswith(b"%PDF-")
    assert browser.script("return window.opened === document.querySelectorAll('details').length")
    assert browser.script("return document.querySelectorAll('details[open]').length") == 0
    assert browser.complaints() == []


def test_ten_thousand_prompts_are_a_page_at_a_time(browser: Chromium) -> None:
    browser.open(page_of(samples.large()))
    choose(browser, "kind", "all")
    assert browser.driver.find_element("id", "found").text == "Rows 1 to 25 of 10,000"
    assert browser.script("return document.querySelectorAll('*').length") < 3_000
    browser.script("document.getElementById('next').click()")
    assert browser.driver.find_element("id", "page").text == "Page 2 of 400"
    assert browser.script("return document.activeElement.id") == "next"
    assert "prompt-00025" in rows(browser)[0]
    search(browser, "prompt-09999")
    assert len(rows(browser)) == 1
    assert browser.complaints() == []


def test_a_missing_browser_fails_on_a_ci_server_and_only_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(browsers, "browser_paths", lambda: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no Chromium"):
        browsers.require_paths()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install"):
        browsers.require_paths()
