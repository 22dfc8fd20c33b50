"""The pages: static files without data. Scripts fetch the data from the API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles

from offnominal import reports

router = APIRouter(include_in_schema=False)
STATIC = Path(__file__).parents[1] / "static"
#: Assets of the report that the pages share.
REPORT = Path(reports.__file__).parent / "assets"
SHARED = {"page.css": "text/css", "theme.js": "text/javascript"}
#: Path -> file in `static`.
PAGES = {
    "/": "index.html",
    "/login": "login.html",
    "/first": "first.html",
    "/history": "history.html",
    "/charts": "charts.html",
    "/teach": "teach.html",
    "/settings": "settings.html",
    "/line/{name}": "line.html",
}


def _page(file: str) -> FileResponse:
    return FileResponse(STATIC / file, media_type="text/html; charset=utf-8", headers={"Cache-Control": "no-cache"})


for _path, _file in PAGES.items():
    router.add_api_route(_path, lambda file=_file: _page(file), methods=["GET"], name=_file)


@router.get("/favicon.ico")
def icon() -> Response:
    """No icon."""
    return Response(status_code=204)


@router.get("/static/report/{name}")
def shared(name: str) -> Response:
    """A style sheet or script of the report."""
    if name not in SHARED:
        return Response(status_code=404)
    return FileResponse(REPORT / name, media_type=SHARED[name], headers={"Cache-Control": "no-cache"})


class _Static(StaticFiles):
    """Files that a browser asks for again, so that after an upgrade no old script runs with a new one."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """The file, or that it has not changed."""
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


def mount_static(app: FastAPI) -> None:
    """Serve the files of `static`."""
    app.mount("/static", _Static(directory=STATIC), name="static")
