"""Some hundred hostile requests; the benchmark `station_hostile.py` sends 10,000."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from station.calls import post
from station.conftest import ServerFactory, StationFactory
from station.hostile import CONFIG, Attacker, attacked
from station.killing import broken
from station.servers import LINE, image_bytes

pytestmark = pytest.mark.slow


def test_hostile_requests_do_nothing(
    station_folder: StationFactory, server: ServerFactory, model_file: Path, tmp_path: Path, database_url: str | None
) -> None:
    home = station_folder(database=database_url, config=CONFIG)
    with server(home) as running:
        with running.client() as client:
            for seed in range(8):
                post(client, LINE, image_bytes(seed))
        found = attacked(Attacker(running, model_file, tmp_path / "trap"), 400, seed=1)
        assert found.problems == []
        assert len(found.sent) == 8
        assert max(found.memory) - found.memory[0] < 500_000_000
        assert httpx.get(running.url + "/readyz", trust_env=False).json() == {"ready": True, "problems": []}
        assert list((home.root / "incoming").iterdir()) == []
        assert "Traceback" not in running.log
    assert broken(home) == []
