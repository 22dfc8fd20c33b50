"""Accuracy floors on real images: the measured metrics less a margin for other processors. They are not goals."""

from __future__ import annotations

import pytest

from conftest import REAL_DATA
from offnominal import Detector

pytestmark = pytest.mark.realdata


@pytest.mark.parametrize(
    ("name", "image", "pixel", "precision"),
    [("aws_cookies", 0.99, 0.975, 0.46), ("mvtec_leather_mini", 0.99, 0.99, 0.65), ("magnetic_tile", 0.935, 0.77, 0.31)],
)
def test_metrics_are_above_the_floors(name: str, image: float, pixel: float, precision: float) -> None:
    detector = Detector().fit(REAL_DATA / name)
    figures = detector.evaluate(REAL_DATA / name).figures
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


def test_suppressing_leakage_improves_pixel_metrics_and_keeps_image_metrics() -> None:
    data = REAL_DATA / "mvtec_leather_mini"
    without, suppressed = (Detector(halo=halo).fit(data).evaluate(data).figures for halo in (0.0, 2.0))
    assert without["image_auroc"] == suppressed["image_auroc"]
    assert without["detection_rate"] == suppressed["detection_rate"]
    assert without["pixel_ap"] is not None
    assert suppressed["pixel_ap"] is not None
    assert suppressed["pixel_ap"] > without["pixel_ap"] + 0.1
