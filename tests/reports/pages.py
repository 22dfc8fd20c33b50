"""A report on the generated parts, and what a browser shows of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from offnominal.types import Evidence, Neighbour

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
#: Script: texts whose contrast with their background is too low (WCAG 2, level AA).
CONTRAST = """
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

#: Script: controls without a name for screen readers.
NAMELESS = """
return [...document.querySelectorAll("button, input, select, a[href], [tabindex='0']")]
  .filter((e) => !(e.getAttribute("aria-label") || e.querySelector("img[alt]") ||
                   (e.labels && e.labels.length) || e.textContent.trim()))
  .map((e) => e.outerHTML);
"""


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
