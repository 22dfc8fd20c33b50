"""Lines and their model versions: upload, activation, rollback."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from offnominal.errors import InputError
from offnominal.station import events
from offnominal.station.database import Database
from offnominal.station.errors import ConflictError, NotFoundError
from offnominal.station.folder import StationFolder, file_digest, move_synced, remove, sync_folder, write_problem
from offnominal.station.settings import NAME
from offnominal.station.tables import Activation, Line, ModelVersion

if TYPE_CHECKING:
    from offnominal.model import Model


@dataclass(frozen=True)
class ActiveVersion:
    """A line and the model version that is active on it; None before the first activation."""

    line: Line
    version: ModelVersion | None


def create_line(session: Session, name: str, by: str) -> Line:
    """Create a line. Raises `InputError` for a bad name and `ConflictError` if it exists."""
    if not re.fullmatch(NAME, name):
        raise InputError(
            f"line {name[:70]!r}: a name has up to 64 letters, digits, '.', '_' or '-', and starts with a letter or digit"
        )
    if session.scalar(select(Line).where(Line.name == name)) is not None:
        raise ConflictError(f"line {name}: exists already")
    line = Line(name=name, created_at=datetime.now(UTC), activation=None)
    session.add(line)
    session.flush()
    events.append(session, "line.created", name, by, {}, name)
    return line


def line_named(session: Session, name: str) -> Line:
    """A line by its name. Raises `NotFoundError`."""
    line = session.scalar(select(Line).where(Line.name == name))
    if line is None:
        raise NotFoundError(f"line {name[:70]}: does not exist")
    return line


def active(session: Session, line: Line) -> ModelVersion | None:
    """The active model version of a line."""
    if line.activation is None:
        return None
    return session.scalar(
        select(ModelVersion)
        .join(Activation, Activation.model_version_id == ModelVersion.id)
        .where(Activation.id == line.activation)
    )


def all_lines(session: Session) -> list[ActiveVersion]:
    """All lines by name, with their active versions."""
    return [ActiveVersion(line, active(session, line)) for line in session.scalars(select(Line).order_by(Line.name))]


def version_of(session: Session, line: Line, digest: str) -> ModelVersion:
    """A model version by its digest. Raises `NotFoundError`."""
    version = session.scalar(select(ModelVersion).where(ModelVersion.line_id == line.id, ModelVersion.digest == digest))
    if version is None:
        raise NotFoundError(f"line {line.name}: has no model {digest[:12]}")
    return version


def versions(session: Session, line: Line) -> list[ModelVersion]:
    """Model versions of a line, newest first."""
    return list(
        session.scalars(select(ModelVersion).where(ModelVersion.line_id == line.id).order_by(ModelVersion.number.desc()))
    )


def add_version(
    database: Database,
    folder: StationFolder,
    line: str,
    file: Path,
    by: str,
    *,
    source: str = "upload",
    parent: str | None = None,
    comment: str = "",
) -> ModelVersion:
    """Check a model file and keep it as a version of a line; a version that exists already is returned.

    Parameters
    ----------
    database, folder
        Of the station.
    line
        Name of the line.
    file
        The file; it is moved into the station.
    by
        Who adds it.
    source, parent, comment
        As in `ModelVersion`.

    Raises
    ------
    ModelFileError
        The file is damaged, foreign or incompatible.
    NotFoundError
        The line does not exist.
    UnavailableError
        The disk is full.
    """
    from offnominal.model import load_model  # slow to import; most commands need no model

    model = load_model(file)
    digest, size = file_digest(file), file.stat().st_size
    target = folder.model(digest)
    try:
        if target.exists() and file_digest(target) == digest:
            remove(file)
        else:
            move_synced(file, target)
            os.chmod(target, 0o600)
            sync_folder(folder.models)
    except OSError as error:
        raise write_problem(error) from None
    with database.write() as session:
        of = line_named(session, line)
        known = session.scalar(select(ModelVersion).where(ModelVersion.line_id == of.id, ModelVersion.digest == digest))
        if known is not None:
            return known
        last = session.scalar(select(func.max(ModelVersion.number)).where(ModelVersion.line_id == of.id)) or 0
        version = _version(model, of, last + 1, digest, size, by)
        version.source, version.parent, version.comment = source, parent, comment
        session.add(version)
        session.flush()
        data = {"number": version.number, "size": size, "source": source, "parent": parent, "promise": version.promise}
        events.append(session, "model.added", digest, by, data, line)
        return version


def activate(session: Session, line: Line, version: ModelVersion, by: str, *, rollback: bool = False) -> Activation:
    """Make a version the active one, if it is not. A rollback continues the history before the version that it returns to."""
    previous = line.activation
    current = None if line.activation is None else session.get(Activation, line.activation)
    if current is not None and current.model_version_id == version.id and not rollback:
        return current  # so that a rollback returns to another version
    if rollback:
        back = session.get(Activation, current.previous) if current is not None and current.previous is not None else None
        previous = None if back is None else back.previous
    activation = Activation(line_id=line.id, model_version_id=version.id, previous=previous, at=datetime.now(UTC), by=by)
    session.add(activation)
    session.flush()
    line.activation = activation.id
    kind = "model.rolled_back" if rollback else "model.activated"
    events.append(session, kind, version.digest, by, {"number": version.number, "promise": version.promise}, line.name)
    return activation


def rollback_target(session: Session, line: Line) -> ModelVersion:
    """The version that was active before the current one. Raises `ConflictError` if there is none."""
    current = session.get(Activation, line.activation) if line.activation is not None else None
    before = session.get(Activation, current.previous) if current is not None and current.previous is not None else None
    version = session.get(ModelVersion, before.model_version_id) if before is not None else None
    if version is None:
        raise ConflictError(f"line {line.name}: no earlier model to return to")
    return version


def public_version(version: ModelVersion, active_id: int | None) -> dict[str, Any]:
    """A model version as the HTTP API shows it."""
    return {
        "digest": version.digest,
        "number": version.number,
        "active": version.id == active_id,
        "source": version.source,
        "parent": version.parent,
        "size": version.size,
        "images": version.images,
        "threshold": version.threshold,
        "false_alarm_rate": version.false_alarm_rate,
        "promise": version.promise,
        "comment": version.comment,
        "added_at": version.added_at,
        "added_by": version.added_by,
    }


def _version(model: Model, line: Line, number: int, digest: str, size: int, by: str) -> ModelVersion:
    from offnominal.outputs.guarantee import promise

    return ModelVersion(
        line_id=line.id,
        number=number,
        digest=digest,
        size=size,
        source="upload",
        parent=None,
        threshold=model.calibration.threshold,
        false_alarm_rate=model.calibration.rate,
        promise=promise(model),
        images=len(model.sources),
        comment="",
        added_at=datetime.now(UTC),
        added_by=by,
    )
