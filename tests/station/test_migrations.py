"""The schema: migrations make the tables of this version, with a copy of the database before they change it."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from offnominal.errors import InputError
from offnominal.station import migrate, setup
from offnominal.station.database import Database
from offnominal.station.errors import ConflictError
from offnominal.station.station import Station
from offnominal.station.tables import Base
from station.conftest import StationFactory
from station.parts import inspected
from station.servers import PATIENCE, StationHome

NEXT = '''"""A migration of the future."""

import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "9999", "{before}", None, None


def upgrade() -> None:
    with op.batch_alter_table("line") as batch:
        batch.add_column(sa.Column("colour", sa.String(16), nullable=False, server_default="grey"))
    {then}
'''


@pytest.fixture
def home(station_folder: StationFactory, database_url: str | None) -> StationHome:
    return station_folder(database=database_url)


def opened(home: StationHome) -> setup.Setup:
    return setup.Setup(home.root)


def add_migration(patch: pytest.MonkeyPatch, folder: Path, then: str = "pass") -> None:
    """Add a migration after the newest one."""
    copy = folder / "migrations"
    shutil.copytree(migrate.MIGRATIONS, copy, ignore=shutil.ignore_patterns("__pycache__"))
    newest = max(path.name[:4] for path in (copy / "versions").glob("[0-9]*.py"))
    (copy / "versions" / "9999_next.py").write_text(NEXT.format(before=newest, then=then))
    patch.setattr(migrate, "MIGRATIONS", copy)


def columns(database: Database, table: str) -> set[str]:
    return {column["name"] for column in inspect(database.engine).get_columns(table)}


def test_migrations_make_the_tables_of_this_version(home: StationHome) -> None:
    with opened(home) as station:
        with station.database.engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
            assert compare_metadata(context, Base.metadata) == []
        assert not list(station.folder.backups.iterdir())  # nothing to save before the first tables


def test_an_upgrade_keeps_everything_and_a_copy_of_what_was(
    home: StationHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Station(home.root) as station:
        shown = inspected(station, 150)
    add_migration(monkeypatch, tmp_path)
    for _ in range(2):  # the second start changes nothing
        with Station(home.root) as station:
            assert station.problems() == []
            assert "colour" in columns(station.database, "line")
            with station.database.read() as session:
                assert session.scalar(text("select score from inspection")) == shown["score"]
    copies = list(station.folder.backups.iterdir())
    assert len(copies) == (1 if station.database.is_sqlite else 0)
    for copy in copies:
        with closing(sqlite3.connect(copy)) as saved:
            assert saved.execute("select id from inspection").fetchall() == [(shown["id"],)]
            assert not any(row[1] == "colour" for row in saved.execute("pragma table_info(line)").fetchall())


def test_an_upgrade_that_fails_changes_nothing(home: StationHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_migration(monkeypatch, tmp_path, then="raise RuntimeError('the power failed')")
    threads = threading.active_count()
    with pytest.raises(RuntimeError, match="the power failed"), Station(home.root):
        pass
    assert threading.active_count() == threads
    monkeypatch.undo()
    with Station(home.root) as station:
        assert station.problems() == []
        assert "colour" not in columns(station.database, "line")


def test_a_database_of_a_newer_version_is_refused(home: StationHome) -> None:
    with opened(home) as station, station.database.write() as session:
        session.execute(text("update alembic_version set version_num = '9999'"))
    threads = threading.active_count()
    with pytest.raises(InputError, match="newer version of offnominal"), Station(home.root):
        pass
    assert threading.active_count() == threads
    command = [sys.executable, "-m", "offnominal.cli", "serve", "--station", str(home.root), "--port", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert "newer version of offnominal" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_process_runs_a_station(home: StationHome) -> None:
    threads = threading.active_count()
    with Station(home.root), pytest.raises(ConflictError, match="another process"), Station(home.root):
        pass
    with Station(home.root) as station:
        assert station.problems() == []
    assert threading.active_count() == threads
