"""The files of inspections: image, heat map and thumbnail; how long they are kept; what a crash left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from offnominal.errors import ImageError
from offnominal.reports import Picture, heat_pictures
from offnominal.station import events
from offnominal.station.database import Database
from offnominal.station.folder import StationFolder, move_synced, remove, sync_folder, write_problem, write_synced
from offnominal.station.settings import Keep
from offnominal.station.tables import NG, Event, Inspection
from offnominal.types import Inspection as Result

HEAT, THUMB, RECEIPT, PICTURE = "heat.jpg", "thumb.jpg", "receipt.jpg", "picture.jpg"
#: Event of inspections whose files were removed.
PRUNED = "media.pruned"
#: Bytes without which nothing works, however little is reserved.
LEAST_FREE = 10_000_000
#: JPEG quality of heat maps and thumbnails.
QUALITY = 85
#: Inspections whose files are removed in one transaction.
BATCH = 200


def write_media(folder: Path, image: Path, name: str, result: Result | None, shown: Picture | None) -> int:
    """Move the image into the folder of its inspection, draw its pictures, and sync everything.

    Parameters
    ----------
    folder
        The new folder.
    image
        The received file.
    name
        Its name in the folder.
    result, shown
        The result, and the (H, W, 3) picture; None if the image could not be read.

    Returns
    -------
    int
        Bytes of all files.

    Raises
    ------
    UnavailableError
        The disk is full or cannot be written.
    """
    try:
        folder.mkdir(parents=True)
        size = image.stat().st_size
        move_synced(image, folder / name)
        if result is not None and shown is not None:
            heat, thumb = heat_pictures(shown, result)
            for file_name, picture in ((HEAT, heat), (THUMB, thumb)):
                content = _jpeg(picture)
                write_synced(folder / file_name, content)
                size += len(content)
        for one in (folder, folder.parent, folder.parent.parent):
            sync_folder(one)
        return size
    except OSError as error:
        remove(folder)
        raise write_problem(error) from None


def disk_problem(folder: StationFolder, keep: Keep) -> str | None:
    """Why no image can be stored now; None if there is space for images and for the embedded database."""
    free = min(shutil.disk_usage(path).free for path in (folder.media, folder.root))
    if free < max(keep.reserve_gigabytes * 1e9, LEAST_FREE):
        return f"the disk is full: {free / 1e9:.2f} GB free, {keep.reserve_gigabytes:g} GB are reserved"
    return None


@dataclass(frozen=True)
class Pruned:
    """Number of inspections whose files were removed, and the bytes freed."""

    inspections: int
    bytes: int


def prune(database: Database, folder: StationFolder, keep: Keep, *, now: datetime | None = None) -> Pruned:
    """Remove files of old inspections until the policy holds; rows and events stay.

    Files older than `keep.days` go, then the oldest until all take at most `keep.gigabytes` and the disk has
    `keep.reserve_gigabytes` free. Anomalous and reviewed parts stay if `keep.flagged`.
    """
    now = now or datetime.now(UTC)
    inspections = freed = 0
    with database.read() as session:
        stored = session.scalar(select(func.sum(Inspection.media_bytes)).where(Inspection.media_kept))
    total = int(stored or 0)  # PostgreSQL sums to a decimal
    while True:
        free = shutil.disk_usage(folder.media).free
        excess = max(total - freed - keep.gigabytes * 1e9, keep.reserve_gigabytes * 1e9 - free)
        batch, size = [], 0
        with database.write() as session:
            for row in session.scalars(_oldest(keep)):
                if excess - size <= 0 and row.judged_at > now - timedelta(days=keep.days):
                    break
                batch.append(row)
                size += row.media_bytes
            if not batch:
                return Pruned(inspections, freed)
            ids = [row.id for row in batch]
            session.execute(update(Inspection).where(Inspection.id.in_(ids)).values(media_kept=False))
            events.append(session, PRUNED, ids[-1], "station", {"inspections": ids})
        for row in batch:
            remove(folder.inspection(row.id, row.judged_at))
        inspections, freed = inspections + len(batch), freed + size


def remove_orphans(session: Session, folder: StationFolder) -> list[str]:
    """Remove files without a row, which a crash between the files and the row leaves; return their identifiers.

    A crash can only leave files of the days from the last row on, so only these days are looked through. A crash of `prune` can
    only leave files of its last event.
    """
    last = session.scalar(select(func.max(Inspection.judged_at)))
    first_day = (min(last, datetime.now(UTC)) - timedelta(days=1)).strftime("%Y-%m-%d") if last else ""
    removed = []
    for row in _last_pruned(session):
        remove(folder.inspection(row.id, row.judged_at))
    for day in sorted(path for path in folder.media.iterdir() if path.is_dir() and path.name >= first_day):
        for ids in _chunks(sorted(entry.name for entry in day.iterdir())):
            known = set(session.scalars(select(Inspection.id).where(Inspection.id.in_(ids), Inspection.media_kept)))
            for id in ids:
                if id not in known:
                    remove(day / id)
                    removed.append(id)
    return removed


def _last_pruned(session: Session) -> list[Inspection]:
    data = session.scalar(select(Event.data).where(Event.kind == PRUNED).order_by(Event.id.desc()).limit(1))
    ids = [] if data is None else json.loads(data)["inspections"]
    return list(session.scalars(select(Inspection).where(Inspection.id.in_(ids), Inspection.media_kept.is_(False))))


def _oldest(keep: Keep) -> Select[Inspection]:
    rows = select(Inspection).where(Inspection.media_kept).order_by(Inspection.id).limit(BATCH)
    if keep.flagged:
        rows = rows.where(Inspection.verdict != NG, Inspection.review.is_(None))
    return rows


def _chunks(names: list[str], size: int = 500) -> Iterator[list[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]


def _jpeg(picture: Picture) -> bytes:
    done, content = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise ImageError(f"a picture of {picture.shape[1]} x {picture.shape[0]} pixels cannot be encoded")
    return content.tobytes()
