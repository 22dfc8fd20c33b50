"""Fixtures of the station's tests; what they return is in `servers`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from station.servers import Postgres, Server, StationHome, free_port, make_station

StationFactory = Callable[..., StationHome]
ServerFactory = Callable[..., Server]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL. CI fails without one; elsewhere its tests are skipped."""
    programs = Postgres.programs()
    if programs is None:
        reason = "PostgreSQL is not installed (Debian: apt-get install postgresql)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    assert programs is not None
    cluster = Postgres(programs)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """None for the embedded SQLite, then the URL of a new database of PostgreSQL: a test runs with both."""
    if request.param == "sqlite":
        return None
    cluster: Postgres = request.getfixturevalue("postgres")
    return cluster.new_database()


@pytest.fixture(scope="session")
def station_folder(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> StationFactory:
    """Creates stations: `station_folder(database=None, lines=("parts",), config="", model=model_file)`."""

    def create(*, model: Path | None = model_file, **options: object) -> StationHome:
        return make_station(tmp_path_factory.mktemp("station") / "station", model, **options)  # type: ignore[arg-type]

    return create


@pytest.fixture(scope="session")
def server() -> Iterator[ServerFactory]:
    """Starts servers: `server(home, ready=True, environment={})`. Stop them with `with server(home) as running:`."""
    with ExitStack() as started:

        def start(home: StationHome, *, ready: bool = True, environment: dict[str, str] | None = None) -> Server:
            running = started.enter_context(Server(home, free_port(), environment or {}))
            return running.start(ready=ready)

        yield start


@pytest.fixture(scope="session")
def shared_server(station_folder: StationFactory, server: ServerFactory) -> Server:
    """One server of a station with the line `parts`, for tests that do not mind what others left there."""
    return server(station_folder())
