"""Routes of learning from reviews."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from sqlalchemy import select
from sqlalchemy.orm import Session

from offnominal.station import inspections, lines, teach
from offnominal.station.accounts import Identity
from offnominal.station.station import Station
from offnominal.station.tables import Candidate as CandidateRow
from offnominal.station.tables import Inspection as InspectionRow
from offnominal.station.tables import Line, ModelVersion
from offnominal.station.web.guard import identity_of
from offnominal.station.web.problems import RESPONSES
from offnominal.station.web.schemas import Candidate, NewCandidate, Teaching

router = APIRouter(prefix="/api", tags=["teach"], responses=RESPONSES)
Caller = Annotated[Identity, Depends(identity_of)]
#: Candidates in the list, newest first.
LATEST = 20


@router.get("/lines/{line}/teach", response_model=Teaching)
def teaching(line: str, request: Request, caller: Caller) -> dict[str, Any]:
    """Parts that are proposed for learning, parts that were missed, and the latest candidates."""
    station: Station = request.app.state.station
    with station.database.read() as session:
        of = lines.line_named(session, line)
        candidates = session.scalars(
            select(CandidateRow).where(CandidateRow.line_id == of.id).order_by(CandidateRow.id.desc()).limit(LATEST)
        ).all()
        return {
            "proposed": _parts(session, teach.proposed(session, of)),
            "missed": _parts(session, teach.missed(session, of)),
            "candidates": [_public(session, candidate, of, with_changes=False) for candidate in candidates],
        }


@router.post("/lines/{line}/candidates", status_code=202, response_model=Candidate)
def propose(line: str, given: NewCandidate, request: Request, caller: Caller) -> dict[str, Any]:
    """Make a new version that has learned these parts, and replay history with it. Role: engineer."""
    caller.require("engineer")
    station: Station = request.app.state.station
    candidate = station.teacher.propose(line, given.inspections, caller.name)
    with station.database.read() as session:
        return _public(session, *teach.candidate_of(session, candidate.id))


@router.get("/candidates/{id}", response_model=Candidate)
def one(id: int, request: Request, caller: Caller) -> dict[str, Any]:
    """A candidate with the verdicts that it changes."""
    station: Station = request.app.state.station
    with station.database.read() as session:
        return _public(session, *teach.candidate_of(session, id))


@router.post("/candidates/{id}/activate", response_model=Candidate)
def activate(id: int, request: Request, caller: Caller) -> dict[str, Any]:
    """Use the new version from the next image on. Role: engineer."""
    caller.require("engineer")
    station: Station = request.app.state.station
    return _close(station, id, caller, teach.ACTIVATED)


@router.post("/candidates/{id}/dismiss", response_model=Candidate)
def dismiss(id: int, request: Request, caller: Caller) -> dict[str, Any]:
    """Do not use the new version. Role: engineer."""
    caller.require("engineer")
    station: Station = request.app.state.station
    return _close(station, id, caller, teach.DISMISSED)


def _close(station: Station, id: int, caller: Identity, state: str) -> dict[str, Any]:
    with station.database.read() as session:
        candidate, line = teach.candidate_of(session, id)
        version = teach.version_of(session, candidate)
    if state == teach.ACTIVATED and candidate.state == teach.READY:
        station.activate(line.name, version.digest, caller.name)
    with station.database.write() as session:
        candidate, line = teach.candidate_of(session, id)
        station.teacher.set_state(session, candidate, state, caller.name, line.name)
        session.flush()
        return _public(session, candidate, line)


def _parts(session: Session, ids: Sequence[str]) -> list[dict[str, Any]]:
    rows = session.execute(inspections.joined().where(InspectionRow.id.in_(ids))).all() if ids else []
    parts = {row.id: inspections.public(row, line, digest) for row, line, digest in rows}
    return [parts[id] for id in ids]


def _public(session: Session, candidate: CandidateRow, line: Line, *, with_changes: bool = True) -> dict[str, Any]:
    base = session.get(ModelVersion, candidate.base_id)
    made = None if candidate.model_version_id is None else session.get(ModelVersion, candidate.model_version_id)
    result = candidate.result
    if result is not None:
        changes = result["changes"] if with_changes else []
        parts = {part["id"]: part for part in _parts(session, [change["id"] for change in changes])}
        result = {**result, "changes": [{**change, "inspection": parts[change["id"]]} for change in changes]}
    active = lines.active(session, line)
    active_id = None if active is None else active.id
    return {
        "id": candidate.id,
        "line": line.name,
        "state": candidate.state,
        "progress": candidate.progress,
        "error": candidate.error,
        "inspections": candidate.inspections,
        "base": None if base is None else lines.public_version(base, active_id),
        "model": None if made is None else lines.public_version(made, active_id),
        "result": result,
        "at": candidate.at,
        "by": candidate.by,
    }
