"""Backup and restore: the same station again, with either database."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from offnominal.errors import InputError
from offnominal.station import media
from offnominal.station.settings import Keep
from offnominal.station.setup import Setup
from offnominal.station.station import Station
from offnominal.station.tables import Inspection
from offnominal.station.upkeep.backup import reflected
from offnominal.station.upkeep.restore import restore
from station.commands import backed_up, problems
from station.conftest import StationFactory
from station.parts import inspected
from station.servers import LINE, Postgres, StationHome

pytestmark = pytest.mark.slow


def tables(root: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All rows as the database stores them."""
    with Setup(root) as opened, opened.database.read() as session:
        return {
            table.name: [tuple(row) for row in session.execute(select(table).order_by(*table.primary_key.columns))]
            for table in reflected(session).sorted_tables
        }


def files(root: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of the models and images of a station."""
    paths = [path for name in ("models", "media") for path in (root / name).rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_a_restored_station_is_the_same_and_goes_on(
    history: StationHome, tmp_path: Path, database_url: str | None, postgres: Postgres
) -> None:
    archive, root = tmp_path / "new folder" / "backup.tar", tmp_path / "restored"
    assert backed_up(history.root, archive) == ()
    assert archive.stat().st_mode & 0o777 == 0o600
    assert b"postgresql" not in archive.read_bytes().replace(b'"database": "postgresql"', b"")
    manifest = restore(archive, root, database_url)
    assert problems(root, manifest.head) == []
    before, after = tables(history.root), tables(root)
    assert [event[3] for event in after["event"][len(before["event"]) :]] == ["station.restored"]
    assert after | {"event": after["event"][:-1]} == before
    assert files(root) == files(history.root)
    with Station(root) as station:
        assert station.settings.replay == 7
        inspected(station, 160)
        for path in sorted((root / "models").iterdir()):  # one of the two was not active
            station.activate(LINE, path.stem, "test")
    assert problems(root, manifest.head) == []


def test_a_running_station_is_backed_up_in_one_moment(
    station_folder: StationFactory, database_url: str | None, tmp_path: Path
) -> None:
    home = station_folder(database=database_url)
    archives = [tmp_path / f"{number}.tar" for number in range(4)]
    with Station(home.root) as station:
        stop = threading.Event()

        def work() -> None:
            for seed in range(1000, 2000):
                if stop.is_set():
                    return
                inspected(station, seed)
                if seed % 5 == 0:
                    media.prune(station.database, station.folder, Keep(days=1e-9))

        thread = threading.Thread(target=work)
        thread.start()
        try:
            for archive in archives:
                backed_up(home.root, archive)
        finally:
            stop.set()
            thread.join()
    for number, archive in enumerate(archives):
        manifest = restore(archive, tmp_path / f"restored-{number}")
        assert problems(tmp_path / f"restored-{number}", manifest.head) == []


def test_an_image_that_was_gone_is_listed(copied_history: StationHome, tmp_path: Path) -> None:
    image = sorted(copied_history.root.glob("media/*/*/image.png"))[0]
    image.unlink()
    name = image.relative_to(copied_history.root).as_posix()
    assert backed_up(copied_history.root, tmp_path / "backup.tar") == (name,)
    assert restore(tmp_path / "backup.tar", tmp_path / "restored").missing == 1
    with Setup(tmp_path / "restored") as opened, opened.database.read() as session:
        assert session.get_one(Inspection, image.parent.name).media_kept is False
    assert problems(tmp_path / "restored") == []


def test_a_backup_that_fails_leaves_the_one_before(copied_history: StationHome, tmp_path: Path) -> None:
    target = tmp_path / "backups" / "backup.tar"
    backed_up(copied_history.root, target)
    before = target.read_bytes()
    if copied_history.database_url is not None:
        config = copied_history.root / "config.toml"
        config.write_text(f'database = """\\\n{copied_history.database_url}"""\n', "utf-8")
    else:
        with Setup(copied_history.root) as opened, opened.database.write() as session:
            session.query(Inspection).filter_by(verdict="ng").one().image_file = "../../evil.png"
    with pytest.raises(InputError, match=r"one line|no file of a station"):
        backed_up(copied_history.root, target)
    assert target.read_bytes() == before
    assert list(target.parent.iterdir()) == [target]


def test_only_an_empty_folder_and_database_are_restored_into(history: StationHome, tmp_path: Path, postgres: Postgres) -> None:
    archive, full = tmp_path / "backup.tar", tmp_path / "full"
    backed_up(history.root, archive)
    full.mkdir()
    (full / ".restore-12345678.writing").mkdir()  # of a restore that was killed
    restore(archive, full)
    with pytest.raises(InputError, match="is not an empty folder"):
        restore(archive, full)
    with pytest.raises(InputError, match="is not an empty folder"):
        restore(archive, archive)
    url = postgres.new_database()
    restore(archive, tmp_path / "one", url)
    with pytest.raises(InputError, match="has tables already"):
        restore(archive, tmp_path / "two", url)
    assert not (tmp_path / "two").exists()
    with pytest.raises(InputError, match="cannot be read"):
        restore(tmp_path / "missing.tar", tmp_path / "three")
