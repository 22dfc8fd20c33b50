"""Server-sent events of a line: inspections, reviews, models. A client that reconnects misses nothing."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.encoders import jsonable_encoder
from fastapi.responses import StreamingResponse
from sqlalchemy import func, select
from starlette.concurrency import run_in_threadpool

from offnominal.station import inspections, lines
from offnominal.station.accounts import Identity
from offnominal.station.errors import StationError, UnavailableError
from offnominal.station.station import Station
from offnominal.station.tables import Event, Inspection
from offnominal.station.web.guard import identity_of
from offnominal.station.web.problems import RESPONSES

router = APIRouter(prefix="/api", tags=["events"], responses=RESPONSES)
#: Events read at once, and seconds between two signs of life.
MOST, HEARTBEAT = 200, 10.0
#: Streams at the same time; each reads every new event.
STREAMS = 64
#: Kinds whose events carry the inspection.
OF_INSPECTIONS = ("inspection", "review")


@router.get("/lines/{line}/events", response_class=StreamingResponse)
async def events(
    line: str,
    request: Request,
    caller: Annotated[Identity, Depends(identity_of)],
    after: Annotated[int | None, Query(ge=0, lt=2**63, description="Number of the last event already seen.")] = None,
    last_event_id: Annotated[str | None, Header(description="Sent by browsers that reconnect.")] = None,
) -> StreamingResponse:
    """Events as `text/event-stream`: the `id` is the number of the event, the data has `kind`, `at`, `by`, `subject`, and for
    inspections and reviews the `inspection`. Without `after` only new events are sent."""
    station: Station = request.app.state.station
    if station.feed.listeners >= STREAMS:
        raise UnavailableError(f"{STREAMS} streams of events are open already; close one", retry_after=10)
    start = int(last_event_id) if last_event_id and re.fullmatch("[0-9]{1,18}", last_event_id) else after
    start = await run_in_threadpool(_start, station, line, start)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(station, line, start, request), media_type="text/event-stream", headers=headers)


async def _stream(station: Station, line: str, last: int, request: Request) -> AsyncIterator[str]:
    yield "retry: 1000\n\n"
    with station.feed.listen() as wake:
        while not station.stopping:
            wake.clear()
            try:
                found = await run_in_threadpool(_after, station, line, last)
            except UnavailableError as error:
                yield f"event: problem\ndata: {json.dumps({'detail': str(error)})}\n\n"
                await asyncio.sleep(1)
                continue
            except StationError:
                return
            for number, data in found:
                yield f"id: {number}\ndata: {data}\n\n"
                last = number
            if found:
                continue
            try:
                await asyncio.wait_for(wake.wait(), HEARTBEAT)
            except TimeoutError:
                yield ": alive\n\n"


def _start(station: Station, line: str, given: int | None) -> int:
    with station.database.read() as session:
        lines.line_named(session, line)
        return given if given is not None else session.scalar(select(func.max(Event.id))) or 0


def _after(station: Station, line: str, last: int) -> list[tuple[int, str]]:
    with station.database.read() as session:
        found = session.scalars(select(Event).where(Event.line == line, Event.id > last).order_by(Event.id).limit(MOST)).all()
        ids = {event.subject for event in found if event.kind in OF_INSPECTIONS}
        rows = session.execute(inspections.joined().where(Inspection.id.in_(ids))).all() if ids else []
        parts = {row.id: inspections.public(row, name, digest) for row, name, digest in rows}
    return [(event.id, json.dumps(jsonable_encoder(_public(event, parts.get(event.subject))))) for event in found]


def _public(event: Event, inspection: dict[str, Any] | None) -> dict[str, Any]:
    shown = {"kind": event.kind, "at": event.at, "by": event.by, "subject": event.subject, "data": json.loads(event.data)}
    return shown if inspection is None else {**shown, "inspection": inspection}
