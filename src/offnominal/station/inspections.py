"""Inspections and reviews: stored with their files and events, and read back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from offnominal.errors import ImageError, InputError
from offnominal.images import displayed
from offnominal.outputs.optional_outputs import region_row
from offnominal.station import events
from offnominal.station.database import Database
from offnominal.station.errors import NotFoundError
from offnominal.station.folder import StationFolder, new_id, remove
from offnominal.station.judge import Judged
from offnominal.station.media import HEAT, THUMB, write_media
from offnominal.station.tables import NG, OK, UNREADABLE, Inspection, Line, ModelVersion, Review

#: Suffixes that stored images may keep; others become `.image`.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
#: Longest class of a defect and longest comment of a review.
LONGEST_CLASS, LONGEST_COMMENT = 64, 2000
#: Most inspections in one answer.
MOST = 500


def store(database: Database, folder: StationFolder, group: Sequence[Judged], unsettled: list[Inspection]) -> list[Any]:
    """Store inspected parts: files first, then all rows in one transaction.

    Parameters
    ----------
    database, folder
        Of the station.
    group
        The parts.
    unsettled
        Takes the rows of a transaction that failed. A commit whose answer was lost may have succeeded, so the files stay until
        `settle` has asked the database.

    Returns
    -------
    list
        For each part the public form of its row, or the error to raise.
    """
    answers: list[Any] = []
    stored: list[tuple[int, Inspection, Judged]] = []
    for number, judged in enumerate(group):
        if judged.error is not None and judged.part.source == "http":
            remove(judged.part.image)
            answers.append(ImageError(_reason(judged)))
            continue
        row = _row(judged)
        target = folder.inspection(row.id, row.judged_at)
        model = judged.loaded.detector.model
        try:
            shown = None
            if judged.pixels is not None and judged.result is not None:
                shown = displayed(judged.pixels, model.values, model.counted(judged.result))
            row.media_bytes = write_media(target, judged.part.image, row.image_file, judged.result, shown)
        except Exception as error:  # noqa: BLE001 - the answer of this part
            remove(target)
            remove(judged.part.image)
            answers.append(error)
            continue
        stored.append((number, row, judged))
        answers.append(None)
    try:
        with database.write() as session:
            for _, row, judged in stored:
                session.add(row)
                session.flush()
                events.append(session, "inspection", row.id, row.by, _evidence(row), judged.part.line)
    except BaseException:
        unsettled.extend(row for _, row, _ in stored)
        raise
    for number, row, judged in stored:
        answers[number] = public(row, judged.part.line, judged.loaded.digest)
    return answers


def settle(database: Database, folder: StationFolder, unsettled: list[Inspection]) -> None:
    """Remove the files of rows that are not stored, and empty `unsettled`. Raises `UnavailableError`."""
    if not (rows := list(unsettled)):
        return
    with database.write() as session:  # waits until the transaction that failed has ended in the database too
        known = set(session.scalars(select(Inspection.id).where(Inspection.id.in_([row.id for row in rows]))))
    for row in rows:
        if row.id not in known:
            remove(folder.inspection(row.id, row.judged_at))
    del unsettled[: len(rows)]


def facts(row: Inspection) -> dict[str, Any]:
    """The facts of an inspection that never change; an event holds their digest."""
    return {
        name: value.isoformat() if isinstance(value := getattr(row, name), datetime) else value
        for name in (
            "id", "line_id", "model_version_id", "serial", "lot", "taken_at", "judged_at", "verdict", "score", "p_value",
            "whole_p_value", "threshold", "regions", "error", "width", "height", "source", "by", "image_name", "image_file",
            "image_sha256", "idempotency_key", "pose", "zones",
        )
        if name not in ("pose", "zones") or getattr(row, name) is not None  # older rows had no such columns
    }  # fmt: skip


def public(row: Inspection, line: str, digest: str, reviews: Sequence[Review] | None = None) -> dict[str, Any]:
    """An inspection as the HTTP API shows it."""
    base = f"/api/inspections/{row.id}"
    kept, drawn = row.media_kept, row.media_kept and row.verdict != UNREADABLE
    shown = {
        "id": row.id,
        "line": line,
        "serial": row.serial,
        "lot": row.lot,
        "taken_at": row.taken_at,
        "judged_at": row.judged_at,
        "verdict": row.verdict,
        "score": row.score,
        "p_value": row.p_value,
        "whole_p_value": row.whole_p_value,
        "anomalous": None if row.verdict == UNREADABLE else row.verdict == NG,
        "threshold": row.threshold,
        "regions": row.regions,
        "pose": row.pose,
        "zones": row.zones or [],
        "error": row.error,
        "width": row.width,
        "height": row.height,
        "model": digest,
        "duration_ms": row.duration_ms,
        "source": row.source,
        "by": row.by,
        "image_name": row.image_name,
        "image_sha256": row.image_sha256,
        "review": row.review,
        "files": {
            "image": f"{base}/image" if kept else None,
            "picture": f"{base}/picture" if drawn else None,
            "heat": f"{base}/heat" if drawn else None,
            "thumbnail": f"{base}/thumbnail" if drawn else None,
            "receipt": f"{base}/receipt" if drawn and row.regions else None,
        },
    }
    return shown if reviews is None else {**shown, "reviews": [public_review(review) for review in reviews]}


def public_review(review: Review) -> dict[str, Any]:
    """A review as the HTTP API shows it."""
    return {
        "at": review.at,
        "by": review.by,
        "verdict": review.verdict,
        "class": review.defect_class,
        "comment": review.comment,
    }


@dataclass(frozen=True)
class Filter:
    """Which inspections a list shows; None shows all. `after` is the identifier of the last one already seen."""

    line: str | None = None
    serial: str | None = None
    lot: str | None = None
    verdict: str | None = None
    review: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    after: str | None = None
    oldest_first: bool = False

    def following(self, id: str) -> Filter:
        """The filter of what comes after an inspection."""
        return replace(self, after=id)

    def applied(self, rows: Select[Inspection, str, str]) -> Select[Inspection, str, str]:
        """The statement with the conditions and the order."""
        equal: Mapping[Any, str | None] = {
            Line.name: self.line,
            Inspection.serial: self.serial,
            Inspection.lot: self.lot,
            Inspection.verdict: self.verdict,
        }
        for column, value in equal.items():
            rows = rows if value is None else rows.where(column == value)
        if self.review == "none":
            rows = rows.where(Inspection.review.is_(None))
        elif self.review == "any":
            rows = rows.where(Inspection.review.is_not(None))
        elif self.review is not None:
            rows = rows.where(Inspection.review == self.review)
        rows = rows if self.since is None else rows.where(Inspection.judged_at >= self.since)
        rows = rows if self.until is None else rows.where(Inspection.judged_at < self.until)
        if self.after is not None:
            rows = rows.where(Inspection.id > self.after if self.oldest_first else Inspection.id < self.after)
        return rows.order_by(Inspection.id if self.oldest_first else Inspection.id.desc())


def listed(session: Session, filter: Filter, most: int) -> tuple[list[dict[str, Any]], str | None]:
    """Inspections and the cursor of the next page, None after the last one."""
    rows = session.execute(filter.applied(joined()).limit(min(most, MOST) + 1)).all()
    page = rows[: min(most, MOST)]
    shown = [public(row, line, digest) for row, line, digest in page]
    return shown, page[-1][0].id if len(rows) > len(page) else None


def one(session: Session, id: str) -> tuple[Inspection, str, str]:
    """An inspection, the name of its line and the digest of its model. Raises `NotFoundError`."""
    found = session.execute(joined().where(Inspection.id == id)).first()
    if found is None:
        raise NotFoundError(f"inspection {id[:40]}: does not exist")
    row, line, digest = found
    return row, line, digest


def reviews_of(session: Session, id: str) -> list[Review]:
    """Reviews of an inspection, oldest first."""
    return list(session.scalars(select(Review).where(Review.inspection_id == id).order_by(Review.id)))


def review(
    database: Database, id: str, by: str, verdict: str, defect_class: str | None = None, comment: str = ""
) -> dict[str, Any]:
    """Add a review. Raises `InputError` or `NotFoundError`."""
    if verdict not in (OK, NG):
        raise InputError(f"verdict {verdict[:40]!r}: give ok or ng")
    if len(comment) > LONGEST_COMMENT or len(defect_class or "") > LONGEST_CLASS:
        raise InputError(f"a class has at most {LONGEST_CLASS} characters, a comment {LONGEST_COMMENT}")
    if "\0" in comment + (defect_class or ""):
        raise InputError("a class or comment has a NUL character")  # PostgreSQL stores none
    with database.write() as session:
        row, line, _ = one(session, id)
        added = Review(
            inspection_id=id, at=datetime.now(UTC), by=by, verdict=verdict, defect_class=defect_class or None, comment=comment
        )
        session.add(added)
        row.review = verdict
        session.flush()
        shown = public_review(added)
        data = {"review": added.id, "row": events.digest_of(shown | {"at": added.at.isoformat()}), "verdict": verdict}
        events.append(session, "review", id, by, data | {"overrides": row.verdict != verdict}, line)
        return shown


def joined() -> Select[Inspection, str, str]:
    """Inspections with the name of their line and the digest of their model."""
    return (
        select(Inspection, Line.name, ModelVersion.digest)
        .join(Line, Line.id == Inspection.line_id)
        .join(ModelVersion, ModelVersion.id == Inspection.model_version_id)
    )


def media_file(folder: StationFolder, row: Inspection, kind: str) -> Path:
    """Path of a file of an inspection. Raises `NotFoundError` if it is not kept."""
    name = {"image": row.image_file, "heat": HEAT, "thumbnail": THUMB}[kind]
    path = folder.inspection(row.id, row.judged_at) / name
    if not row.media_kept or not path.is_file():
        raise NotFoundError(f"inspection {row.id}: its {kind} is not kept")
    return path


def _evidence(row: Inspection) -> dict[str, Any]:
    return {"row": events.digest_of(facts(row)), "image": row.image_sha256, "verdict": row.verdict}


def _row(judged: Judged) -> Inspection:
    part, result = judged.part, judged.result
    suffix = re.sub(r".*(?=\.)", "", part.image_name.lower())
    height, width = (None, None) if result is None else result.anomaly_map.shape
    appearance = None if result is None else [float(value) for value in result.appearance] or None
    return Inspection(
        id=new_id(),
        line_id=judged.loaded.line_id,
        model_version_id=judged.loaded.version_id,
        serial=part.serial,
        lot=part.lot,
        taken_at=part.taken_at,
        judged_at=datetime.now(UTC),
        verdict=UNREADABLE if result is None else NG if result.anomalous else OK,
        score=None if result is None else result.score,
        p_value=None if result is None else result.p_value,
        whole_p_value=None if result is None else result.whole_p_value,
        threshold=judged.loaded.detector.model.calibration.threshold,
        regions=[] if result is None else [region_row(region) for region in result.regions],
        pose=None if result is None or result.pose is None else asdict(result.pose),
        zones=None if result is None or not result.zones else [asdict(zone) for zone in result.zones],
        appearance=appearance,
        error=None if judged.error is None else _reason(judged),
        width=width,
        height=height,
        duration_ms=round(judged.duration_ms, 2),
        source=part.source,
        by=part.by,
        image_name=part.image_name,
        image_file=f"image{suffix if suffix in SUFFIXES else '.image'}",
        image_sha256=part.image_sha256,
        media_bytes=0,
        media_kept=True,
        idempotency_key=part.idempotency_key,
        request_sha256=part.request_sha256,
        review=None,
    )


def _reason(judged: Judged) -> str:
    """Why the image could not be read, with the name that the client gave it."""
    return str(judged.error).replace(str(judged.part.image), judged.part.image_name)
