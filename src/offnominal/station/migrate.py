"""Brings the database to the schema of this version, with a backup of SQLite before it changes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from offnominal.errors import InputError
from offnominal.station.database import Database
from offnominal.station.folder import StationFolder

MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(database: Database, folder: StationFolder, revision: str | None = None) -> None:
    """Apply the migrations that are missing.

    Parameters
    ----------
    database, folder
        Of the station.
    revision
        Where to stop; None for the newest.

    Raises
    ------
    InputError
        The database was written by a newer version.
    UnavailableError
        The database cannot be used.
    """
    script = ScriptDirectory.from_config(_config())
    with database.read() as session:
        current = MigrationContext.configure(session.connection()).get_current_revision()
    newest = script.get_current_head()
    revision = newest if revision is None else revision
    if current == revision:
        return
    if not {current, revision} <= {None, *(known.revision for known in script.walk_revisions())}:
        raise InputError(f"{folder.root}: the database is of a newer version of offnominal; install that one")
    if current is not None and database.is_sqlite:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        copy_sqlite(folder.root / "station.sqlite", folder.backups / f"station-{current}-{stamp}.sqlite")
    with database.write() as session:
        config = _config()
        config.attributes["connection"] = session.connection()
        command.upgrade(config, revision or "head")


def copy_sqlite(source: Path, target: Path) -> None:
    """A consistent copy of a SQLite database that may be in use."""
    with closing(sqlite3.connect(source)) as reading, closing(sqlite3.connect(target)) as writing:
        reading.backup(writing)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
