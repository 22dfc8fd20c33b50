"""Files of inspections: how long they are kept, and that none is left behind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from offnominal.station import events, inspections, media
from offnominal.station.errors import NotFoundError, UnavailableError
from offnominal.station.folder import new_id
from offnominal.station.media import disk_problem, prune
from offnominal.station.settings import Keep
from offnominal.station.station import Station
from station.conftest import StationFactory
from station.parts import files_of, inspected, received, waiting_files

#: Keeps everything.
ALL = Keep(days=1e4, gigabytes=1e6, reserve_gigabytes=0.0)
LATER = datetime.now(UTC) + timedelta(days=30)


@pytest.fixture
def station(station_folder: StationFactory, database_url: str | None) -> Iterator[Station]:
    with Station(station_folder(database=database_url).root) as running:
        yield running


def parts(station: Station) -> dict[str, str]:
    """Two good parts, one that was reviewed, one that is anomalous: name -> identifier, oldest first."""
    found = {name: inspected(station, seed)["id"] for name, seed in (("first", 150), ("reviewed", 151))}
    inspections.review(station.database, found["reviewed"], "anna", "ok")
    return found | {"flagged": inspected(station, 152, bad=True)["id"], "last": inspected(station, 153)["id"]}


def pruned(station: Station, keep: Keep, *, now: datetime | None = None) -> set[str]:
    """Identifiers of the inspections whose files `prune` removed. Rows, events and counts agree with the disk."""
    before = files_of(station)
    counted = prune(station.database, station.folder, keep, now=now)
    gone = before - files_of(station)
    assert counted.inspections == len(gone)
    with station.database.read() as session:
        for id in before:
            row, _, _ = inspections.one(session, id)  # the row stays
            assert row.media_kept == (id not in gone)
        assert list(events.broken_links(session)) == []
    return gone


def test_old_files_go_and_flagged_and_reviewed_ones_stay(station: Station) -> None:
    part = parts(station)
    assert pruned(station, ALL, now=LATER) == set()
    assert pruned(station, ALL.model_copy(update={"days": 29.0}), now=LATER) == {part["first"], part["last"]}
    everything = ALL.model_copy(update={"days": 29.0, "flagged": False})
    assert pruned(station, everything, now=LATER) == {part["reviewed"], part["flagged"]}
    with station.database.read() as session:
        row, line, digest = inspections.one(session, part["first"])
        with pytest.raises(NotFoundError, match="not kept"):
            inspections.media_file(station.folder, row, "image")
        assert set(inspections.public(row, line, digest)["files"].values()) == {None}


def test_the_oldest_go_first_until_the_size_is_kept(station: Station) -> None:
    part = parts(station)
    with station.database.read() as session:
        sizes = {name: inspections.one(session, id)[0].media_bytes for name, id in part.items()}
    folder = {path.name: sum(file.stat().st_size for file in path.iterdir()) for path in station.folder.media.glob("*/*")}
    assert {name: folder[id] for name, id in part.items()} == sizes
    just = sum(sizes.values()) / 1e9
    assert pruned(station, ALL.model_copy(update={"gigabytes": just})) == set()
    assert pruned(station, ALL.model_copy(update={"gigabytes": just - 1e-9})) == {part["first"]}
    assert pruned(station, ALL.model_copy(update={"gigabytes": 1e-9})) == {part["last"]}  # the others are flagged or reviewed
    assert pruned(station, ALL.model_copy(update={"gigabytes": 1e-9, "flagged": False})) == {part["reviewed"], part["flagged"]}


def test_a_full_disk_is_a_problem_and_files_go_for_it(station: Station) -> None:
    part = parts(station)
    assert disk_problem(station.folder, ALL) is None
    full = ALL.model_copy(update={"reserve_gigabytes": shutil.disk_usage(station.folder.media).free / 1e9 + 1})
    assert "the disk is full" in str(disk_problem(station.folder, full))
    assert pruned(station, full) == {part["first"], part["last"]}


def test_no_image_is_accepted_while_the_disk_is_full(station_folder: StationFactory) -> None:
    with Station(station_folder(config="[keep]\nreserve_gigabytes = 1e6\n").root) as station:
        assert any("the disk is full" in problem for problem in station.problems())
        with pytest.raises(UnavailableError, match="the disk is full"):
            station.inspect(received(station))
        assert waiting_files(station) == []


def test_a_start_removes_what_a_crash_left(station_folder: StationFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    home = station_folder()
    with Station(home.root) as station:
        part = parts(station)
        folder = station.folder
        orphan = folder.inspection(new_id(), datetime.now(UTC))
        orphan.mkdir()
        (orphan / "image.png").write_bytes(b"never answered")
        (folder.incoming / "half").write_bytes(b"half an upload")
        # Killed after the rows were marked, before the files were removed; long after the parts were inspected.
        with monkeypatch.context() as killed:
            killed.setattr(media, "remove", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                prune(station.database, folder, ALL.model_copy(update={"days": 29.0}), now=LATER)
        old, today = folder.media / "2020-01-01", folder.media / f"{datetime.now(UTC):%Y-%m-%d}"
        assert files_of(station) == {orphan.name, *part.values()}
    with Station(home.root) as station:
        assert files_of(station) == {part["reviewed"], part["flagged"]}
        assert waiting_files(station) == []
        assert not old.exists()
        assert today.is_dir()


def test_a_start_removes_pruned_files_of_an_old_day(station_folder: StationFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orphans are looked for in the last days only, but `prune` removes old files."""
    home = station_folder()
    with Station(home.root) as station:
        with monkeypatch.context() as then:
            then.setattr(inspections, "datetime", Yesteryear)
            old = inspected(station, 150)["id"]
        kept = inspected(station, 151)["id"]
        assert sorted(path.name for path in station.folder.media.iterdir())[0] == "2020-05-17"
        with monkeypatch.context() as killed:
            killed.setattr(media, "remove", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                prune(station.database, station.folder, Keep(reserve_gigabytes=0.0))
        assert files_of(station) == {old, kept}
    with Station(home.root) as station:
        assert files_of(station) == {kept}


class Yesteryear(datetime):
    """A clock of another year."""

    @classmethod
    def now(cls, tz: object = None) -> Yesteryear:
        return cls(2020, 5, 17, 12, tzinfo=UTC)
