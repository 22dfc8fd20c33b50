"""The report in a headless Chromium: interaction, counts and accessibility.

Needs Debian's `chromium` and `chromium-driver`. If they are missing, the tests are skipped, or fail if CI is set.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import Select, WebDriverWait

from conftest import texture
from offnominal import Detector
from offnominal.comparison import compare, read_run, write_comparison
from offnominal.outputs.evaluations import write_evaluation
from offnominal.outputs.report_writer import ReportWriter
from offnominal.types import Inspection, Region
from reports.pages import CONTRAST, HOSTILE, NAMELESS, at, confusion, expected, log, visible

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]


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
    assert browser.execute_script(CONTRAST) == []
    assert browser.execute_script(NAMELESS) == []
    assert log(browser, "browser") == []


def test_a_large_image_is_shown_in_tiles(browser: WebDriver, detector: Detector, tmp_path: Path) -> None:
    """The viewer loads tiles of the pyramid, and zooms to a region."""
    size = 1500, 3600
    region = Region(box=(3000, 700, 3100, 760), area=6000, peak=9.0, peak_at=(3050, 730), p_value=0.01)
    flat = np.zeros(size, np.float32)
    inspection = Inspection("large.png", 9.0, 0.01, True, 3.0, flat, flat, regions=(region,))
    writer = ReportWriter(tmp_path, detector.model)
    writer.add(0, "large.png", inspection, texture(1, size))
    writer.write("Large", {}, [], [])
    pyramid = tmp_path / "report_files" / "00000-heat"
    assert sorted(path.name for path in pyramid.iterdir()) == ["10", "11", "12", "9"]
    assert len(list((pyramid / "12").iterdir())) == 3 * 8
    log(browser, "performance")
    browser.get("about:blank")
    browser.get((tmp_path / "report.html").as_uri())
    at(browser, ".card a").click()

    def tiles() -> set[str]:
        messages = [json.loads(entry["message"])["message"] for entry in log(browser, "performance")]
        requests = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return {url.split("report_files/")[1] for url in requests if "-heat/" in url or "-image/" in url}

    WebDriverWait(browser, 10).until(lambda page: page.find_elements(By.CSS_SELECTOR, "#deep .box"))
    WebDriverWait(browser, 10).until(lambda page: tiles())
    at(browser, "#regions button").click()
    seen: set[str] = set()

    def finest(page: WebDriver) -> bool:
        seen.update(tiles())
        return "00000-heat/12/5_1.jpg" in seen or "00000-heat/12/6_1.jpg" in seen

    WebDriverWait(browser, 10).until(finest)
    assert "chosen" in str(at(browser, "#deep .box").get_attribute("class"))
    assert log(browser, "browser") == []
