"""A server that is killed under load keeps what it has answered, once. The benchmark `station_kill.py` kills it 100 times."""

from __future__ import annotations

import pytest

from station.conftest import StationFactory
from station.killing import killed
from station.servers import Server, free_port

pytestmark = pytest.mark.slow


def test_a_killed_server_keeps_what_it_answered(station_folder: StationFactory, database_url: str | None) -> None:
    server = Server(station_folder(database=database_url), free_port())
    try:
        found = killed(server, 5)
    finally:
        server.kill()
    assert found.problems == []
    assert found.answered > 10
