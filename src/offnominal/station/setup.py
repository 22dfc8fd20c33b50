"""Creates stations, and does from the command line what the pages do for a running one."""

from __future__ import annotations

import shutil
from pathlib import Path

from sqlalchemy import func, select

from offnominal.errors import InputError
from offnominal.station import accounts, lines, migrate
from offnominal.station.accounts import LINK_HOURS
from offnominal.station.database import Database, sqlite_url
from offnominal.station.folder import StationFolder, remove
from offnominal.station.settings import read_station_settings, write_database_url
from offnominal.station.tables import ModelVersion, User

__all__ = ["LINK_HOURS", "Setup", "create", "exists", "first_link"]

#: Who does what the command line does, in the event log.
COMMAND = "command"


def exists(root: Path) -> bool:
    """Whether a folder is a station."""
    return StationFolder(root).models.is_dir()


def create(root: Path, database: str | None = None) -> None:
    """Create a station in a new or empty folder.

    Raises
    ------
    InputError
        The folder is not empty.
    SettingsError
        The URL of the database cannot be used.
    UnavailableError
        The database does not answer.
    """
    folder = StationFolder(root)
    if folder.root.exists() and any(folder.root.iterdir()):
        raise InputError(f"{root}: is not empty; give a new folder")
    if database is not None:
        opened = Database(database)
        if (problem := opened.check()) is not None:
            raise InputError(f"--database: {problem}")
        opened.close()
    folder.create()
    if database is not None:
        write_database_url(folder.config, database)
    with Setup(root):
        pass


def first_link(root: Path, host: str, port: int) -> str | None:
    """A one-time link for the first user; None if there is a user already."""
    with Setup(root) as setup, setup.database.write() as session:
        if session.scalar(select(func.count()).select_from(User)):
            return None
        return link(accounts.invite(session, "admin", COMMAND), host, port)


def link(secret: str, host: str = "127.0.0.1", port: int = 8000) -> str:
    """Address of a one-time link. The secret follows `#`, so that browsers send it to no server."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else shown}:{port}/first#{secret}"


class Setup:
    """A station that need not run: its folder and database, at the schema of this version.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     root = Path(parent) / "station"
    ...     create(root)
    ...     exists(root), first_link(root, "127.0.0.1", 8000)[:28]
    (True, 'http://127.0.0.1:8000/first#')
    """

    def __init__(self, root: Path) -> None:
        self.folder = StationFolder(root)
        self.folder.require()
        self.settings = read_station_settings(self.folder.config)
        self.database = Database(self.settings.database or sqlite_url(self.folder.root))

    def __enter__(self) -> Setup:
        migrate.upgrade(self.database, self.folder)
        return self

    def __exit__(self, *exception: object) -> None:
        self.database.close()

    def add_line(self, name: str, model: Path | None) -> ModelVersion | None:
        """Create a line, with a model that is active at once. A station that runs loads it by itself."""
        copy = None
        if model is not None:
            if not model.is_file():
                raise InputError(f"{model}: no such file")
            copy = self.folder.new_upload()
            shutil.copyfile(model, copy)
        try:
            if copy is not None:
                from offnominal.model import load_model

                load_model(copy)  # a broken file creates no line
            with self.database.write() as session:
                lines.create_line(session, name, COMMAND)
            if copy is None:
                return None
            version = lines.add_version(self.database, self.folder, name, copy, COMMAND)
            with self.database.write() as session:
                lines.activate(session, lines.line_named(session, name), version, COMMAND)
            return version
        finally:
            if copy is not None:
                remove(copy)
