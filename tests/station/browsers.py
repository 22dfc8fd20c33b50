"""Browsers that visit the pages of a station, and what they see there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from station.calls import post
from station.servers import LINE, PASSWORD, Server, StationHome, image_bytes

#: Seconds that a page may take on a busy machine.
WAIT = 30.0


def populated(home: StationHome, start: Callable[[StationHome], Server]) -> Server:
    """A server of a station with a user of each role and some parts: `S-500` to `S-502` passed, `S-503` did not."""
    for name, role in (("anna", "admin"), ("emil", "engineer"), ("olga", "operator"), ("otto", "operator"), ("vera", "viewer")):
        home.add_user(name, role)
    server = start(home)
    send(server, 3)
    send(server, bad=True, seed=503)
    return server


def send(server: Server, number: int = 1, *, bad: bool = False, seed: int = 500, **fields: str) -> list[str]:
    """Send parts to the line `parts`, with the serial S-SEED; return their identifiers, oldest first."""
    ids = []
    with server.client() as client:
        for index in range(seed, seed + number):
            answer = post(client, LINE, image_bytes(index, bad=bad), **{"serial": f"S-{index}", "lot": "A", **fields})
            assert answer.status_code == 201, answer.text
            ids.append(str(answer.json()["id"]))
    return ids


def reviews_of(server: Server, id: str) -> list[tuple[str, str]]:
    """Who reviewed a part, and how."""
    with server.client("viewer") as client:
        return [(review["by"], review["verdict"]) for review in client.get(f"/api/inspections/{id}").json()["reviews"]]


class Page:
    """A browser at a station."""

    def __init__(self, browser: WebDriver, server: Server) -> None:
        self.browser, self.server = browser, server

    def log_in(self, name: str) -> None:
        """Log in by the page, as another user than before."""
        self.browser.get(f"{self.server.url}/healthz")
        self.browser.delete_all_cookies()
        self.open("/login")
        self.at("[name=name]").send_keys(name)
        self.at("[name=password]").send_keys(PASSWORD + "\n")
        self.until(lambda: self.path == "/")

    def open(self, path: str) -> None:
        """Load an address anew, even if only what follows `#` differs."""
        self.browser.get("about:blank")
        self.browser.get(self.server.url + path)

    def open_line(self, line: str = LINE) -> None:
        """Open the operator's page and wait for its last part."""
        self.open(f"/line/{line}")
        self.until(lambda: self.at("#board").is_displayed())

    @property
    def path(self) -> str:
        """Path, query and fragment of the address."""
        return self.browser.current_url.removeprefix(self.server.url)

    def at(self, selector: str) -> WebElement:
        """The first element."""
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        """All elements."""
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """The text of the first element, also of a hidden one."""
        return str(self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector))

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements."""
        script = "return [...document.querySelectorAll(arguments[0])].map((element) => element.textContent)"
        return [str(text) for text in self.run(script, selector)]

    def run(self, script: str, *arguments: object) -> Any:
        """The value of a script."""
        return self.browser.execute_script(script, *arguments)

    def press(self, *keys: str) -> None:
        """Press keys where the focus is."""
        ActionChains(self.browser).send_keys(*keys).perform()

    def until(self, met: Any, seconds: float = WAIT) -> Any:
        """Wait until a condition is met; elements may come and go meanwhile."""
        wait = WebDriverWait(self.browser, seconds, 0.02, ignored_exceptions=[Exception])
        return wait.until(lambda _: met())

    def until_text(self, selector: str, part: str) -> None:
        """Wait until an element has a text."""
        try:
            self.until(lambda: part in self.text(selector))
        except Exception as error:
            raise AssertionError(f"{selector}: {self.text(selector)!r} never had {part!r}") from error

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        """Change the size of the screen."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.command("Emulation.setDeviceMetricsOverride", size)
        self.command("Emulation.setTouchEmulationEnabled", {"enabled": phone})

    def command(self, name: str, values: dict[str, Any]) -> Any:
        """A command of Chromium's protocol."""
        assert isinstance(self.browser, webdriver.Chrome)
        return self.browser.execute_cdp_cmd(name, values)

    def complaints(self) -> list[str]:
        """What the browser complained about since the last call."""
        assert isinstance(self.browser, webdriver.Chrome)
        entries = self.browser.get_log("browser")  # type: ignore[no-untyped-call]
        return [str(entry["message"]) for entry in entries if entry["level"] == "SEVERE"]
