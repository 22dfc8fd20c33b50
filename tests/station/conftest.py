"""Fixtures of the station's tests; what they return is in `servers`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from offnominal import Detector
from station.histories import copy_of, fill
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


@pytest.fixture(scope="session")
def other_model(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file other than `model_file`."""
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    Detector(image_size=128, bank=200, false_alarm_rate=0.1).fit(parts).save(path)
    return path


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def history(request: pytest.FixtureRequest, station_folder: StationFactory, other_model: Path) -> StationHome:
    """A station with a history, once with each database; leave it as it is."""
    cluster: Postgres | None = None if request.param == "sqlite" else request.getfixturevalue("postgres")
    home = station_folder(database=None if cluster is None else cluster.new_database(), config="replay = 7\n")
    fill(home, other_model)
    return home


@pytest.fixture
def copied_history(history: StationHome, tmp_path: Path, request: pytest.FixtureRequest) -> StationHome:
    """A copy of `history`, to change."""
    cluster: Postgres | None = None if history.database_url is None else request.getfixturevalue("postgres")
    return copy_of(history, tmp_path / "copy", cluster)
