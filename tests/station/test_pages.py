"""The operator's page as an operator meets it: a real station, a real headless Chromium, one or two of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from time import sleep, time

import pytest
from selenium.webdriver.common.keys import Keys

from chromium import chromium
from offnominal.station import accounts
from offnominal.station.setup import COMMAND, Setup
from offnominal.station.station import Station
from station.browsers import Page, populated, reviews_of, send
from station.conftest import ServerFactory, StationFactory
from station.parts import inspected
from station.servers import LINE, PASSWORD, Postgres, Server

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning"), pytest.mark.slow]

#: Seconds between the answer of the station and the verdict on the page, and those in which a press counts for nobody.
PROMPT, SETTLE = 0.5, 0.6
#: Notes in the page when each part was first shown.
_WATCH = """
window.shownAt = {};
new MutationObserver(() => {
  const id = document.getElementById("verdict").dataset.part;
  window.shownAt[id] ??= [Date.now() / 1000, document.querySelector("#verdict .word").textContent];
}).observe(document.getElementById("verdict"), { childList: true, subtree: true, attributes: true });
"""


@pytest.fixture(scope="module")
def running(station_folder: StationFactory, server: ServerFactory) -> Server:
    return populated(station_folder(), server)


@pytest.fixture(scope="module")
def page(running: Server) -> Iterator[Page]:
    with chromium() as browser:
        page = Page(browser, running)
        page.log_in("olga")
        yield page


@pytest.fixture(scope="module")
def other(running: Server) -> Iterator[Page]:
    """The page of another operator."""
    with chromium() as browser:
        page = Page(browser, running)
        page.log_in("otto")
        yield page


def shows(page: Page, id: str) -> bool:
    return page.at("#verdict").get_attribute("data-part") == id


def test_a_link_makes_the_first_user(running: Server, page: Page) -> None:
    with Setup(running.home.root) as opened, opened.database.write() as session:
        secret = accounts.invite(session, "engineer", COMMAND)
    page.browser.delete_all_cookies()
    for attempt in range(2):
        page.open(f"/first#{secret}")
        page.at("[name=name]").send_keys(f"new{attempt}")
        for field in ("password", "again"):
            page.at(f"[name={field}]").send_keys(PASSWORD)
        page.at("#form button").click()
        if attempt == 0:
            page.until(lambda: page.path == "/")
            page.until_text("#user", "new0 engineer")
            assert secret not in str(page.run("return [location.href, document.referrer]"))
            page.at("#logout").click()
            page.until(lambda: page.path == "/login")
        else:
            page.until_text("#notice", "This link was used or has expired")
            assert page.path == f"/first#{secret}"


def test_login_returns_to_where_one_was_and_nowhere_else(running: Server, page: Page) -> None:
    page.browser.delete_all_cookies()
    page.open("/history?lot=A&verdict=ok")
    page.until(lambda: page.path.startswith("/login?next=") and page.at("[name=name]"))
    page.at("[name=name]").send_keys("olga")
    page.at("[name=password]").send_keys("wrong password\n")
    page.until_text("#notice", "The name or the password is wrong.")
    page.at("[name=password]").clear()
    page.at("[name=password]").send_keys(PASSWORD + "\n")
    page.until(lambda: page.path == "/history?lot=A&verdict=ok")
    for elsewhere in ("https://example.org/", "//example.org/", "javascript:alert(1)", "/\\example.org", "data:text/html,x"):
        page.browser.delete_all_cookies()
        page.open(f"/login?next={elsewhere}")
        page.at("[name=name]").send_keys("olga")
        page.at("[name=password]").send_keys(PASSWORD + "\n")
        page.until(lambda: page.text("#user").startswith("olga"))
        assert page.path == "/", elsewhere


def test_a_verdict_appears_at_once(running: Server, page: Page) -> None:
    page.open_line()
    page.complaints()  # what earlier tests left
    page.run(_WATCH)
    delays = []
    for index in range(6):
        bad = index % 2 == 1
        (id,) = send(running, bad=bad, seed=310 + index)
        answered = time()
        appeared, word = page.until(lambda id=id: page.run("return window.shownAt[arguments[0]]", id))
        assert word == ("NG" if bad else "OK")
        delays.append(appeared - answered)
    assert statistics.median(delays) < PROMPT, delays
    assert max(delays) < 4 * PROMPT, delays
    assert page.at("#verdict").get_attribute("class") == "verdict ng"
    assert page.at("#verdict .sign.ng polygon").is_displayed()
    assert "S-315" in page.text("#age")
    page.until_text("#announcement", "NG, S-315. Score")
    loaded = "return performance.getEntriesByType('resource').some((e) => e.name.endsWith(arguments[0] + '/heat'))"
    page.until(lambda: page.run(loaded, id))
    assert page.at("#stage image").get_attribute("href") == f"/api/inspections/{id}/heat"
    assert len(page.all("#stage rect")) >= 1
    page.at("[data-view=image]").click()
    assert str(page.at("#stage image").get_attribute("href")).endswith("/picture")
    assert page.complaints() == []


def test_counts_of_the_shift(running: Server, page: Page) -> None:
    page.open_line()
    page.at("#now").click()  # the start is rounded down to the minute
    page.until(lambda: "–" not in page.text("#counts"))
    with running.client("viewer") as client:
        since = page.run("return new Date(document.getElementById('since').value).toISOString()")
        before = client.get(f"/api/lines/{LINE}/counts", params={"since": since}).json()
        send(running, 2, seed=320)
        send(running, 1, bad=True, seed=322)
        page.until(lambda: page.text("#counts .ok dd") == str(before["ok"] + 2))
        page.until(lambda: page.text("#counts .ng dd").startswith(str(before["ng"] + 1)))
        assert client.get(f"/api/lines/{LINE}/counts", params={"since": since}).json()["ok"] == before["ok"] + 2


def test_reviews_by_button_and_key_are_seen_by_the_other_operator(running: Server, page: Page, other: Page) -> None:
    page.open_line()
    other.open_line()
    (id,) = send(running, bad=True, seed=330)
    page.until(lambda: shows(page, id))
    sleep(SETTLE)
    page.at("#fine").click()
    page.until_text("#reviews", "Reviewed: fine, by you")
    assert page.at("#fine").get_attribute("aria-pressed") == "true"
    other.until_text("#reviews", "Reviewed: fine, by olga")
    assert reviews_of(running, id) == [("olga", "ok")]
    other.press("b")
    page.until_text("#reviews", "Reviewed: bad, by otto")
    page.until_text("#reviews", "Before: fine, by you")
    assert page.at("#bad").get_attribute("aria-pressed") == "true"
    assert reviews_of(running, id) == [("olga", "ok"), ("otto", "ng")]
    page.until(lambda: "reviewed bad" in page.text("#strip li:first-child"))


def test_a_press_for_the_part_before_is_not_saved(running: Server, page: Page) -> None:
    page.open_line()
    script = (
        "new MutationObserver((_, self) => { self.disconnect(); document.getElementById('bad').click(); })"
        ".observe(document.getElementById('verdict'), { childList: true })"
    )
    page.run(script)  # presses in the moment in which the next part appears
    (id,) = send(running, seed=335)
    page.until_text("#reviews", "nothing was saved")
    assert reviews_of(running, id) == []
    sleep(SETTLE)
    page.press("b")
    page.until_text("#reviews", "Reviewed: bad, by you")
    assert reviews_of(running, id) == [("olga", "ng")]


def test_walks_through_the_last_twenty_by_keys(running: Server, page: Page) -> None:
    sent = send(running, 22, seed=340)
    page.open_line()
    assert len(page.all("#strip li")) == 20
    assert shows(page, sent[-1])
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert shows(page, sent[-2])
    assert "earlier" in str(page.at("#verdict").get_attribute("class"))
    (newest,) = send(running, bad=True, seed=370)
    page.until_text(".newest", "NG, S-370")  # the part that is looked at stays
    assert shows(page, sent[-2])
    page.press("F")
    page.until_text("#reviews", "Reviewed: fine, by you")
    assert reviews_of(running, sent[-2]) == [("olga", "ok")]
    assert reviews_of(running, newest) == []
    page.press(Keys.ESCAPE)
    page.until(lambda: shows(page, newest))
    assert page.all(".newest") == []
    page.press(*[Keys.ARROW_RIGHT] * 30)
    assert shows(page, sent[-19])  # the oldest of the twenty


def test_everything_is_reached_by_keyboard(running: Server, page: Page) -> None:
    (id,) = send(running, seed=380)
    page.open_line()
    page.press(Keys.TAB)
    assert page.browser.switch_to.active_element.text == "Skip to the content"
    reached = set()
    for _ in range(40):
        page.press(Keys.TAB)
        element = page.browser.switch_to.active_element
        if element.tag_name == "body":
            break  # once around
        name = str(element.get_attribute("id") or element.text)
        seen = page.run("return getComputedStyle(document.activeElement).outlineStyle") != "none"
        assert seen or name == "since"  # the calendar in a field of a date has an outline of its own
        reached.add(name)
        if name == "bad":
            page.press(Keys.ENTER)
    assert {"Lines", "History", "Charts", "logout", "theme", "fullscreen", "fine", "bad", "since", "now", "keys"} <= reached
    page.until_text("#reviews", "Reviewed: bad, by you")
    assert reviews_of(running, id) == [("olga", "ng")]
    page.at("#keys").click()
    page.at("body").send_keys("f")
    sleep(0.3)
    assert reviews_of(running, id) == [("olga", "ng")]  # the letters are switched off
    page.at("#keys").click()


def test_says_that_the_station_is_away_and_misses_nothing(running: Server, page: Page, other: Page) -> None:
    page.open_line()
    other.open_line()
    page.complaints()
    running.kill()
    for one in (page, other):
        one.until_text("#connection", "The station is not reachable. Reconnecting")
        assert "stale" in str(one.at("#board").get_attribute("class"))
    other.at("#fine").click()
    other.until_text("#reviews", "Not saved: The station is not reachable.")
    with Station(running.home.root) as station:  # judges while the pages cannot hear it
        missed = [inspected(station, 390 + index, bad=index == 1, serial=f"M-{index}")["id"] for index in range(4)]
    running.start()
    for one in (page, other):
        one.until(lambda one=one: one.text("#connection") == "")
        one.until(lambda one=one: shows(one, missed[-1]))
        newest = "return [...document.querySelectorAll('#strip li')].slice(0, 4).map((tile) => tile.dataset.part)"
        assert one.run(newest) == missed[::-1]
        assert "stale" not in str(one.at("#board").get_attribute("class"))
    (id,) = send(running, seed=400)
    page.until(lambda: shows(page, id))
    page.until(lambda: page.text("#problems") == "")


def test_shows_why_the_station_cannot_inspect(station_folder: StationFactory, server: ServerFactory, page: Page) -> None:
    home = station_folder(config="[keep]\nreserve_gigabytes = 1e9\n")
    home.add_user("olga", "operator")
    with server(home, ready=False) as full:
        other = Page(page.browser, full)
        other.log_in("olga")
        other.until_text("#problems", "The disk is full")
        other.open(f"/line/{LINE}")
        other.until_text("#verdict", "No part yet")
        other.until_text("#problems", "The disk is full")


def test_shows_that_the_database_is_away_and_goes_on(
    station_folder: StationFactory, server: ServerFactory, postgres: Postgres, page: Page
) -> None:
    home = station_folder(database=postgres.new_database())
    home.add_user("olga", "operator")
    with server(home) as running:
        page = Page(page.browser, running)
        page.log_in("olga")
        (first,) = send(running, seed=410)
        page.open_line()
        page.until(lambda: shows(page, first))
        postgres.stop()
        try:
            page.until_text("#problems", "database")
            page.at("#fine").click()
            page.until_text("#reviews", "Not saved:")
        finally:
            postgres.start()
        page.until(lambda: page.text("#problems") == "")
        (second,) = send(running, bad=True, seed=411)
        page.until(lambda: shows(page, second))
        assert reviews_of(running, first) == []


def test_a_viewer_looks_only(page: Page) -> None:
    page.log_in("vera")
    page.open_line()
    assert not page.at("#fine").is_enabled()
    page.press("b")
    assert "You are viewer; reviews need the role operator." in page.text("#reviews")
    assert [link.text for link in page.all("nav a") if link.is_displayed()] == ["Lines", "History", "Charts"]
    for path, role in (("/teach", "engineer"), ("/settings", "admin")):
        page.open(path)
        page.until_text("#notice", f"You are viewer; this page needs the role {role}.")
    page.log_in("olga")
