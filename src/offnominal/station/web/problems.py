"""Errors as `application/problem+json` (RFC 9457), mapped once from the error tree."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from offnominal.errors import InputError, ModelFileError, OffnominalError, OutputError, SettingsError
from offnominal.station import errors
from offnominal.station.folder import write_problem

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"

#: Status of each error; the first class that matches counts.
STATUS: tuple[tuple[type[Exception], HTTPStatus], ...] = (
    (errors.NotFoundError, HTTPStatus.NOT_FOUND),
    (errors.ConflictError, HTTPStatus.CONFLICT),
    (errors.UnauthenticatedError, HTTPStatus.UNAUTHORIZED),
    (errors.ForbiddenError, HTTPStatus.FORBIDDEN),
    (errors.TooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (errors.TooManyRequestsError, HTTPStatus.TOO_MANY_REQUESTS),
    (errors.UnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
    (OutputError, HTTPStatus.SERVICE_UNAVAILABLE),
    (InputError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (ModelFileError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (SettingsError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (OffnominalError, HTTPStatus.UNPROCESSABLE_ENTITY),
)


class Problem(BaseModel):
    """An error."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Service Unavailable"])
    status: int = Field(examples=[503])
    detail: str = Field(examples=["64 images wait already; try again later"])


#: Errors that every operation may answer, for the OpenAPI document.
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": description, "content": {MEDIA_TYPE: {}}}
    for status, description in (
        (400, "The body cannot be parsed"),
        (401, "No valid session or token"),
        (403, "The role does not suffice"),
        (404, "Not found"),
        (408, "The body stalls"),
        (409, "The state does not allow it"),
        (413, "Too large"),
        (422, "Wrong input"),
        (429, "Too many requests"),
        (503, "Try again later, see Retry-After"),
    )
}


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The response of an error."""
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": int(status), "detail": detail}
    return JSONResponse(content, status, headers, media_type=MEDIA_TYPE)


def problem_of(error: Exception) -> JSONResponse:
    """The response of a known error; an unknown one is logged and answered 500 without details."""
    for kind, status in STATUS:
        if isinstance(error, kind):
            headers = {}
            if isinstance(error, errors.UnavailableError):
                headers = {"Retry-After": str(error.retry_after)}
            elif isinstance(error, errors.TooManyRequestsError):
                headers = {"Retry-After": "1"}
            elif isinstance(error, errors.UnauthenticatedError):
                headers = {"WWW-Authenticate": "Bearer"}
            return problem(status, str(error), headers)
    log.error("unexpected error", exc_info=error)
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "unexpected error; the log of the station has the details")


def handle_errors(app: FastAPI) -> None:
    """Install the handlers of all errors."""

    @app.exception_handler(OffnominalError)
    def known(request: Request, error: OffnominalError) -> JSONResponse:
        return problem_of(error)

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__cause__, OSError):  # the framework takes a full disk for a wrong body
            return problem_of(write_problem(error.__cause__))
        return problem(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"{where}: {first['msg']}" if where else str(first["msg"]))

    @app.exception_handler(Exception)
    def unknown(request: Request, error: Exception) -> JSONResponse:
        return problem_of(error)
