"""The report in a headless Chromium: interaction, counts and accessibility.

Needs Debian's `chromium` and `chromium-driver`. If they are missing, the tests are skipped, or fail if CI is set.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import Select, WebDriverWait

from conftest import texture
from offnominal import Detector
from offnominal.comparison import compare, read_run, write_comparison
from offnominal.outputs.charts import evaluation_charts
from offnominal.outputs.evaluations import write_evaluation
from offnominal.outputs.report_writer import ReportWriter
from offnominal.types import Evidence, Inspection, Neighbour, Region

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
HOSTILE = "test/<script>alert(1)</script>\"'&é漢.png"

EVIDENCE = Evidence(
    member="efficientnet-lite0@1.5",
    box=(40, 30, 48, 38),
    nearest=(
        Neighbour("train/good/<b>003</b>.png", (8, 16, 16, 24), 12.5, 8.375),
        Neighbour("train/good/007.png", (24, 16, 32, 24), 12.9, 8.5),
    ),
    layer_shares={"blocks.2": 0.75, "blocks.4": 0.25},
    channel_shares=((17, 0.2), (3, 0.1)),
    influence=((17, -0.5), (3, 0.25)),
    noise_std=0.125,
    response=0.5,
    p_value=0.0625,
    curve=((0.0, 12.0), (0.5, 9.0), (1.0, 7.0)),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    if CHROMIUM is None or DRIVER is None:
        reason = "no chromium or chromedriver here: apt-get install chromium chromium-driver"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "window-size=1360,950"):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def folder(detector: Detector, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on the generated parts. One name contains HTML, and the regions of one image have evidence."""
    folder = tmp_path_factory.mktemp("report")
    result = detector.evaluate(parts)
    page = ReportWriter(folder, detector.model)
    worst = max(result.images, key=lambda image: image.inspection.score)
    rows = []
    for index, image in enumerate(result.images):
        inspection = image.inspection
        if image is worst:
            regions = tuple(_with_evidence(region) for region in inspection.regions)
            inspection = replace(inspection, regions=regions)
        name = HOSTILE if image is worst else image.item.name
        page.add(index, name, inspection, texture(index), label=image.item.label, good=image.item.good, mask=image.mask)
        rows.append((name, image.item.good, inspection.score))
    charts = evaluation_charts(detector.model.calibration, result)
    page.write("Parts <b>&", {"Backbone": "<i>"}, ["A note & <u>"], [("gone.png", "is empty")], result.as_json(), charts[1:])
    (folder / "rows.json").write_text(json.dumps({"rows": rows, "threshold": detector.model.calibration.threshold}))
    return folder


def _with_evidence(region: Region) -> Region:
    return replace(region, evidence=EVIDENCE)


@pytest.fixture
def page(browser: WebDriver, folder: Path) -> WebDriver:
    for kind in ("browser", "performance"):
        log(browser, kind)  # discard the logs of earlier tests
    browser.get("about:blank")
    browser.get((folder / "report.html").as_uri())
    return browser


@pytest.fixture
def rows(folder: Path) -> list[tuple[str, bool, float]]:
    return [tuple(row) for row in json.loads((folder / "rows.json").read_text())["rows"]]


def log(browser: Any, kind: str) -> Any:
    """The log of Chromium since the last call. Other browsers do not have this method."""
    return browser.get_log(kind)


def at(page: WebDriver, selector: str) -> Any:
    return page.find_element(By.CSS_SELECTOR, selector)


def visible(page: WebDriver) -> list[str]:
    return [
        str(element.find_element(By.CSS_SELECTOR, ".name").get_attribute("textContent"))
        for element in page.find_elements(By.CSS_SELECTOR, ".card:not([hidden])")
    ]


def confusion(page: WebDriver) -> tuple[int, ...]:
    return tuple(int(at(page, f"#{name}").text) for name in ("tp", "fn", "fp", "tn"))


def expected(rows: list[tuple[str, bool, float]], threshold: float) -> tuple[int, ...]:
    good = np.array([good for _, good, _ in rows])
    flagged = np.array([score for _, _, score in rows]) > threshold
    return tuple(int(kind.sum()) for kind in (~good & flagged, ~good & ~flagged, good & flagged, good & ~flagged))


def test_the_page_opens_without_errors_or_network_requests(
    page: WebDriver, folder: Path, rows: list[tuple[str, bool, float]]
) -> None:
    assert at(page, "h1").text == "Parts <b>&"
    assert sorted(visible(page)) == sorted(name for name, _, _ in rows)
    assert HOSTILE in visible(page)
    at(page, ".card a").click()
    WebDriverWait(page, 5).until(lambda d: d.execute_script("return document.getElementById('full').naturalWidth") > 0)
    assert log(page, "browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in log(page, "performance")]
    urls = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url.split(":")[0] for url in urls} <= {"file", "data", "about"}
    assert all(url.startswith(folder.as_uri()) for url in urls if url.startswith("file:"))


def test_the_slider_counts_like_python(page: WebDriver, folder: Path, rows: list[tuple[str, bool, float]]) -> None:
    calibrated = json.loads((folder / "rows.json").read_text())["threshold"]
    assert confusion(page) == expected(rows, calibrated)
    assert not at(page, "#exploring").is_displayed()
    rule = at(page, '[data-chart="scores"] .follows').get_attribute("x1")
    scores = sorted(score for _, _, score in rows)
    for level in (scores[0] - 1, scores[3], (scores[5] + scores[6]) / 2, scores[-2], scores[-1]):
        box = at(page, "#level")
        box.clear()
        box.send_keys(repr(level))
        assert confusion(page) == expected(rows, level)
        tags = [tag.get_attribute("textContent") for tag in page.find_elements(By.CSS_SELECTOR, ".card .tag")]
        counts = tuple(tags.count(word) for word in ("found", "missed", "false alarm", "passed"))
        assert counts == expected(rows, level)
    slider = at(page, "#slider")
    before = confusion(page)
    for key in (Keys.HOME, *[Keys.PAGE_UP] * 3, *[Keys.ARROW_RIGHT] * 5):
        slider.send_keys(key)
    assert confusion(page) != before
    level = float(page.execute_script("return document.getElementById('level').value"))
    assert at(page, "#exploring").is_displayed()
    assert f"{level:.3f}" in at(page, "#exploring").text
    assert at(page, '[data-chart="scores"] .follows').get_attribute("x1") != rule
    at(page, "#back").click()
    assert confusion(page) == expected(rows, calibrated)
    assert not at(page, "#exploring").is_displayed()
    assert at(page, '[data-chart="scores"] .follows').get_attribute("x1") == rule


def test_filters_and_sorting(page: WebDriver, rows: list[tuple[str, bool, float]]) -> None:
    by_name = {name: score for name, _, score in rows}
    Select(at(page, "#class")).select_by_visible_text("good")
    assert sorted(visible(page)) == sorted(name for name, good, _ in rows if good)
    Select(at(page, "#class")).select_by_index(0)
    middle = float(np.median(list(by_name.values())))
    at(page, "#low").send_keys(repr(middle))
    assert sorted(visible(page)) == sorted(name for name, score in by_name.items() if score >= middle)
    at(page, "#text").send_keys("<SCRIPT>")
    assert visible(page) == [HOSTILE]
    at(page, "#text").send_keys("nothing like it")
    assert visible(page) == []
    assert at(page, "#empty").is_displayed()
    at(page, "#filters button[type=reset]").click()
    WebDriverWait(page, 5).until(lambda d: len(visible(d)) == len(rows))
    Select(at(page, "#sort")).select_by_value("low")
    assert [by_name[name] for name in visible(page)] == sorted(by_name.values())
    for box in page.find_elements(By.CSS_SELECTOR, "[name=verdict]"):
        if box.get_attribute("value") != "found":
            box.click()
    verdicts = {tag.text for tag in page.find_elements(By.CSS_SELECTOR, ".card:not([hidden]) .tag")}
    assert verdicts == {"found"}
    assert at(page, "#shown").text.startswith(f"{len(visible(page))} of {len(rows)}")


def test_the_keyboard_navigates_the_images(page: WebDriver) -> None:
    names = visible(page)
    first = at(page, ".card a")
    first.send_keys(Keys.ARROW_RIGHT)
    assert names[1] in page.switch_to.active_element.text
    page.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    page.switch_to.active_element.send_keys(Keys.ENTER)
    viewer = at(page, "#viewer")
    assert viewer.is_displayed()
    assert at(page, "#viewer-name").text == names[0]
    for key, expected_name in (
        (Keys.ARROW_RIGHT, 1),
        (Keys.ARROW_RIGHT, 2),
        (Keys.ARROW_LEFT, 1),
        (Keys.END, -1),
        (Keys.HOME, 0),
    ):
        ActionChains(page).send_keys(key).perform()
        assert at(page, "#viewer-name").text == names[expected_name]
    for key, kind in (("1", "image"), ("3", "influence"), ("2", "heat")):
        ActionChains(page).send_keys(key).perform()
        assert kind in at(page, "#full").get_attribute("src")
        assert at(page, f"[data-view={kind}]").get_attribute("aria-pressed") == "true"
    ActionChains(page).send_keys(Keys.ARROW_RIGHT).send_keys(Keys.ESCAPE).perform()
    assert not viewer.is_displayed()
    assert names[1] in page.switch_to.active_element.text  # the focus returns to the last image


def test_regions_and_receipts_link_to_each_other(page: WebDriver) -> None:
    at(page, "#text").send_keys("<script>")
    at(page, ".card:not([hidden]) a").click()
    button = at(page, "#region-0")
    assert "receipt" in button.text
    button.click()
    receipt = at(page, "#receipt-0")
    assert page.switch_to.active_element.get_attribute("id") == "receipt-title"
    text = receipt.text
    for part in ("8.4", "train/good/<b>003</b>.png", "12.50", "blocks.2", "75.0 %", "channel 17", "-0.500", "0.1250", "0.0625"):
        assert part in text
    own, good = receipt.find_elements(By.CSS_SELECTOR, ".crop")  # the model contains one of the two good patches
    assert (own.text, good.text) == ("this patch", "good: 8.5 SD away")
    for crop in (own, good):
        frame, mark = crop.find_element(By.TAG_NAME, "div").rect, crop.find_element(By.TAG_NAME, "i").rect
        assert abs(mark["x"] + mark["width"] / 2 - frame["x"] - frame["width"] / 2) < 2
        picture = crop.find_element(By.TAG_NAME, "img")
        WebDriverWait(picture, 5).until(lambda shown: shown.get_property("naturalWidth"))
        assert picture.rect["width"] > frame["width"]
    widths = [bar.get_attribute("style") for bar in receipt.find_elements(By.CSS_SELECTOR, ".meter i")]
    assert "width: 100%" in widths[0]
    assert "width: 33.3" in widths[1]
    assert at(page, "#boxes rect.chosen").get_attribute("x") is not None
    receipt.find_element(By.TAG_NAME, "button").click()
    assert page.switch_to.active_element.get_attribute("id") == "region-0"
    assert log(page, "browser") == []


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


_CONTRAST = """
const luminance = (rgb) => {
  const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const [r, g, b] = rgb.match(/[\\d.]+/g).slice(0, 3).map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (e) => {
  for (; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)$/.test(colour) && colour !== "transparent") return colour;
  }
  return "rgb(255, 255, 255)";
};
const poor = [];
for (const e of document.querySelectorAll("body *")) {
  if (!e.checkVisibility() || e.disabled || ![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
  const svg = e.closest("svg");
  const ink = svg ? getComputedStyle(e).fill : getComputedStyle(e).color;
  const [a, b] = [luminance(ink), luminance(ground(svg || e))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) poor.push([e.tagName, e.className.baseVal ?? e.className, e.textContent.slice(0, 30), ratio]);
}
return poor;
"""
_NAMELESS = """
return [...document.querySelectorAll("button, input, select, a[href], [tabindex='0']")]
  .filter((e) => !(e.getAttribute("aria-label") || e.querySelector("img[alt]") ||
                   (e.labels && e.labels.length) || e.textContent.trim()))
  .map((e) => e.outerHTML);
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_is_accessible(page: WebDriver, theme: str) -> None:
    if page.execute_script("return document.documentElement.dataset.theme") != theme:
        at(page, "#theme").click()
    at(page, "#level").send_keys("1")  # shows the note about the explored threshold
    assert page.execute_script(_CONTRAST) == []
    at(page, "#back").click()
    at(page, "#text").send_keys("<script>")
    at(page, ".card:not([hidden]) a").click()
    at(page, "#region-0").click()
    assert page.execute_script(_CONTRAST) == []
    assert page.execute_script(_NAMELESS) == []
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


def test_the_page_of_an_inspection(
    browser: WebDriver, detector: Detector, inspected: list[tuple[str, Inspection]], tmp_path: Path
) -> None:
    page = ReportWriter(tmp_path, detector.model, most=4)
    for index, (name, inspection) in enumerate(inspected):
        page.add(index, name, inspection, texture(index))
    page.write("Inspected", {}, [], [])
    log(browser, "browser")
    browser.get((tmp_path / "report.html").as_uri())
    flagged = sum(inspection.anomalous for _, inspection in inspected)
    assert (int(at(browser, "#flagged").text), int(at(browser, "#passed").text)) == (flagged, len(inspected) - flagged)
    highest = sorted(inspected, key=lambda pair: -pair[1].score)[:4]
    assert visible(browser) == [name for name, _ in highest]
    assert len(list((tmp_path / "report_files").iterdir())) == 4 * 3
    assert log(browser, "browser") == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_of_a_comparison(browser: WebDriver, detector: Detector, parts: Path, tmp_path: Path, theme: str) -> None:
    write_evaluation(detector.model, detector.evaluate(parts), tmp_path / "a", "A")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    scores = (tmp_path / "b" / "scores.csv").read_text()
    (tmp_path / "b" / "scores.csv").write_text(scores.replace(",1,,", ",0,,", 1))
    write_comparison(compare(read_run(tmp_path / "a"), read_run(tmp_path / "b")), tmp_path / "c")
    log(browser, "browser")
    browser.get((tmp_path / "c" / "compare.html").as_uri())
    if browser.execute_script("return document.documentElement.dataset.theme") != theme:
        at(browser, "#theme").click()
    assert len(browser.find_elements(By.CSS_SELECTOR, ".pairs li")) == 1
    assert browser.execute_script("return [...document.images].every((i) => i.alt && i.naturalWidth > 0)")
    assert browser.execute_script(_CONTRAST) == []
    assert browser.execute_script(_NAMELESS) == []
    assert log(browser, "browser") == []


@pytest.fixture(scope="module")
def inspected(detector: Detector, parts: Path) -> list[tuple[str, Inspection]]:
    paths = sorted((parts / "test").rglob("*.png"))
    return [(path.name, detector.inspect(path)) for path in paths]
