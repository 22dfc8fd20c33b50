"""Restores a station from a backup, which is read as a file of a stranger; `archive` has the format.

Everything is written into a temporary folder inside the new one and, for the tables, in one transaction; it is moved into place
at the end. So a restore that fails leaves nothing behind. Values that become paths or addresses are checked before they reach
the database.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError
from sqlalchemy import JSON, Float, MetaData, String, Table, func, inspect, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from sqlalchemy.sql.sqltypes import Boolean, Integer

from offnominal.errors import InputError, OutputError, SettingsError, unwritable
from offnominal.station import events, migrate
from offnominal.station.database import Database, sqlite_url
from offnominal.station.folder import StationFolder, sync_folder
from offnominal.station.media import PRUNED
from offnominal.station.settings import NAME, read_station_settings, write_database_url
from offnominal.station.tables import Inspection
from offnominal.station.upkeep.archive import (
    CONFIG,
    FILES,
    MANIFEST,
    NAMES,
    Content,
    Entry,
    Manifest,
    Member,
    read_lines,
    read_members,
    read_small,
)
from offnominal.station.upkeep.backup import reflected
from offnominal.storage import remove_unfinished, scratch_folder

#: Who restores, in the event log.
COMMAND = "command"
#: Rows that are inserted at once.
ROWS = 500
#: Name of the temporary folder.
SCRATCH = "restore"
_DIGEST = r"[0-9a-f]{64}"
#: Values that become parts of paths and addresses.
PATTERNS = {
    ("inspection", "id"): r"[0-9a-f]{32}",
    ("inspection", "image_file"): r"image\.[a-z]{1,10}",
    ("inspection", "image_sha256"): _DIGEST,
    ("model_version", "digest"): _DIGEST,
    ("line", "name"): NAME,
    ("user_account", "name"): NAME,
    ("token", "name"): NAME,
}
#: First and last day of a time in microseconds since 1970 that becomes the name of a folder.
DAYS = range(253_402_300_800_000_000)


def restore(archive: Path, root: Path, database_url: str | None = None) -> Manifest:
    """Create a station from a backup.

    Parameters
    ----------
    archive
        The file that `back_up` wrote.
    root
        A new or empty folder.
    database_url
        URL of an empty database of PostgreSQL; None for the embedded SQLite.

    Raises
    ------
    InputError
        The archive is damaged, foreign or of a newer version, or the folder or the database is not empty.
    OutputError
        The folder cannot be written.
    """
    root = root.absolute()
    remove_unfinished(root, SCRATCH)  # of a restore that was killed
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"{root}: is not an empty folder; give a new one")
    try:
        opened = archive.open("rb")
    except OSError as error:
        raise InputError(f"{archive}: cannot be read ({error.strerror or error})") from None
    is_new = not root.exists()
    with opened as file:
        try:
            manifest, listing = _ends(file)
            with scratch_folder(root, SCRATCH) as scratch, archive.open("rb") as again:
                _require_space(root, manifest)
                folder = StationFolder(scratch / "station")
                folder.create()
                with closing(Database(database_url or sqlite_url(folder.root))) as database:
                    _require_empty(database)
                    migrate.upgrade(database, folder, manifest.revision)
                    _Restore(file, folder, manifest).run(database, _entries(again, listing))
                    _finish_config(folder, database_url)
                _move(folder, StationFolder(root))
        except (InputError, SettingsError) as error:
            raise InputError(f"{archive}: {error}") from None
        except OSError as error:
            raise unwritable(root, error) from None
        finally:
            if is_new and root.exists() and not any(root.iterdir()):
                root.rmdir()
    return manifest


class _Restore:
    def __init__(self, file: BinaryIO, folder: StationFolder, manifest: Manifest) -> None:
        self._file, self._folder, self._manifest = file, folder, manifest
        self._gone: list[str] = []

    def run(self, database: Database, entries: Iterator[Entry]) -> None:
        """Restore the members before files.jsonl, each as the listing has it."""
        with database.write() as session:
            tables = reflected(session)
            for member in read_members(self._file):
                if member.name == FILES:
                    break
                entry = self._next(entries)
                if entry is None or (entry.name, entry.size) != (member.name, member.size):
                    raise InputError(f"its listing does not name {member.name} here")
                content = Content(self._file, member)
                self._one(session, tables, member, content)
                if content.sha256 != entry.sha256:
                    raise InputError(f"{member.name}: does not match its SHA-256")
            if self._next(entries) is not None:
                raise InputError("its listing names more files than it has")
            if not database.is_sqlite:
                _set_sequences(session, tables)
            self._note(session)

    def _next(self, entries: Iterator[Entry]) -> Entry | None:
        """The next file of the listing that was there; notes the images that were not."""
        for entry in entries:
            if entry.sha256 is not None:
                return entry
            if entry.name.startswith("media/") and entry.name.rsplit("/", 1)[-1].startswith("image."):
                self._gone.append(entry.name.split("/")[2])
        return None

    def _one(self, session: Session, tables: MetaData, member: Member, content: Content) -> None:
        match = NAMES.fullmatch(member.name)
        assert match is not None
        if match["table"] is not None:
            _insert(session, tables, match["table"], content)
            return
        if member.name == CONFIG and member.size > 1_000_000:
            raise InputError(f"{CONFIG}: has {member.size} bytes; that is too long")
        path = self._folder.root / member.name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("xb") as target:
                os.chmod(path, 0o600)
                shutil.copyfileobj(content, target, 1 << 20)
        except FileExistsError:
            raise InputError(f"{member.name}: comes twice") from None
        if match["digest"] not in (None, content.sha256):
            raise InputError(f"{member.name}: does not match its name")

    def _note(self, session: Session) -> None:
        """Append to the event log that the station was restored, and which images were gone."""
        _, head = events.head(session)
        if head != self._manifest.head:
            raise InputError("its event log does not end as its manifest says")
        data = {"created": self._manifest.created, "version": self._manifest.offnominal, "head": head}
        events.append(session, "station.restored", "station", COMMAND, data)
        for start in range(0, len(self._gone), ROWS):
            ids = self._gone[start : start + ROWS]
            session.execute(update(Inspection).where(Inspection.id.in_(ids)).values(media_kept=False))
            events.append(session, PRUNED, ids[-1], COMMAND, {"inspections": ids})


def _ends(file: BinaryIO) -> tuple[Manifest, Member]:
    """The manifest and the listing: the last two members. Checks the totals of all."""
    last: list[Member] = []
    count = size = 0
    for member in read_members(file):
        last = [*last[-1:], member]
        count, size = count + 1, size + member.size
    if [member.name for member in last] != [FILES, MANIFEST]:
        raise InputError("is no complete backup of a station: it does not end with files.jsonl and manifest.json")
    content = read_small(file, last[1])
    try:
        if json.loads(content).get("version", 0) > 1:
            raise InputError("was written by a newer version of offnominal; install that one")
        manifest = Manifest.model_validate_json(content)
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise InputError("its manifest.json is damaged") from None
    listing = Content(file, last[0])
    digest = hashlib.sha256()
    while block := listing.read(1 << 20):
        digest.update(block)
    if (last[0].size, digest.hexdigest()) != (manifest.files.size, manifest.files.sha256):
        raise InputError("its files.jsonl is not the one that its manifest names")
    if (count - 2, size - sum(member.size for member in last)) != (manifest.members, manifest.bytes):
        raise InputError("it has other files than its manifest says")
    return manifest, last[0]


def _entries(file: BinaryIO, listing: Member) -> Iterator[Entry]:
    for line in read_lines(Content(file, listing)):
        try:
            yield Entry.model_validate_json(line)
        except ValidationError:
            raise InputError("its files.jsonl is damaged") from None


def _require_space(root: Path, manifest: Manifest) -> None:
    free = shutil.disk_usage(root).free
    if manifest.bytes > free:
        raise OutputError(f"{root}: needs {manifest.bytes / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; give another folder")


def _require_empty(database: Database) -> None:
    if (problem := database.check()) is not None:
        raise InputError(f"--database: {problem}")
    with database.read() as session:
        if inspect(session.connection()).get_table_names():
            raise InputError("--database: has tables already; give an empty one")


def _insert(session: Session, tables: MetaData, name: str, content: Content) -> None:
    table = tables.tables.get(name)
    if table is None:
        raise InputError(f"table {name}: does not exist in this version")
    rows: list[Mapping[str, object]] = []
    for line in read_lines(content):
        try:
            row = json.loads(line, parse_constant=_refused)
        except (ValueError, RecursionError):
            raise InputError(f"table {name}: has a row that is no JSON") from None
        rows.append(_checked(table, row))
        if len(rows) >= ROWS:
            _insert_rows(session, table, rows)
            rows = []
    if rows:
        _insert_rows(session, table, rows)


def _insert_rows(session: Session, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
    try:
        session.execute(table.insert(), rows)
    except IntegrityError:
        raise InputError(f"table {table.name}: has rows twice, or rows of something that does not exist") from None


def _refused(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


def _checked(table: Table, row: object) -> dict[str, object]:
    """A row with the columns of the table and values of their types; SQLite itself would take any."""
    if not isinstance(row, dict) or set(row) != set(table.columns.keys()):
        raise InputError(f"table {table.name}: has a row with other columns")
    for column in table.columns:
        value = row[column.name]
        where = f"table {table.name}: {column.name} = {str(value)[:40]!r}"
        if value is None and not column.nullable:
            raise InputError(f"{where}: must not be null")
        if value is not None and not _fits(column.type, value):
            raise InputError(f"{where}: is not of type {column.type}")
        pattern = PATTERNS.get((table.name, column.name))
        if pattern is not None and not re.fullmatch(pattern, str(value)):
            raise InputError(f"{where}: is not a valid name")
    if table.name == "inspection" and row["judged_at"] not in DAYS:
        raise InputError(f"table inspection: judged_at = {row['judged_at']}: is out of range")
    return row


def _fits(kind: object, value: object) -> bool:
    if isinstance(kind, JSON):
        return True
    if isinstance(kind, Boolean):
        return isinstance(value, bool)
    if isinstance(kind, String):
        return isinstance(value, str) and (kind.length is None or len(value) <= kind.length)
    if isinstance(kind, Integer):
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
    return isinstance(kind, Float) and isinstance(value, int | float) and not isinstance(value, bool)


def _set_sequences(session: Session, tables: MetaData) -> None:
    """Let PostgreSQL number new rows after the restored ones."""
    for table in tables.sorted_tables:
        for column in table.primary_key.columns:
            named = {"table": table.name, "column": column.name}
            sequence = session.scalar(text("select pg_get_serial_sequence(:table, :column)"), named)
            last = session.scalar(select(func.max(column))) if sequence else None
            if last is not None:
                session.execute(text("select setval(cast(:sequence as regclass), :last)"), {"sequence": sequence, "last": last})


def _move(finished: StationFolder, target: StationFolder) -> None:
    """Move a station into an empty folder; it is a station once its models are there."""
    os.sync()
    os.chmod(target.root, 0o700)
    for path in sorted(finished.root.iterdir(), key=lambda path: path == finished.models):
        os.replace(path, target.root / path.name)
    sync_folder(target.root)


def _finish_config(folder: StationFolder, database_url: str | None) -> None:
    """Check the settings, and write the URL of the database before them."""
    try:
        named = read_station_settings(folder.config).database
    except (InputError, SettingsError) as error:
        raise InputError(str(error).replace(str(folder.config), CONFIG)) from None
    if named is not None:
        raise InputError(f"{CONFIG}: names a database; no backup has one")
    if database_url is not None:
        settings = folder.config.read_bytes() if folder.config.exists() else b""
        folder.config.unlink(missing_ok=True)
        write_database_url(folder.config, database_url)
        with folder.config.open("ab") as file:
            file.write(settings)
