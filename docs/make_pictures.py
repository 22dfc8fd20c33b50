"""Make the pictures of the tutorial from the solar cells of the demo: `make docs-pictures`.

Needs the extra `demo`, selenium, and Debian's chromium with chromium-driver. The cells are from elpv-dataset (Buerhop-Lutz et
al. 2018, Deitsch et al. 2019), CC BY-NC-SA 4.0; pictures of them have the same licence.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

PICTURES = Path(__file__).parent / "pictures"
PLOTS = ("scores", "calibration")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("demo-out"), help="folder of the demo; existing files are used again")
    work = parser.parse_args().work
    model, cells, judged = work / "cells.safetensors", work / "cells.csv", work / "judged"
    if not model.is_file():
        _offnominal("demo", "--out", work)
    if not (judged / "plots" / "scores.png").is_file():
        _offnominal("evaluate", model, cells, "--out", judged, "--plots", judged / "plots")
    _offnominal("info", model, "--plots", work / "about")
    PICTURES.mkdir(exist_ok=True)
    for path in [judged / "plots" / f"{name}.png" for name in PLOTS] + [work / "about" / "radius-1.png"]:
        _smaller(Image.open(path), 800).convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(
            PICTURES / path.name.replace("-1", ""), optimize=True
        )
    _smaller(_viewer(judged / "report.html"), 1200).convert("RGB").save(PICTURES / "viewer.jpg", quality=80, optimize=True)


def _offnominal(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "offnominal.cli", *map(str, words)], check=True)


def _viewer(page: Path) -> Image.Image:
    """Screenshot of the report: a detected cell of median score is open, with its leading region selected."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for word in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1300,880"):
        options.add_argument(f"--{word}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.get(page.resolve().as_uri())
        for box in driver.find_elements(By.CSS_SELECTOR, "[name=verdict]"):
            if box.get_attribute("value") != "found":
                box.click()
        Select(driver.find_element(By.ID, "sort")).select_by_value("high")
        cards = driver.find_elements(By.CSS_SELECTOR, ".card:not([hidden]) a")
        cards[len(cards) // 2].click()
        driver.find_element(By.ID, "region-0").click()
        WebDriverWait(driver, 10).until(lambda d: d.execute_script("return document.getElementById('full').complete"))
        return Image.open(io.BytesIO(driver.get_screenshot_as_png()))
    finally:
        driver.quit()


def _smaller(picture: Image.Image, width: int) -> Image.Image:
    return picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
