"""The report is legible and usable: themes, contrast, names, phone, print."""

from __future__ import annotations

import base64
from itertools import pairwise

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver

from reports.pages import CONTRAST, NAMELESS, at, visible

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]


def test_dark_and_light_themes(page: WebDriver) -> None:
    def background() -> str:
        return str(page.execute_script("return getComputedStyle(document.body).backgroundColor"))

    before, pressed = background(), at(page, "#theme").get_attribute("aria-pressed")
    at(page, "#theme").click()
    assert background() != before
    assert at(page, "#theme").get_attribute("aria-pressed") != pressed
    page.refresh()
    assert background() != before  # the theme is stored
    at(page, "#theme").click()
    assert background() == before


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_is_accessible(page: WebDriver, theme: str) -> None:
    if page.execute_script("return document.documentElement.dataset.theme") != theme:
        at(page, "#theme").click()
    at(page, "#level").send_keys("1")  # shows the note about the explored threshold
    assert page.execute_script(CONTRAST) == []
    at(page, "#back").click()
    at(page, "#text").send_keys("<script>")
    at(page, ".card:not([hidden]) a").click()
    at(page, "#region-0").click()
    assert page.execute_script(CONTRAST) == []
    assert page.execute_script(NAMELESS) == []
    assert page.execute_script("return [...document.images].filter((i) => !i.getAttribute('alt')).length") == 0
    assert (
        page.execute_script("return [...document.querySelectorAll('svg')].filter((s) => !s.ariaLabel && !s.ariaHidden).length")
        == 0
    )
    assert page.execute_script("return document.documentElement.lang") == "en"
    ids = page.execute_script("return [...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    headings = "return [...document.querySelectorAll('main h1, main h2, main h3')].map((h) => +h.tagName[1])"
    levels = page.execute_script(headings)
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ActionChains(page).send_keys(Keys.ESCAPE).perform()
    at(page, "#filters button[type=reset]").click()
    page.execute_script("document.querySelector('.skip').focus()")
    ActionChains(page).send_keys(Keys.TAB).perform()
    order = []
    for _ in range(8):
        order.append(page.switch_to.active_element.get_attribute("id"))
        outline = page.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", page.switch_to.active_element.get_attribute("outerHTML")
        ActionChains(page).send_keys(Keys.TAB).perform()
    assert order[:3] == ["theme", "slider", "level"]


def test_the_page_fits_a_phone(page: WebDriver) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        page.refresh()
        assert page.execute_script("return document.documentElement.scrollWidth") <= 390
        names = visible(page)
        page.execute_script("document.querySelector('.card a').click()")
        assert page.execute_script("return document.querySelector('.viewer').scrollWidth") <= 390
        page.execute_script(_SWIPE)
        assert at(page, "#viewer-name").text == names[1]
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


_SWIPE = """
const stage = document.getElementById("stage");
const touch = (x) => new Touch({ identifier: 1, target: stage, clientX: x, clientY: 200 });
stage.dispatchEvent(new TouchEvent("touchstart", { touches: [touch(300)], changedTouches: [touch(300)], bubbles: true }));
stage.dispatchEvent(new TouchEvent("touchend", { touches: [], changedTouches: [touch(120)], bubbles: true }));
"""


def test_the_page_prints(page: WebDriver) -> None:
    printed = page.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    content = base64.b64decode(printed["data"])
    assert content.startswith(b"%PDF")
    assert content.count(b"/Type /Page\n") >= 2
