"""The pages for everybody: axe-core finds nothing serious in either theme, and they fit phones and fingers.

axe-core is not part of the project. `npm install --no-save axe-core` puts it into `node_modules`, or `AXE_CORE` names its
`axe.min.js`; without it the tests that need it are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from chromium import chromium
from station.browsers import Page, populated, send
from station.conftest import ServerFactory, StationFactory
from station.servers import LINE, Server

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]

#: Address of each page -> what is there once it is drawn.
PAGES = {
    "/": "#lines li",
    f"/line/{LINE}": "#strip li",
    "/line/empty": "#verdict.none .word",
    "/history": "#list a[data-part]",
    f"/charts?line={LINE}": "#charts svg.chart",
    f"/teach?line={LINE}": "#upload",
    "/settings": "#lines form",
    "/login": "#form",
    "/first#secret": "#form",
}
_AXE = Path(os.environ.get("AXE_CORE") or Path(__file__).parents[2] / "node_modules/axe-core/axe.min.js")
_RUN = """
const done = arguments[0];
axe.run(document, { resultTypes: ["violations"] }).then((result) => done(result.violations
  .filter((found) => ["serious", "critical"].includes(found.impact))
  .map((found) => [found.id, ...found.nodes.map((node) => node.html.slice(0, 200))])));
"""


@pytest.fixture(scope="module")
def running(station_folder: StationFactory, server: ServerFactory) -> Server:
    started = populated(station_folder(), server)
    with started.client("admin") as client:
        assert client.post("/api/lines", json={"name": "empty"}).status_code == 201
        (id,) = send(started, bad=True, seed=810)
        assert client.post(f"/api/inspections/{id}/reviews", json={"verdict": "ok", "comment": "dust"}).status_code == 201
    return started


@pytest.fixture(scope="module")
def page(running: Server) -> Iterator[Page]:
    with chromium() as browser:
        page = Page(browser, running)
        page.log_in("anna")
        yield page


@pytest.fixture(scope="module")
def axe() -> str:
    if not _AXE.is_file():
        pytest.skip("axe-core is not here: npm install --no-save axe-core, or AXE_CORE=…/axe.min.js")
    return _AXE.read_text("utf-8")


def visit(page: Page, path: str) -> None:
    page.open(path)
    page.until(lambda: page.at(PAGES[path]).is_displayed())


def findings(page: Page, axe: str) -> object:
    page.run(axe)
    return page.browser.execute_async_script(_RUN)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Page, axe: str, theme: str) -> None:
    page.browser.set_script_timeout(60)
    page.open("/login")
    page.run("localStorage.setItem('offnominal-theme', arguments[0])", theme)
    for path in PAGES:
        visit(page, path)
        assert page.run("return document.documentElement.dataset.theme") == theme
        assert findings(page, axe) == [], path
    visit(page, "/history")
    page.at("a[data-part]").click()
    page.until(lambda: page.all(".review-form"))
    assert findings(page, axe) == []
    page.open_line()
    page.press("\ue014")  # the part before
    page.until(lambda: page.all(".newest"))
    assert findings(page, axe) == []


def test_axe_finds_what_is_wrong(page: Page, axe: str) -> None:
    visit(page, "/login")
    page.run(
        "document.querySelector('[name=password]').closest('label').replaceWith(document.querySelector('[name=password]'))"
    )
    assert "label" in str(findings(page, axe))


def test_pages_fit_a_phone(page: Page) -> None:
    page.resize(390, 844, phone=True)
    try:
        for path in PAGES:
            visit(page, path)
            assert page.run("return document.documentElement.scrollWidth") <= 390, path
        visit(page, "/history")
        page.at("a[data-part]").click()
        page.until(lambda: page.all(".review-form"))
        assert page.run("return document.querySelector('.viewer').scrollWidth") <= 390
        stage, facts = page.at("#stage").rect, page.at("#viewer-facts").rect
        assert stage["height"] > 200
        assert facts["y"] >= stage["y"] + stage["height"]
    finally:
        page.resize(1360, 900)


@pytest.mark.parametrize(
    ("width", "height", "phone"), [(390, 844, True), (1024, 768, False), (1360, 900, False), (1920, 1080, False)]
)
def test_the_operators_page_is_made_for_fingers_and_distance(page: Page, width: int, height: int, phone: bool) -> None:
    page.resize(width, height, phone=phone)
    try:
        visit(page, f"/line/{LINE}")
        small = page.run(
            "return [...document.querySelectorAll('main button, main input, header a, header button')]"
            ".filter((e) => e.checkVisibility() && e.closest('label, button, a').getBoundingClientRect().height < 47.5)"
            ".map((e) => e.outerHTML)"
        )
        assert small == []
        word = page.at("#verdict .word").rect["height"]
        assert word >= (90 if height >= 900 or phone else 70)  # pixels; 70 on a screen of 24 inches are 2 cm
        hidden = page.run("const e = document.querySelector('main'); return e.scrollHeight - e.clientHeight")
        assert phone or hidden <= 1  # all on one screen
    finally:
        page.resize(1360, 900)
