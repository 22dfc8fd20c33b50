"""The fixtures themselves: a server starts, inspects, and stops in order, with either database."""

from __future__ import annotations

from station.conftest import ServerFactory, StationFactory
from station.servers import LINE, image_bytes


def test_a_server_starts_inspects_and_stops(
    station_folder: StationFactory, server: ServerFactory, database_url: str | None
) -> None:
    home = station_folder(database=database_url)
    with server(home) as running, running.client() as client:
        verdicts = [
            client.post(f"/api/lines/{LINE}/inspections", files={"image": ("a.png", image_bytes(150, bad=bad))}).json()[
                "verdict"
            ]
            for bad in (False, True)
        ]
        assert verdicts == ["ok", "ng"]
        assert running.stop() in (0, 130)
    assert "Traceback" not in running.log
