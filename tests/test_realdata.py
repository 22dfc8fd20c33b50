"""Accuracy floors on real images: the measured metrics less a margin for other processors. They are not goals."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from conftest import REAL_DATA
from offnominal import Detector
from offnominal.datasets import labelled_images, normal_images

pytestmark = pytest.mark.realdata


@pytest.mark.parametrize(
    ("name", "image", "pixel", "precision"),
    [("aws_cookies", 0.99, 0.975, 0.46), ("mvtec_leather_mini", 0.99, 0.99, 0.65), ("magnetic_tile", 0.87, 0.72, 0.28)],
)
def test_metrics_are_above_the_floors(name: str, image: float, pixel: float, precision: float, tmp_path: Path) -> None:
    data = REAL_DATA / name if name != "magnetic_tile" else every_fourth(REAL_DATA / name, tmp_path / "tiles.csv")
    detector = Detector().fit(data)
    figures = detector.evaluate(data).figures
    assert figures["image_auroc"] is not None
    assert figures["pixel_auroc"] is not None
    assert figures["image_auroc"] >= image
    assert figures["pixel_auroc"] >= pixel
    assert figures["pixel_ap"] is not None
    assert figures["pixel_ap"] >= precision
    rate, count = detector.model.calibration.rate, figures["n_good"]
    assert figures["false_alarm_rate"] is not None
    assert count is not None
    assert figures["false_alarm_rate"] <= rate + 4 * (rate * (1 - rate) / count) ** 0.5


def every_fourth(root: Path, manifest: Path) -> Path:
    """Write a manifest of every fourth image of a large set."""
    rows: list[tuple[object, ...]] = [(item.path, "train", item.label, "") for item in normal_images(root)[::4]]
    rows += [(item.path, "test", item.label, item.mask or "") for item in labelled_images(root)[::4]]
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "split", "label", "mask"), *rows])
    return manifest


def test_suppressing_leakage_improves_pixel_metrics_and_keeps_image_metrics() -> None:
    data = REAL_DATA / "mvtec_leather_mini"
    without, suppressed = (Detector(halo=halo).fit(data).evaluate(data).figures for halo in (0.0, 2.0))
    assert without["image_auroc"] == suppressed["image_auroc"]
    assert without["detection_rate"] == suppressed["detection_rate"]
    assert without["pixel_ap"] is not None
    assert suppressed["pixel_ap"] is not None
    assert suppressed["pixel_ap"] > without["pixel_ap"] + 0.1
