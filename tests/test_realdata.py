"""Accuracy floors on real images. They are what was measured less a margin for other processors, not goals."""

from __future__ import annotations

import pytest

from conftest import REAL_DATA
from offnominal import Detector

pytestmark = pytest.mark.realdata


@pytest.mark.parametrize(
    ("name", "image", "pixel"),
    [("aws_cookies", 0.99, 0.97), ("mvtec_leather_mini", 0.99, 0.99), ("magnetic_tile", 0.955, 0.78)],
)
def test_floors(name: str, image: float, pixel: float) -> None:
    detector = Detector().fit(REAL_DATA / name)
    figures = detector.evaluate(REAL_DATA / name).figures
    assert figures["image_auroc"] is not None
    assert figures["pixel_auroc"] is not None
    assert figures["image_auroc"] >= image
    assert figures["pixel_auroc"] >= pixel
    rate, count = detector.model.calibration.rate, figures["n_good"]
    assert figures["false_alarm_rate"] is not None
    assert count is not None
    assert figures["false_alarm_rate"] <= rate + 4 * (rate * (1 - rate) / count) ** 0.5
