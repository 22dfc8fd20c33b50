"""Fixtures of the tests of pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from selenium.webdriver.remote.webdriver import WebDriver

from chromium import chromium
from conftest import texture
from offnominal import Detector
from offnominal.outputs.charts import evaluation_charts
from offnominal.outputs.report_writer import ReportWriter
from offnominal.types import Inspection, Region
from reports.pages import EVIDENCE, HOSTILE, log


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    with chromium(1360, 950) as driver:
        yield driver


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


@pytest.fixture(scope="module")
def inspected(detector: Detector, parts: Path) -> list[tuple[str, Inspection]]:
    paths = sorted((parts / "test").rglob("*.png"))
    return [(path.name, detector.inspect(path)) for path in paths]
