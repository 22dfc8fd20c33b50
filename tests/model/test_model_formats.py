"""Model files of released formats load.

A new format adds a file to `files/`. A file of an old format stays as long as the version policy requires.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from conftest import damaged, texture
from moved_parts import drawn
from offnominal import load

FILES = Path(__file__).parent / "files"


@pytest.mark.parametrize("name", ["model-format-9.safetensors"])
def test_stored_models_load_and_give_the_same_scores(name: str) -> None:
    detector = load(FILES / name)
    assert detector.model.calibration.threshold == pytest.approx(1.9576, abs=1e-3)
    assert detector.inspect(texture(50)).score == pytest.approx(0.595, abs=0.01)
    anomalous = detector.inspect(damaged(7)[0])
    assert anomalous.anomalous
    assert anomalous.score == pytest.approx(45.64, rel=0.01)


def test_a_stored_model_with_a_region_loads_and_gives_the_same_scores() -> None:
    detector = load(FILES / "model-format-10.safetensors")
    assert detector.model.region is not None
    assert detector.model.region.share == pytest.approx(0.7)
    assert detector.model.calibration.threshold == pytest.approx(2.4362, abs=1e-3)
    assert detector.inspect(texture(50)).score == pytest.approx(1.370, abs=0.01)
    assert detector.inspect(damaged(7)[0]).score == pytest.approx(61.15, rel=0.01)


def test_a_stored_model_with_an_alignment_loads_and_gives_the_same_scores() -> None:
    detector = load(FILES / "model-format-11.safetensors")
    assert detector.model.alignment is not None
    assert detector.model.alignment.kind == "rigid"
    assert detector.model.calibration.threshold == pytest.approx(3.3632, abs=1e-3)
    good, bad = (
        cv2.resize(image, (160, 120), interpolation=cv2.INTER_AREA) for image in (drawn(50), drawn(51, defective=True))
    )
    inspection = detector.inspect(good)
    assert inspection.score == pytest.approx(1.263, abs=0.05)
    assert inspection.pose is not None
    assert (inspection.pose.dx, inspection.pose.dy, inspection.pose.degrees) == pytest.approx((3.31, -0.94, -5.48), abs=0.1)
    assert detector.inspect(bad).anomalous


def test_a_stored_model_with_zones_and_tiles_loads_and_gives_the_same_scores() -> None:
    detector = load(FILES / "model-format-12.safetensors")
    assert [zone.name for zone in detector.model.gates.zones] == ["left"]
    assert detector.model.gates.gate.min_area == "4mm2"
    assert detector.model.members[0].geometry.tile == 256
    assert detector.model.calibration.threshold == pytest.approx(2.9217, abs=1e-3)
    good, bad = detector.inspect(texture(50)), detector.inspect(damaged(7)[0])
    assert good.zones[0].score == pytest.approx(1.583, abs=0.02)
    assert bad.score == pytest.approx(50.03, rel=0.01)
    assert bad.regions[0].zone == "left"
