"""The web application of a station."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from offnominal import __version__
from offnominal.station.station import Station
from offnominal.station.web import (
    accounts,
    events,
    exports,
    health,
    inspections,
    lines,
    open_inference,
    pages,
    statistics,
    teach,
)
from offnominal.station.web.document import document
from offnominal.station.web.guard import Guard, Rate
from offnominal.station.web.problems import handle_errors

DESCRIPTION = """Inspects parts, keeps every inspection, and takes reviews.

Send a machine token with every request: `Authorization: Bearer TOKEN`. Browsers log in and send the CSRF token of `/api/me` as
`X-CSRF-Token` with every change. Errors are `application/problem+json`."""

#: Fields and files of a form, and bytes of a field: fields are kept in memory.
FORM_LIMITS: Any = {"max_fields": 20, "max_files": 1, "max_part_size": 16_384}


def create_app(station: Station) -> FastAPI:
    """The application of a running station; an ASGI server serves it."""
    app = FastAPI(
        title="offnominal station",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        form_limits=FORM_LIMITS,
    )
    app.state.station = station
    per_minute = station.settings.limits.logins_per_minute
    app.state.logins = Rate(per_minute / 60, per_minute)
    handle_errors(app)
    for module in (health, accounts, lines, inspections, events, teach, statistics, exports, open_inference, pages):
        app.include_router(module.router)
    pages.mount_static(app)
    app.add_middleware(Guard, station=station)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app
