"""History, charts, teaching and settings in a real browser, and parts whose names are scripts."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from chromium import chromium
from station.browsers import Page, populated, reviews_of, send
from station.calls import post
from station.conftest import ServerFactory, StationFactory
from station.servers import LINE, PASSWORD, Server, image_bytes

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning"), pytest.mark.slow]

HOSTILE = '<script>window.stolen=1</script><img src=x onerror="window.stolen=2">\'&é漢'


@pytest.fixture(scope="module")
def running(station_folder: StationFactory, server: ServerFactory) -> Server:
    started = populated(station_folder(), server)
    send(started, 1, seed=510, lot="B")
    return started


@pytest.fixture(scope="module")
def page(running: Server) -> Iterator[Page]:
    with chromium() as browser:
        page = Page(browser, running)
        page.log_in("anna")
        yield page


def listed(page: Page) -> list[str]:
    return page.texts("#list a[data-part] .name") if page.all("#list .gallery") else page.texts("#list a[data-part]")


def choose(page: Page, name: str, value: str) -> None:
    Select(page.at(f"#filters [name={name}]")).select_by_value(value)


def test_filters_are_in_the_address(running: Server, page: Page) -> None:
    page.open("/history")
    page.until(lambda: len(listed(page)) == 5)
    assert listed(page)[0] == "S-510"
    choose(page, "verdict", "ng")
    page.until(lambda: listed(page) == ["S-503"])
    assert page.path == "/history?verdict=ng"
    choose(page, "verdict", "")
    page.at("[name=lot]").send_keys("B\n")
    page.until(lambda: listed(page) == ["S-510"])
    assert page.path == "/history?lot=B"
    page.at("[name=lot]").clear()
    page.at("[name=serial]").send_keys("S-501\n")
    page.until(lambda: listed(page) == ["S-501"])
    page.at("#filters button[type=reset]").click()
    page.until(lambda: len(listed(page)) == 5)
    page.open(f"/history?line={LINE}&serial=nothing")
    page.until(lambda: page.at("#empty").is_displayed())
    assert Select(page.at("[name=line]")).first_selected_option.text == LINE
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    page.open(f"/history?since={now}")
    page.until(lambda: page.at("#empty").is_displayed())
    page.open(f"/history?until={now}")
    page.until(lambda: len(listed(page)) == 5)


def test_table_grid_and_pages(running: Server, page: Page) -> None:
    send(running, 60, seed=520, lot="many")
    page.open("/history?lot=many")
    page.until(lambda: len(listed(page)) == 60)
    assert not page.at("#more").is_displayed()
    page.open("/history")
    page.until_text("#shown", "60 parts shown; there are more")
    page.at("[data-layout=grid]").click()
    assert len(page.all("#list .gallery .card")) == 60
    page.at("#more").click()
    page.until(lambda: len(listed(page)) == 65)
    assert len(set(listed(page))) == 65
    assert page.browser.switch_to.active_element.get_attribute("data-part") is not None  # the focus is on the first new one
    page.at("[data-layout=table]").click()
    assert len(page.all("#list tbody tr")) == 65


def test_a_part_in_the_dialog(running: Server, page: Page) -> None:
    (id,) = send(running, bad=True, seed=600, lot="dialog")
    send(running, 2, seed=601, lot="dialog")
    page.open("/history?lot=dialog")
    page.until(lambda: len(listed(page)) == 3)
    page.at(f'a[data-part="{id}"]').send_keys(Keys.ENTER)
    page.until_text("#viewer-name", "S-600")
    assert page.path.endswith(f"#{id}")
    page.until_text("#viewer-facts", "version 1")
    boxes = page.all("#stage rect")
    assert len(boxes) == len(page.all("#viewer-regions button")) >= 1
    page.at("#viewer-regions button").click()
    assert page.at("#stage rect").get_attribute("class") == "chosen"
    page.press("1")
    assert page.at("[data-view=image]").get_attribute("aria-pressed") == "true"
    page.until(lambda: str(page.at("#stage image").get_attribute("href")).endswith("/picture"))
    page.at(".receipt-place button").click()
    page.until(lambda: page.run("return document.querySelector('.receipt-place img')?.naturalWidth > 0"))
    page.press(Keys.ARROW_LEFT)
    page.until_text("#viewer-name", "S-601")
    page.press(Keys.ARROW_RIGHT)
    page.until_text("#viewer-name", "S-600")
    page.until(lambda: page.all(".review-form"))
    page.at(".review-form [value=ok]").click()
    page.at(".review-form [name=class]").send_keys("hair")
    page.at(".review-form textarea").send_keys("<b>a hair</b>")
    page.at(".review-form button").click()
    page.until_text(".reviews", "<b>a hair</b>")
    assert "hair by anna" in page.text(".reviews")
    assert reviews_of(running, id) == [("anna", "ok")]
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.at("#viewer").is_displayed())
    assert page.browser.switch_to.active_element.get_attribute("data-part") == id
    assert "reviewed OK" in page.text("#list tbody tr:last-child")
    page.open(f"/history#{id}")  # a link to a part
    page.until_text("#viewer-name", "S-600")


def test_exports_have_what_is_shown(running: Server, page: Page) -> None:
    page.open("/history?verdict=ng")
    page.until(lambda: page.at("#csv").is_displayed())
    names = listed(page)
    cookies = {cookie["name"]: cookie["value"] for cookie in page.browser.get_cookies()}
    with httpx.Client(cookies=cookies, trust_env=False, timeout=60) as client:
        sheet = client.get(urljoin(running.url, str(page.at("#csv").get_attribute("href"))))
        report = client.get(urljoin(running.url, str(page.at("#report").get_attribute("href"))))
    rows = sheet.text.splitlines()[1:]
    assert [row.split(",")[2] for row in rows] == names
    with zipfile.ZipFile(io.BytesIO(report.content)) as archive:
        assert all(name in archive.read("report.html").decode() for name in names)


def test_charts_show_the_figures_of_the_station(running: Server, page: Page) -> None:
    with running.client("viewer") as client:
        figures = client.get(f"/api/lines/{LINE}/statistics", params={"by": "lot"}).json()
    page.open(f"/charts?line={LINE}&by=lot")
    page.until(lambda: len(page.all("#charts svg.chart")) == 3)
    groups = figures["chart"]["groups"]
    assert len(page.all("#charts figure:first-child .chart > .dot title")) == len(groups)
    page.at("#charts figure:first-child summary").click()
    page.until(lambda: page.all("#charts figure:first-child tbody tr"))
    cells = [row.text.split() for row in page.all("#charts figure:first-child tbody tr")]
    assert [row[:3] for row in cells] == [[group["name"], str(group["n"]), str(group["ng"])] for group in groups]
    assert len(page.all("#charts figure:nth-child(2) .dot title")) == len(figures["scores"])
    assert figures["false_alarms"]["sentence"] in page.text("#charts figure:last-child")
    page.at("#charts figure:first-child tbody a").click()
    page.until(lambda: page.path == f"/history?line={LINE}&lot={groups[0]['name']}")
    page.open("/charts")
    page.until(lambda: len(page.all("#charts svg.chart")) == 3)
    choose(page, "by", "lot")
    page.until(lambda: "by=lot" in page.path)


def test_teaches_a_false_alarm_and_rolls_back(running: Server, page: Page) -> None:
    (wrong,) = send(running, bad=True, seed=700, lot="teach")
    (missed,) = send(running, seed=701, lot="teach")
    with running.client() as client:
        for id, verdict in ((wrong, "ok"), (missed, "ng")):
            assert client.post(f"/api/inspections/{id}/reviews", json={"verdict": verdict}).status_code == 201
    page.open(f"/teach?line={LINE}")
    page.until(lambda: page.all("#learn"))
    assert "S-701" in page.text("#missed")
    for box in page.all("#proposed input"):
        if box.is_selected() != (box.get_attribute("value") == wrong):
            box.click()
    assert page.text("#learn") == "Make a new version from 1 part"
    page.at("#learn").click()
    page.until(lambda: page.all("#activate"), 120)
    with running.client("engineer") as client:
        candidate = client.get(f"/api/lines/{LINE}/teach").json()["candidates"][0]
        result = client.get(f"/api/candidates/{candidate['id']}").json()["result"]
    tiles = page.texts("#candidate .tile b")
    assert tiles[1:3] == [str(result["changed"]), f"{result['wrong_before']} → {result['wrong_after']}"]
    assert len(page.all("#candidate .card")) == len(result["changes"]) >= 1
    assert result["promise"][1:] in page.text("#candidate")
    page.at("#activate").click()
    page.at("dialog .main").click()
    page.until_text("#notice", "Version 2 is active.")
    assert wrong not in str(page.run("return [...document.querySelectorAll('#proposed input')].map((box) => box.value)"))
    page.at("#rollback").click()
    page.press(Keys.ESCAPE)  # no
    assert "Version 2" in page.text("#notice")
    page.at("#rollback").click()
    page.at("dialog .main").click()
    page.until_text("#notice", "Version 1 is active again.")
    with running.client("viewer") as client:
        assert client.get(f"/api/lines/{LINE}").json()["model"]["number"] == 1


def test_a_file_that_is_no_model_is_refused_in_words(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "wrong.safetensors"
    file.write_bytes(b"no model")
    page.open(f"/teach?line={LINE}")
    page.until(lambda: page.all("#upload"))
    versions = len(page.all("#versions tbody tr"))
    page.at("#upload input[type=file]").send_keys(str(file))
    page.at("#upload button").click()
    page.until(lambda: page.all("#notice .alarm"))
    assert len(page.all("#versions tbody tr")) == versions


def test_settings(running: Server, page: Page) -> None:
    page.open("/settings")
    page.until(lambda: page.all("#users form"))
    page.at("#users [name=name]").send_keys("nora")
    page.at("#users [name=password]").send_keys(PASSWORD)
    page.at("#users form button").click()
    page.until_text("#notice", "User nora was added.")
    Select(page.at('[aria-label="Role of nora"]')).select_by_value("engineer")
    page.until_text("#notice", "nora is engineer now")
    page.at('[aria-label="Disable nora"]').click()
    page.until_text("#notice", "nora is disabled.")
    Select(page.at('[aria-label="Role of anna"]')).select_by_value("viewer")
    page.until_text("#notice", "is the last admin")
    page.at("#tokens [name=name]").send_keys("camera")
    page.at("#tokens form button").click()
    page.until(lambda: page.all("#secret"))
    headers = {"Authorization": f"Bearer {page.text('#secret')}"}
    assert httpx.get(f"{running.url}/api/me", headers=headers, trust_env=False).json()["name"] == "camera"
    page.at('[aria-label="Revoke camera"]').click()
    page.at("dialog .main").click()
    page.until_text("#notice", "Token camera was revoked.")
    assert httpx.get(f"{running.url}/api/me", headers=headers, trust_env=False).status_code == 401
    assert page.all("#secret") == []
    page.at("#lines [name=name]").send_keys("second")
    page.at("#lines form button").click()
    page.until_text("#notice", "Line second was created.")
    page.open_line("second")
    page.until_text("#verdict", "No part yet")


def test_names_that_are_scripts_are_text(running: Server, page: Page) -> None:
    page.open_line()
    with running.client() as client:
        named = post(client, LINE, image_bytes(800), serial=HOSTILE, lot=HOSTILE).json()
        filed = post(client, LINE, image_bytes(801, bad=True), name=HOSTILE.replace("/", "")).json()
        for part in (named, filed):
            body = {"verdict": "ok", "comment": HOSTILE, "class": HOSTILE[:60]}
            assert client.post(f"/api/inspections/{part['id']}/reviews", json=body).status_code == 201
    names = [HOSTILE, filed["image_name"]]
    assert all("<" in name for name in names)
    page.until(lambda: page.texts("#strip .name")[:2] == names[::-1])
    page.until_text("#reviews", HOSTILE)
    page.open("/history")
    page.until(lambda: listed(page)[:2] == names[::-1])
    page.open(f"/history#{named['id']}")
    page.until_text("#viewer-name", HOSTILE)
    page.until_text(".reviews", HOSTILE)
    page.open(f"/charts?line={LINE}&by=lot")
    page.until(lambda: page.all("#charts summary"))
    page.at("#charts summary").click()
    page.until(lambda: HOSTILE in page.texts("#charts tbody a"))
    page.open(f"/teach?line={LINE}")
    page.until(lambda: set(names) <= set(page.texts("#proposed .name")))
    page.open("/")
    page.until_text("#lines", names[1])
    for path in (
        "/line/%3Cimg%20src=x%20onerror=stolen=3%3E",
        "/history?lot=%3Cscript%3E&line=%3Cb%3E",
        "/login?next=%3Cscript%3E",
    ):
        page.open(path)
        page.until(lambda: page.run("return document.readyState") == "complete")
    assert page.run("return window.stolen ?? null") is None
    assert page.run("return document.querySelectorAll('main script, main img[src=x]').length") == 0
    refused = [text for text in page.complaints() if "Content Security Policy" in text]
    assert refused == []  # nothing even tried
