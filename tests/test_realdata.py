"""Accuracy floors on real images. They are what was measured less a margin for other processors, not goals."""

from __future__ import annotations

import pytest

from conftest import REAL_DATA
from offnominal import Detector

pytestmark = pytest.mark.realdata


@pytest.mark.parametrize(
    ("name", "image", "pixel", "precision"),
    [("aws_cookies", 0.99, 0.975, 0.46), ("mvtec_leather_mini", 0.99, 0.99, 0.65), ("magnetic_tile", 0.935, 0.77, 0.31)],
)
def test_floors(name: str, image: float, pixel: float, precision: float) -> None:
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


def test_with_leakage_suppressed_defects_are_outlined_better_and_scored_alike() -> None:
    data = REAL_DATA / "mvtec_leather_mini"
    before, after = (Detector(halo=halo).fit(data).evaluate(data).figures for halo in (0.0, 2.0))
    assert before["image_auroc"] == after["image_auroc"]
    assert before["detection_rate"] == after["detection_rate"]
    assert before["pixel_ap"] is not None
    assert after["pixel_ap"] is not None
    assert after["pixel_ap"] > before["pixel_ap"] + 0.1
