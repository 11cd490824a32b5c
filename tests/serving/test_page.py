"""The page at / in a real browser: somebody types a sentence and sees its spans."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serving.support import ABOUT, StandIn, serving

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # Without its sandbox, which root may not use; the page is our own.
    flags = ["--no-sandbox", "--disable-dev-shm-usage"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def labeler() -> StandIn:
    return StandIn()


@pytest.fixture(scope="module")
def port(labeler: StandIn) -> Iterator[int]:
    with serving(labeler) as port:
        yield port


@pytest.fixture
def page(browser: Any, port: int) -> Iterator[Any]:
    """The page, all that it asks for, and what the browser complains of, in `page.problems`."""
    page = browser.new_page()
    page.problems = []
    page.on("console", lambda message: page.problems.append(message.text))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on(
        "request",
        lambda asked: (
            asked.url.startswith((f"http://127.0.0.1:{port}/", "data:"))
            or page.problems.append(asked.url)
        ),
    )
    page.goto(f"http://127.0.0.1:{port}/")
    page.locator("#decide option").first.wait_for(state="attached")
    yield page
    page.close()


def ask(page: Any, text: str) -> None:
    with page.expect_response("**/label"):
        page.get_by_label("Sentence").fill(text)
        page.get_by_label("Sentence").press("Enter")


def spans_of(item: Any) -> list[tuple[str, str]]:
    """(words, type) of each span that one labeling shows."""
    texts = [mark.evaluate("m => m.firstChild.textContent") for mark in item.locator("mark").all()]
    return list(zip(texts, item.locator("mark small").all_inner_texts(), strict=True))


def test_who_types_a_sentence_sees_its_ranked_labelings(page):
    assert "step 3" in page.locator("#about").inner_text()
    ask(page, "red Nike")
    page.locator("li").first.wait_for()
    first, second = page.locator("li").all()
    assert spans_of(first) == [("red", "word"), ("Nike", "brand")]
    assert spans_of(second) == [("red", "word")]
    assert first.locator(".text").inner_text().startswith("red")
    assert "probability 50.0 %" in first.inner_text()
    assert "confidence 75.0 %" in (first.locator("mark").first.get_attribute("title") or "")
    # A type has one color, in every labeling, and others have others.
    colors = page.locator("mark").evaluate_all(
        "all => all.map(m => getComputedStyle(m).backgroundColor)"
    )
    assert colors[0] == colors[2] != colors[1] and all(re.match(r"rgb\(", c) for c in colors)
    assert page.problems == []


def test_number_and_rule_can_be_chosen(page, labeler):
    assert page.locator("#decide option").all_inner_texts() == ABOUT["rules"]
    page.get_by_label("Labelings").fill("3")
    page.get_by_label("Rule").select_option("mbr")
    page.get_by_label("Sentence").fill("a b c d")
    with page.expect_response("**/label"):
        page.get_by_role("button").click()
    page.locator("li").nth(2).wait_for()
    assert page.locator("li").count() == 3 and labeler.calls[-1][2] == "mbr"
    # A number beyond the largest is not even asked.
    page.get_by_label("Labelings").fill("7")
    page.get_by_role("button").click()
    assert page.locator("#k:invalid").count() == 1 and labeler.calls[-1][0] == [
        ("a", "b", "c", "d")
    ]


@pytest.mark.parametrize(
    "text", ["🙂🙂 Red  <b>x</b>", "<img src=x onerror=alert(1)> Y", "中 ‮Z e\u0301 A"]
)
def test_any_text_is_shown_as_it_was_typed(page, text):
    ask(page, text)
    item = page.locator("li").first
    item.wait_for()
    words = text.split()
    assert spans_of(item) == [(w, "brand" if w[0].isupper() else "word") for w in words]
    shown = item.locator(".text").evaluate(
        "n => [...n.childNodes].map(c => c.firstChild?.textContent ?? c.textContent).join('')"
    )
    assert shown == text
    assert page.locator("li img, li b").count() == 0 and page.problems == []


def test_what_is_refused_is_said_and_the_next_sentence_is_answered(page):
    ask(page, "bad")
    page.get_by_text("a bad word").wait_for()
    assert page.get_by_role("alert").inner_text() == "body: a bad word"
    assert page.locator("li").count() == 0
    ask(page, "fine")
    page.locator("li").first.wait_for()
    assert page.get_by_role("alert").inner_text() == ""


def test_an_answer_that_comes_late_does_not_stand_beside_a_later_question(page, labeler):
    labeler.gate.clear()
    page.get_by_label("Sentence").fill("first")
    page.get_by_label("Sentence").press("Enter")
    while labeler.calls[-1][0] != [("first",)]:
        page.wait_for_timeout(10)
    page.get_by_label("Sentence").fill("second")
    page.get_by_label("Sentence").press("Enter")
    page.wait_for_timeout(50)
    labeler.gate.set()
    page.get_by_text("second").locator("visible=true").first.wait_for()
    page.locator("mark", has_text="second").wait_for()
    assert page.locator("mark", has_text="first").count() == 0


def test_a_phone_shows_it_without_scrolling_sideways(page):
    page.set_viewport_size({"width": 320, "height": 640})
    ask(page, "a" * 200 + " Levi jeans")
    page.locator("li").first.wait_for()
    wide = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert page.evaluate(wide)
