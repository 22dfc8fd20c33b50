"""Make the pictures of a station from the solar cells of the demo: `make docs-pictures`.

A station inspects 240 cells in six lots. A person reviews what it flagged and what it missed, and proposes the false alarms for
learning. The pictures show the pages as that person sees them.

Needs the extras `demo` and `serve`, selenium, and Debian's chromium with chromium-driver. The cells are from elpv-dataset
(Buerhop-Lutz et al. 2018, Deitsch et al. 2019), CC BY-NC-SA 4.0; pictures of them have the same licence.
"""

from __future__ import annotations

import argparse
import csv
import io
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import httpx
import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from offnominal.client import Client
from offnominal.demo import write_manifest
from offnominal.observer import Observer
from offnominal.station import accounts, setup
from offnominal.station.demo import LINE, prepare

PICTURES = Path(__file__).parent / "pictures"
LOTS, LOT, DEFECTIVE = 6, 40, 0.12
#: The person, and seconds that a page or a candidate may take.
NAME, PASSWORD, PATIENCE = "anna", "a cell in the sun", 300.0
#: Width of the pictures in pixels.
WIDTH = 1200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("build/station-pictures"), help="folder of the station; it is replaced"
    )
    parser.add_argument(
        "--model", type=Path, default=Path("demo-out/cells.safetensors"), help="model; fitted if it is not there"
    )
    given = parser.parse_args()
    shutil.rmtree(given.work, ignore_errors=True)
    prepare(given.work, Observer(), given.model if given.model.is_file() else None)
    with setup.Setup(given.work) as opened, opened.database.write() as session:
        accounts.add_user(session, NAME, "admin", PASSWORD, "docs")
        token = accounts.add_token(session, NAME, "admin", "docs")
    http = httpx.Client(trust_env=False, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE)
    with _server(given.work) as url, Client(url, token, patience=PATIENCE, http=http) as client:
        truth = _inspect(client)
        _teach(http, url, _review(client, truth))
        with _browser() as driver:
            for name, picture in _pages(driver, url):
                PICTURES.mkdir(exist_ok=True)
                height = round(picture.height * WIDTH / picture.width)
                picture.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS).save(
                    PICTURES / f"station-{name}.jpg", quality=80, optimize=True
                )


def _inspect(client: Client) -> dict[str, bool]:
    """Send the cells, lot by lot; the last one is an NG. Return serial -> whether the cell is defective."""
    with tempfile.TemporaryDirectory() as scratch:
        write_manifest(Path(scratch) / "cells.csv")
        with (Path(scratch) / "cells.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    rng, truth = np.random.default_rng(0), dict[str, bool]()
    paths = {kind: [row["path"] for row in rows if (row["label"] == "defective") == kind] for kind in (False, True)}
    for images in paths.values():
        rng.shuffle(images)
    number, verdict = 0, "ok"
    while number < LOTS * LOT or verdict != "ng":
        defective = bool(rng.random() < DEFECTIVE) if number < LOTS * LOT else True
        serial = f"C{number:05d}"
        lot = f"2026-48-{min(number // LOT, LOTS - 1) + 1}"
        verdict = client.inspect(LINE, paths[defective].pop(), serial=serial, lot=lot).verdict
        truth[serial], number = defective, number + 1
    return truth


def _review(client: Client, truth: dict[str, bool]) -> list[str]:
    """Review what was flagged and what was missed; return the identifiers of the false alarms."""
    false_alarms = []
    for part in list(client.inspections(LINE)):
        defective, flagged = truth[part.serial or ""], part.verdict == "ng"
        if defective:
            client.review(part.id, "ng", defect_class="crack", comment="" if flagged else "missed")
        elif flagged:
            client.review(part.id, "ok", comment="a good cell")
            false_alarms.append(part.id)
    return false_alarms


def _teach(http: httpx.Client, url: str, parts: list[str]) -> None:
    """Propose parts for learning and wait for the new version."""
    made = http.post(f"{url}/api/lines/{LINE}/candidates", json={"inspections": parts}).raise_for_status()
    candidate = f"{url}/api/candidates/{made.json()['id']}"
    _until(lambda: http.get(candidate).raise_for_status().json()["state"] == "ready")


def _pages(driver: webdriver.Chrome, url: str) -> Iterator[tuple[str, Image.Image]]:
    """Name and screenshot of each page."""
    wait = WebDriverWait(driver, PATIENCE)

    def shown(path: str, ready: str) -> Image.Image:
        driver.get(url + path)
        wait.until(lambda _: driver.execute_script(f"return Boolean({ready})"))
        loaded = (  # images further down are loaded when they come into view
            "return [...document.images].every((image) => image.complete || image.getBoundingClientRect().top > innerHeight)"
        )
        wait.until(lambda _: driver.execute_script(loaded))
        sleep(0.5)  # transitions
        return Image.open(io.BytesIO(driver.get_screenshot_as_png()))

    driver.get(f"{url}/login")
    driver.find_element(By.NAME, "name").send_keys(NAME)
    driver.find_element(By.NAME, "password").send_keys(PASSWORD + "\n")
    wait.until(lambda _: not driver.current_url.endswith("/login"))
    yield "line", shown(f"/line/{LINE}", "document.querySelectorAll('#strip img').length > 5 && !board.hidden")
    yield "history", shown("/history", "document.querySelectorAll('#list img').length > 5")
    yield "charts", shown(f"/charts?line={LINE}&by=lot", "document.querySelectorAll('#charts svg').length > 1")
    yield "teach", shown("/teach", "!candidate.hidden && candidate.querySelector('img')")


@contextmanager
def _server(root: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "offnominal.cli", "serve", "--station", str(root), "--port", str(port)]
    process, url = subprocess.Popen(command), f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/readyz", trust_env=False).is_success
        except httpx.TransportError:
            return False

    try:
        _until(ready)
        yield url
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for word in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1360,940"):
        options.add_argument(f"--{word}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def _until(condition: Callable[[], bool]) -> None:
    end = monotonic() + PATIENCE
    while not condition():
        if monotonic() > end:
            raise TimeoutError("the station is not ready")
        sleep(0.2)


if __name__ == "__main__":
    main()
