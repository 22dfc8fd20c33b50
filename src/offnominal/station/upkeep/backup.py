"""Backs a station up while it runs: tables, models, images and settings in one file; `archive` has the format.

All rows are of one moment. The files that they name are copied afterwards; one that the station has removed since is listed as
missing. The archive is written beside its target and renamed, so that the target is complete or the one before.
"""

from __future__ import annotations

import io
import json
import os
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, BinaryIO

from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData, Table, select
from sqlalchemy.orm import Session

from offnominal import __version__
from offnominal.errors import InputError, unwritable
from offnominal.station import events
from offnominal.station.database import Database
from offnominal.station.folder import StationFolder, sync_folder
from offnominal.station.media import HEAT, PICTURE, RECEIPT, THUMB
from offnominal.station.tables import Base, Inspection, ModelVersion
from offnominal.station.upkeep.archive import CONFIG, FILES, MANIFEST, PART, ArchiveWriter, Entry, Manifest, require_name
from offnominal.station.upkeep.snapshot import ROWS, snapshot
from offnominal.storage import scratch_folder


@dataclass(frozen=True)
class BackedUp:
    """The manifest of a backup, and the names of files that were gone."""

    manifest: Manifest
    missing: tuple[str, ...]


def back_up(database: Database, folder: StationFolder, target: Path) -> BackedUp:
    """Write a backup.

    Parameters
    ----------
    database, folder
        Of the station; it may run.
    target
        The archive; an existing one is replaced.

    Raises
    ------
    OutputError
        The target cannot be written.
    UnavailableError
        The database cannot be used.
    """
    try:
        with scratch_folder(target.absolute().parent, target.name) as scratch:
            unfinished = scratch / "archive"
            with unfinished.open("xb") as file, ExitStack() as closing:
                os.chmod(unfinished, 0o600)  # it holds hashes of passwords
                backup = _Backup(ArchiveWriter(file), closing.enter_context((scratch / "files").open("x+b")))
                done = backup.write(database, folder, closing.enter_context((scratch / "wanted").open("x+b")))
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, target)
        sync_folder(target.absolute().parent)
    except OSError as error:
        raise unwritable(target, error) from None
    return done


def reflected(session: Session, names: frozenset[str] | None = None) -> MetaData:
    """The tables as the database has them, so that values are those that it stores; without those of other programs."""
    metadata = MetaData()
    metadata.reflect(session.connection(), only=lambda name, _: name != "alembic_version" and (names is None or name in names))
    return metadata


def without_database(config: str) -> str:
    """Settings without the URL of the database, which may hold a password.

    Examples
    --------
    >>> without_database('# mine\\ndatabase = "postgresql://…"\\nreplay = 5\\n')
    '# mine\\nreplay = 5\\n'
    """
    kept, top = [], True
    for line in config.splitlines(keepends=True):
        top = top and not line.lstrip().startswith("[")
        if not (top and line.partition("=")[0].strip().strip("\"'") == "database"):
            kept.append(line)
    text = "".join(kept)
    try:
        expected = {name: value for name, value in tomllib.loads(config).items() if name != "database"}
        if tomllib.loads(text) == expected:
            return text
    except ValueError:
        pass
    raise InputError("config.toml: write the setting database in one line, so that the backup can leave it out")


@dataclass
class _Backup:
    writer: ArchiveWriter
    files: IO[bytes]
    members: int = 0
    size: int = 0
    missing: list[str] = field(default_factory=list)

    def write(self, database: Database, folder: StationFolder, wanted: IO[bytes]) -> BackedUp:
        with snapshot(database) as session:
            number, head = events.head(session)
            revision = MigrationContext.configure(session.connection()).get_current_revision()
            for table in reflected(session, frozenset(Base.metadata.tables)).sorted_tables:
                self._add_table(session, table)
            for name, path in _named_files(session, folder):
                wanted.write(json.dumps([name, str(path)]).encode() + b"\n")
        if folder.config.is_file():
            self._add(CONFIG, without_database(folder.config.read_text("utf-8")).encode())
        wanted.seek(0)
        for line in wanted:
            name, path = json.loads(line)
            self._add_file(name, Path(path))
        size = self.files.tell()
        self.files.seek(0)
        listing = self.writer.add(FILES, self.files, size)  # type: ignore[arg-type]
        manifest = Manifest(
            offnominal=__version__,
            created=datetime.now(UTC).isoformat(),
            database=database.engine.dialect.name,
            revision=revision or "",
            events=number,
            head=head,
            members=self.members,
            bytes=self.size,
            missing=len(self.missing),
            files=listing,
        )
        content = manifest.model_dump_json(indent=2).encode()
        self.writer.add(MANIFEST, io.BytesIO(content), len(content))
        self.writer.close()
        return BackedUp(manifest, tuple(self.missing))

    def _add_table(self, session: Session, table: Table) -> None:
        part, number = io.BytesIO(), 1
        rows = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=ROWS)
        for row in session.execute(rows).mappings():
            part.write(json.dumps(dict(row), allow_nan=False).encode() + b"\n")
            if part.tell() >= PART:
                self._add(f"tables/{table.name}-{number:06d}.jsonl", part.getvalue())
                part, number = io.BytesIO(), number + 1
        if part.tell():
            self._add(f"tables/{table.name}-{number:06d}.jsonl", part.getvalue())

    def _add(self, name: str, content: bytes) -> None:
        self._add_open(name, io.BytesIO(content), len(content))

    def _add_file(self, name: str, path: Path) -> None:
        require_name(name)
        try:
            file = path.open("rb")
        except FileNotFoundError:
            self.missing.append(name)
            self._list(Entry(name=name, size=0, sha256=None))
            return
        with file:
            self._add_open(name, file, os.fstat(file.fileno()).st_size)

    def _add_open(self, name: str, file: BinaryIO, size: int) -> None:
        done = self.writer.add(name, file, size)
        self.members, self.size = self.members + 1, self.size + size
        self._list(Entry(name=name, size=done.size, sha256=done.sha256))

    def _list(self, entry: Entry) -> None:
        self.files.write(entry.model_dump_json().encode() + b"\n")


def _named_files(session: Session, folder: StationFolder) -> Iterator[tuple[str, Path]]:
    """Files that rows name. Pictures that were not drawn are left out; an image and a model must be there."""
    for digest in session.scalars(select(ModelVersion.digest).distinct().order_by(ModelVersion.digest)):
        path = folder.model(digest)
        yield f"models/{path.name}", path
    columns: tuple[Any, ...] = (Inspection.id, Inspection.judged_at, Inspection.image_file)
    rows = select(*columns).where(Inspection.media_kept).order_by(Inspection.id).execution_options(yield_per=ROWS)
    for id, judged_at, image in session.execute(rows):
        place = folder.inspection(id, judged_at)
        for name in (image, HEAT, THUMB, RECEIPT, PICTURE):
            if name == image or (place / name).is_file():
                yield f"media/{place.parent.name}/{id}/{name}", place / name
