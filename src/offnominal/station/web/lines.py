"""Routes of lines and their model versions."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi.responses import FileResponse
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from offnominal.errors import ModelFileError
from offnominal.station import lines
from offnominal.station.accounts import Identity
from offnominal.station.errors import NotFoundError
from offnominal.station.folder import remove
from offnominal.station.settings import LineSettings
from offnominal.station.station import Station
from offnominal.station.tables import Event, Line
from offnominal.station.web import uploads
from offnominal.station.web.guard import identity_of
from offnominal.station.web.problems import RESPONSES
from offnominal.station.web.schemas import LineState, ModelVersion, NewLine

router = APIRouter(prefix="/api", tags=["lines"], responses=RESPONSES)
Caller = Annotated[Identity, Depends(identity_of)]


@router.get("/lines", response_model=list[LineState])
def all_lines(request: Request, caller: Caller) -> list[dict[str, Any]]:
    """All lines with their active models."""
    station: Station = request.app.state.station
    with station.database.read() as session:
        return [_state(station, session, entry.line) for entry in lines.all_lines(session)]


@router.post("/lines", status_code=201, response_model=LineState)
def create(given: NewLine, request: Request, caller: Caller) -> dict[str, Any]:
    """Create a line. Role: engineer."""
    caller.require("engineer")
    station: Station = request.app.state.station
    with station.database.write() as session:
        return _state(station, session, lines.create_line(session, given.name, caller.name))


@router.get("/lines/{line}", response_model=LineState)
def one(line: str, request: Request, caller: Caller) -> dict[str, Any]:
    """One line."""
    station: Station = request.app.state.station
    with station.database.read() as session:
        return _state(station, session, lines.line_named(session, line))


@router.get("/lines/{line}/models", response_model=list[ModelVersion])
def models(line: str, request: Request, caller: Caller) -> list[dict[str, Any]]:
    """Model versions of a line, newest first."""
    station: Station = request.app.state.station
    with station.database.read() as session:
        of = lines.line_named(session, line)
        active = lines.active(session, of)
        return [lines.public_version(version, None if active is None else active.id) for version in lines.versions(session, of)]


@router.post("/lines/{line}/models", status_code=201, response_model=ModelVersion)
def upload(
    line: str,
    request: Request,
    caller: Caller,
    model: Annotated[UploadFile, File(description="A model file that fit wrote.")],
    comment: Annotated[str, Form(max_length=2000)] = "",
) -> dict[str, Any]:
    """Add a model version; it is checked, not activated. Role: engineer."""
    caller.require("engineer")
    station: Station = request.app.state.station
    with station.database.read() as session:
        of = lines.line_named(session, line)
        active = lines.active(session, of)
    file = uploads.receive_model(station, model)
    try:
        added = lines.add_version(station.database, station.folder, line, file, caller.name, comment=comment)
    except ModelFileError as error:
        raise ModelFileError(str(error).replace(str(file), "model")) from None
    finally:
        remove(file)
    return lines.public_version(added, None if active is None else active.id)


@router.get("/lines/{line}/models/{digest}", response_class=FileResponse)
def download(line: str, digest: str, request: Request, caller: Caller) -> FileResponse:
    """The model file. Role: engineer."""
    caller.require("engineer")
    station: Station = request.app.state.station
    with station.database.read() as session:
        version = lines.version_of(session, lines.line_named(session, line), digest)
    name, file = f"{line}-{version.number}.safetensors", station.folder.model(version.digest)
    if not file.is_file():
        raise NotFoundError(f"line {line}: the file of model {version.digest[:12]} is missing")
    return FileResponse(file, media_type="application/octet-stream", filename=name)


@router.post("/lines/{line}/models/{digest}/activate", response_model=ModelVersion)
def activate(line: str, digest: str, request: Request, caller: Caller) -> dict[str, Any]:
    """Use a model version from the next image on. Role: engineer."""
    caller.require("engineer")
    station: Station = request.app.state.station
    version = station.activate(line, digest, caller.name)
    return lines.public_version(version, version.id)


@router.post("/lines/{line}/rollback", response_model=ModelVersion)
def roll_back(line: str, request: Request, caller: Caller) -> dict[str, Any]:
    """Return to the model version that was active before. Role: engineer."""
    caller.require("engineer")
    station: Station = request.app.state.station
    version = station.roll_back(line, caller.name)
    return lines.public_version(version, version.id)


@router.post("/lines/{line}/models/rollback", response_model=ModelVersion, include_in_schema=False)
def roll_back_alias(line: str, request: Request, caller: Caller) -> dict[str, Any]:
    """As `rollback` of the line."""
    return roll_back(line, request, caller)


@router.post("/lines/{line}/drift/reset", status_code=204)
def reset_drift(line: str, request: Request, caller: Caller) -> None:
    """Start the drift monitor anew, after the cause was corrected. Role: engineer."""
    caller.require("engineer")
    station: Station = request.app.state.station
    station.reset_drift(line, caller.name)


def _state(station: Station, session: Session, line: Line) -> dict[str, Any]:
    active, loaded = lines.active(session, line), station.judge.loaded(line.name)
    last = session.scalar(select(func.max(Event.id)).where(Event.line == line.name))
    sources = station.settings.lines.get(line.name, LineSettings()).sources
    return {
        "name": line.name,
        "created_at": line.created_at,
        "model": None if active is None else lines.public_version(active, active.id),
        "ready": loaded is not None,
        "problem": station.line_problem(line.name),
        "drift": station.drift(line.name),
        "sources": [source.folder for source in sources],
        "last_event": last or 0,
    }
