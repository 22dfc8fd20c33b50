"""Parts of a model with zones: scores of zones and sizes in mm are stored, shown and verified."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import texture
from offnominal import Detector
from offnominal.gates import Gate, Zone
from offnominal.roi import RegionOfInterest
from offnominal.station.station import Station
from offnominal.station.upkeep.verify import verify
from station.conftest import StationFactory
from station.parts import inspected

SIZE = (128, 128)


@pytest.fixture(scope="module")
def zoned_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zones") / "part.safetensors"
    mask = np.zeros(SIZE, np.bool_)
    mask[:, :64] = True
    detector = Detector(
        zones=(Zone("left", RegionOfInterest.of(mask), Gate()),),
        mm_per_pixel=0.5,
        preset="fast",
        image_size=128,
        bank=200,
        false_alarm_rate=0.1,
    )
    detector.fit([texture(seed, SIZE) for seed in range(14)]).save(path)
    return path


def test_a_station_stores_scores_of_zones(station_folder: StationFactory, zoned_model: Path, database_url: str | None) -> None:
    home = station_folder(database=database_url, model=zoned_model)
    image = texture(50, SIZE)
    image[50:70, 10:30] = 0
    with Station(home.root) as station:
        part = inspected(station, content=bytes(cv2.imencode(".png", image)[1]))
        assert part["verdict"] == "ng"
        assert [zone["name"] for zone in part["zones"]] == ["left"]
        assert part["zones"][0]["score"] == part["score"]
        assert part["regions"][0]["zone"] == "left"
        assert part["regions"][0]["length_mm"] == pytest.approx(part["regions"][0]["length"] / 2)
    with Station(home.root) as station:
        problems: list[str] = []
        verify(station.database, station.folder, problems.append)
        assert problems == []
