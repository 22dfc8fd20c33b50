"""Parts that a model aligns: their pose is stored, shown and verified."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import texture
from moved_parts import SIZE, drawn
from offnominal import Detector
from offnominal.station.station import Station
from offnominal.station.upkeep.verify import verify
from station.conftest import StationFactory
from station.parts import inspected


@pytest.fixture(scope="module")
def aligned_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("aligned") / "part.safetensors"
    detector = Detector(align="rigid", preset="fast", image_size=128, bank=300, false_alarm_rate=0.1)
    detector.fit([drawn(seed) for seed in range(14)]).save(path)
    return path


def png(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image)[1])


def test_a_station_stores_where_a_part_lies(
    station_folder: StationFactory, aligned_model: Path, database_url: str | None
) -> None:
    home = station_folder(database=database_url, model=aligned_model)
    with Station(home.root) as station:
        there = inspected(station, content=png(drawn(100)))
        gone = inspected(station, content=png(cv2.resize(texture(3), SIZE[::-1])))
        assert there["pose"]["problem"] is None
        assert there["pose"]["quality"] > 0.8
        assert gone["verdict"] == "ng"
        assert gone["pose"]["problem"]
    with Station(home.root) as station:
        problems: list[str] = []
        verify(station.database, station.folder, problems.append)
        assert problems == []
