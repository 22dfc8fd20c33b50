"""Routes of inspections and reviews."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, File, Form, Header, Query, Request, UploadFile
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from offnominal.station import inspections
from offnominal.station.accounts import Identity
from offnominal.station.inspections import MOST, Filter
from offnominal.station.judge import Part
from offnominal.station.pictures import picture_file, receipt_file
from offnominal.station.settings import LineSettings
from offnominal.station.station import Station
from offnominal.station.web import uploads
from offnominal.station.web.guard import identity_of
from offnominal.station.web.problems import RESPONSES
from offnominal.station.web.schemas import Inspection, InspectionPage, NewReview, Review, ReviewedInspection, Verdict

router = APIRouter(prefix="/api", tags=["inspections"], responses=RESPONSES)
Caller = Annotated[Identity, Depends(identity_of)]
Limit = Annotated[int, Query(ge=1, le=MOST, description="Inspections per page.")]

#: Media types under which images are sent; a browser shows no other.
IMAGE_TYPES = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".bmp": "image/bmp", ".webp": "image/webp",
    ".tif": "image/tiff", ".tiff": "image/tiff",
}  # fmt: skip
#: Files of an inspection never change.
_CACHED = {"Cache-Control": "private, max-age=31536000, immutable"}


def filter_of(
    serial: Annotated[str | None, Query()] = None,
    lot: Annotated[str | None, Query()] = None,
    verdict: Annotated[Verdict | None, Query()] = None,
    review: Annotated[Literal["ok", "ng", "any", "none"] | None, Query(description="Verdict of the latest review.")] = None,
    since: Annotated[str | None, Query(description="Judged at this time or later.")] = None,
    until: Annotated[str | None, Query(description="Judged before this time.")] = None,
    after: Annotated[str | None, Query(description="`next` of the page before.", max_length=64)] = None,
    order: Annotated[Literal["newest", "oldest"], Query(description="What comes first.")] = "newest",
) -> Filter:
    """Dependency: the filter of a list."""
    return Filter(
        serial=serial,
        lot=lot,
        verdict=verdict,
        review=review,
        since=uploads.instant("since", since),
        until=uploads.instant("until", until),
        after=after,
        oldest_first=order == "oldest",
    )


@router.post("/lines/{line}/inspections", status_code=201, response_model=Inspection)
async def inspect(
    line: str,
    request: Request,
    caller: Caller,
    image: Annotated[UploadFile | None, File(description="The image.")] = None,
    path: Annotated[str | None, Form(description="Instead of `image`: a path in an allowed folder of the line.")] = None,
    serial: Annotated[str | None, Form(examples=["A-0042"])] = None,
    lot: Annotated[str | None, Form(examples=["2026-48"])] = None,
    taken_at: Annotated[str | None, Form(examples=["2026-11-30T14:05:00+01:00"])] = None,
    idempotency_key: Annotated[
        str | None, Header(description="The same key gives the same answer and one row, however often it is sent.")
    ] = None,
) -> dict[str, Any]:
    """Inspect a part: the verdict, once the image and the row are on disk. Role: operator."""
    caller.require("operator")
    station: Station = request.app.state.station
    station.require_space()
    fields = {"image": image, "path": path, "serial": serial, "lot": lot, "taken_at": taken_at}
    part = await run_in_threadpool(_part, station, line, fields, idempotency_key, caller.name)
    future = await run_in_threadpool(station.inspect, part)
    return await asyncio.wrap_future(future)


@router.get("/lines/{line}/inspections", response_model=InspectionPage)
def of_line(
    line: str, request: Request, caller: Caller, filter: Annotated[Filter, Depends(filter_of)], limit: Limit = 100
) -> dict[str, Any]:
    """Inspections of a line."""
    return _listed(request, replace(filter, line=line), limit)


@router.get("/inspections", response_model=InspectionPage)
def of_all(
    request: Request,
    caller: Caller,
    filter: Annotated[Filter, Depends(filter_of)],
    line: Annotated[str | None, Query()] = None,
    limit: Limit = 100,
) -> dict[str, Any]:
    """Inspections of all lines."""
    return _listed(request, replace(filter, line=line), limit)


@router.get("/inspections/{id}", response_model=ReviewedInspection)
def one(id: str, request: Request, caller: Caller) -> dict[str, Any]:
    """One inspection with its reviews."""
    station: Station = request.app.state.station
    with station.database.read() as session:
        row, line, digest = inspections.one(session, id)
        return inspections.public(row, line, digest, inspections.reviews_of(session, id))


@router.get("/inspections/{id}/receipt", response_class=FileResponse)
def receipt(id: str, request: Request, caller: Caller) -> FileResponse:
    """The evidence of the leading region as a picture, drawn on first request."""
    station: Station = request.app.state.station
    return FileResponse(receipt_file(station, id), media_type="image/jpeg", headers=_CACHED)


@router.get("/inspections/{id}/picture", response_class=FileResponse)
def picture(id: str, request: Request, caller: Caller) -> FileResponse:
    """The image in a format that browsers show; other formats are converted on first request."""
    station: Station = request.app.state.station
    path = picture_file(station, id)
    return FileResponse(path, media_type=IMAGE_TYPES[path.suffix], headers=_CACHED)


@router.get("/inspections/{id}/{kind}", response_class=FileResponse)
def file(id: str, kind: Literal["image", "heat", "thumbnail"], request: Request, caller: Caller) -> FileResponse:
    """The image as it was received, the heat map over it, or a thumbnail of that."""
    station: Station = request.app.state.station
    with station.database.read() as session:
        row, _, _ = inspections.one(session, id)
    path = inspections.media_file(station.folder, row, kind)
    media_type = IMAGE_TYPES.get(path.suffix, "application/octet-stream")
    return FileResponse(path, media_type=media_type, headers=_CACHED)


@router.post("/inspections/{id}/reviews", status_code=201, response_model=Review)
def review(id: str, given: NewReview, request: Request, caller: Caller) -> dict[str, Any]:
    """Review a part: OK or NG, with a class and a comment. The latest review counts. Role: operator."""
    caller.require("operator")
    station: Station = request.app.state.station
    added = inspections.review(station.database, id, caller.name, given.verdict, given.defect_class, given.comment)
    station.feed.notify()
    return added


def _listed(request: Request, filter: Filter, limit: int) -> dict[str, Any]:
    station: Station = request.app.state.station
    with station.database.read() as session:
        items, after = inspections.listed(session, filter, limit)
    return {"items": items, "next": after}


def _part(station: Station, line: str, fields: Mapping[str, Any], key: str | None, by: str) -> Part:
    texts = {name: uploads.text(name, fields.get(name)) for name in ("serial", "lot", "taken_at", "path")}
    key = uploads.text("Idempotency-Key", key)
    taken_at = uploads.instant("taken_at", texts["taken_at"])
    upload = fields.get("image")
    allowed = station.settings.lines.get(line, LineSettings()).allowed_folders
    received = uploads.receive(station, upload, texts["path"], allowed)
    return Part(
        line=line,
        image=received.path,
        image_name=received.name,
        image_sha256=received.sha256,
        by=by,
        serial=texts["serial"],
        lot=texts["lot"],
        taken_at=taken_at,
        idempotency_key=key,
        request_sha256=uploads.request_digest(received, texts["serial"], texts["lot"], texts["taken_at"]),
    )
