"""Learning from reviews: propose parts, update the model, replay history before anything is activated.

Only parts that were reviewed OK are learned. Parts reviewed NG that had passed are listed as missed; nothing is learned from
them. A candidate goes through `updating` and `replaying` to `ready`, then to `activated` or `dismissed`; or to `failed`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from offnominal.detector import Detector, load
from offnominal.errors import ImageError, InputError, OffnominalError, reason_of
from offnominal.inference import worker_pool
from offnominal.observer import Observer
from offnominal.station import events, inspections, lines
from offnominal.station.database import Database
from offnominal.station.errors import ConflictError, NotFoundError, StationError
from offnominal.station.folder import StationFolder, remove
from offnominal.station.tables import NG, OK, Candidate, Inspection, Line, ModelVersion

#: Most parts of a candidate, of a proposal, and most changed verdicts that are kept.
MOST = 500
#: Images per replay step, and seconds between two writes of the progress.
STEP, WRITE_SECONDS = 16, 1.0
UPDATING, REPLAYING, READY = "updating", "replaying", "ready"
ACTIVATED, DISMISSED, FAILED = "activated", "dismissed", "failed"


class Teacher:
    """Makes candidates, one at a time, in a thread of its own.

    Parameters
    ----------
    database, folder
        Of the station.
    replay
        Number of the latest inspections that a candidate is replayed over.
    changed
        Called when a candidate has changed.
    """

    def __init__(self, database: Database, folder: StationFolder, replay: int, changed: Callable[[], None]) -> None:
        self._database, self._folder, self._replay, self._changed = database, folder, replay, changed
        self._stop = threading.Event()
        self._pool = worker_pool(1)

    def close(self) -> None:
        """Stop; a candidate in progress fails."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def fail_interrupted(self) -> None:
        """Mark candidates that an earlier process was making as failed."""
        with self._database.write() as session:
            session.execute(
                update(Candidate)
                .where(Candidate.state.in_((UPDATING, REPLAYING)))
                .values(state=FAILED, error="the station was stopped; propose the parts again")
            )

    def propose(self, line: str, ids: Sequence[str], by: str) -> Candidate:
        """Start to make a candidate from reviewed parts.

        Raises
        ------
        InputError
            A part was not reviewed OK, or its image is not kept.
        ConflictError
            Another candidate of the line is in progress, or no model is active.
        """
        if not 1 <= len(set(ids)) <= MOST:
            raise InputError(f"inspections: give 1 to {MOST} parts")
        with self._database.write() as session:
            of = lines.line_named(session, line)
            base = lines.active(session, of)
            if base is None:
                raise ConflictError(f"line {line}: no model is active")
            busy = select(Candidate).where(Candidate.line_id == of.id, Candidate.state.in_((UPDATING, REPLAYING)))
            if session.scalar(busy) is not None:
                raise ConflictError(f"line {line}: a new version is being made; wait until it is ready")
            rows = session.scalars(select(Inspection).where(Inspection.line_id == of.id, Inspection.id.in_(set(ids)))).all()
            if len(rows) != len(set(ids)):
                raise NotFoundError(f"line {line}: {len(set(ids)) - len(rows)} of the parts do not exist")
            for row in rows:
                if row.review != OK:
                    raise InputError(f"inspection {row.id}: its latest review is not OK; only good parts are learned")
                if not row.media_kept:
                    raise InputError(f"inspection {row.id}: its image is not kept")
            candidate = Candidate(
                line_id=of.id,
                base_id=base.id,
                model_version_id=None,
                state=UPDATING,
                progress=0.0,
                inspections=sorted(set(ids)),
                result=None,
                error=None,
                at=datetime.now(UTC),
                by=by,
            )
            session.add(candidate)
            session.flush()
            data = {"inspections": candidate.inspections, "base": base.digest}
            events.append(session, "candidate.proposed", str(candidate.id), by, data, line)
            images = [inspections.media_file(self._folder, row, "image") for row in rows]
        self._pool.submit(self._make, candidate.id, line, base.digest, images, by)
        return candidate

    def set_state(self, session: Session, candidate: Candidate, state: str, by: str, line: str) -> None:
        """Close a candidate that is ready: `activated` or `dismissed`. Raises `ConflictError`."""
        if candidate.state != READY:
            raise ConflictError(f"candidate {candidate.id}: is {candidate.state}, not ready")
        candidate.state = state
        events.append(session, f"candidate.{state}", str(candidate.id), by, {}, line)

    def _make(self, id: int, line: str, base: str, images: Sequence[Path], by: str) -> None:
        file = self._folder.new_upload()
        try:
            detector = load(self._folder.model(base))
            before = detector.model.calibration.threshold
            change = detector.update(add=list(images), observer=_Progress(self, id))
            detector.save(file)
            version = lines.add_version(
                self._database, self._folder, line, file, by, source="update", parent=base, comment=_comment(len(change.added))
            )
            result = self._replayed(id, detector, version.line_id)
            result |= {
                "threshold_before": before,
                "threshold_after": version.threshold,
                "promise": version.promise,
                "learned": len(change.added),
                "unreadable": len(change.skipped),
            }
            self._update(id, model_version_id=version.id, state=READY, progress=1.0, result=result)
        except _StoppedError:
            pass  # `fail_interrupted` marks it at the next start
        except (OffnominalError, OSError) as error:
            self._fail(id, reason_of(error))
        except Exception as error:
            self._fail(id, reason_of(error))
            raise
        finally:
            remove(file)

    def _replayed(self, id: int, detector: Detector, line_id: int) -> dict[str, Any]:
        """Inspect the latest parts of the line again; which verdicts change."""
        self._update(id, state=REPLAYING, progress=0.0)
        with self._database.read() as session:
            rows = session.scalars(
                select(Inspection)
                .where(Inspection.line_id == line_id, Inspection.media_kept, Inspection.score.is_not(None))
                .order_by(Inspection.id.desc())
                .limit(self._replay)
            ).all()
        changes: list[dict[str, Any]] = []
        replayed = wrong_before = wrong_after = changed = 0
        unread: list[ImageError] = []
        for start in range(0, len(rows), STEP):
            self._require_running()
            part = rows[start : start + STEP]
            images = [self._folder.inspection(row.id, row.judged_at) / row.image_file for row in part]
            for index, result in detector.inspect_many(images, failed=lambda index, error: unread.append(error)):
                row, verdict = part[index], NG if result.anomalous else OK
                replayed += 1
                wrong_before += row.review is not None and row.review != row.verdict
                wrong_after += row.review is not None and row.review != verdict
                changed += verdict != row.verdict
                if verdict != row.verdict and len(changes) < MOST:
                    after = {"verdict": verdict, "score": result.score, "p_value": result.p_value}
                    changes.append({"id": row.id, "before": {"verdict": row.verdict, "score": row.score}, "after": after})
            self._update(id, progress=(start + len(part)) / len(rows))
        return {
            "replayed": replayed,
            "changed": changed,
            "unchanged": replayed - changed,
            "not_replayed": len(unread),
            "wrong_before": wrong_before,
            "wrong_after": wrong_after,
            "changes": changes,
        }

    def _update(self, id: int, **values: Any) -> None:
        with self._database.write() as session:
            session.execute(update(Candidate).where(Candidate.id == id).values(**values))
        self._changed()

    def _fail(self, id: int, reason: str) -> None:
        with suppress(StationError):  # the database is away; `fail_interrupted` marks it at the next start
            self._update(id, state=FAILED, error=reason)

    def _require_running(self) -> None:
        if self._stop.is_set():
            raise _StoppedError


class _StoppedError(Exception):
    """The station stops."""


class _Progress(Observer):
    """Writes the progress of an update, at most once a second."""

    def __init__(self, teacher: Teacher, id: int) -> None:
        self._teacher, self._id, self._last = teacher, id, monotonic()

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Called as the update proceeds."""
        self._teacher._require_running()
        if total and monotonic() - self._last > WRITE_SECONDS:
            self._last = monotonic()
            self._teacher._update(self._id, progress=done / total)


def proposed(session: Session, line: Line) -> list[str]:
    """Identifiers of parts that could be learned: reviewed OK, image kept, not learned yet; false alarms first."""
    learned = {
        id
        for ids in session.scalars(
            select(Candidate.inspections).where(Candidate.line_id == line.id, Candidate.state == ACTIVATED)
        )
        for id in ids
    }
    rows = session.execute(
        select(Inspection.id, Inspection.verdict)
        .where(Inspection.line_id == line.id, Inspection.review == OK, Inspection.media_kept)
        .order_by(Inspection.id.desc())
        .limit(MOST + len(learned))
    ).all()
    return [row.id for row in sorted(rows, key=lambda row: row.verdict != NG) if row.id not in learned][:MOST]


def missed(session: Session, line: Line) -> list[str]:
    """Identifiers of parts that passed and were reviewed NG, newest first."""
    return list(
        session.scalars(
            select(Inspection.id)
            .where(Inspection.line_id == line.id, Inspection.review == NG, Inspection.verdict == OK)
            .order_by(Inspection.id.desc())
            .limit(MOST)
        )
    )


def candidate_of(session: Session, id: int) -> tuple[Candidate, Line]:
    """A candidate and its line. Raises `NotFoundError`."""
    found = session.execute(select(Candidate, Line).join(Line, Line.id == Candidate.line_id).where(Candidate.id == id)).first()
    if found is None:
        raise NotFoundError(f"candidate {id}: does not exist")
    candidate, line = found
    return candidate, line


def version_of(session: Session, candidate: Candidate) -> ModelVersion:
    """The model version that a candidate made. Raises `ConflictError` if it is not ready."""
    version = None if candidate.model_version_id is None else session.get(ModelVersion, candidate.model_version_id)
    if version is None:
        raise ConflictError(f"candidate {candidate.id}: is {candidate.state}, not ready")
    return version


def _comment(count: int) -> str:
    return f"learned {count} reviewed part" + ("" if count == 1 else "s")
