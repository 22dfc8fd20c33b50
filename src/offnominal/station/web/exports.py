"""Routes of exports."""

from __future__ import annotations

from dataclasses import replace
from threading import Lock
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import FileResponse, StreamingResponse
from starlette.background import BackgroundTask

from offnominal.station import exports
from offnominal.station.accounts import Identity
from offnominal.station.folder import remove
from offnominal.station.inspections import Filter
from offnominal.station.station import Station
from offnominal.station.web.guard import identity_of
from offnominal.station.web.inspections import filter_of
from offnominal.station.web.problems import RESPONSES

router = APIRouter(prefix="/api", tags=["exports"], responses=RESPONSES)
Caller = Annotated[Identity, Depends(identity_of)]
Selection = Annotated[Filter, Depends(filter_of)]
Name = Annotated[str | None, Query()]
#: One report is written at a time, so that each sees the space that the others left.
_writing = Lock()


@router.get("/export.csv", response_class=StreamingResponse, responses={200: {"content": {"text/csv": {}}}})
def csv(request: Request, caller: Caller, selection: Selection, line: Name = None) -> StreamingResponse:
    """The selection as CSV."""
    station: Station = request.app.state.station
    headers = {"Content-Disposition": 'attachment; filename="inspections.csv"'}
    return StreamingResponse(
        exports.csv_lines(station.database, replace(selection, line=line)), media_type="text/csv", headers=headers
    )


@router.get("/report.zip", response_class=FileResponse, responses={200: {"content": {"application/zip": {}}}})
def report(request: Request, caller: Caller, selection: Selection, line: Name = None) -> FileResponse:
    """The selection as a report that needs no network: `report.html` and its pictures."""
    station: Station = request.app.state.station
    target = station.folder.new_upload()
    try:
        with _writing:
            exports.write_report(station.database, station.folder, station.settings.keep, replace(selection, line=line), target)
    except BaseException:
        remove(target)
        raise
    return FileResponse(target, media_type="application/zip", filename="report.zip", background=BackgroundTask(remove, target))
