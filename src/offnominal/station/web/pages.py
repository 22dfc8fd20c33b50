"""The pages: they hold no data. Scripts fetch the data from the API."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse, HTMLResponse, Response
from fastapi.staticfiles import StaticFiles

from offnominal import reports

router = APIRouter(include_in_schema=False)
STATIC, TEMPLATES = (Path(__file__).parents[1] / name for name in ("static", "pages"))
#: Assets of the report that the pages share.
REPORT = Path(reports.__file__).parent / "assets"
SHARED = {"page.css": "text/css", "theme.js": "text/javascript"}
#: Path -> template in `pages`.
PAGES = {
    "/": "index",
    "/login": "login",
    "/first": "first",
    "/history": "history",
    "/charts": "charts",
    "/teach": "teach",
    "/settings": "settings",
    "/line/{name}": "line",
}
#: Path, name and least role of the entries of the navigation.
NAVIGATION = (
    ("/", "Lines", None),
    ("/history", "History", None),
    ("/charts", "Charts", None),
    ("/teach", "Teach", "engineer"),
    ("/settings", "Settings", "admin"),
)


@cache
def _page(path: str) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(f"{PAGES[path]}.html.j2").render(current=path, nav=NAVIGATION)


def _serve(path: str) -> Callable[[], HTMLResponse]:
    return lambda: HTMLResponse(_page(path), headers={"Cache-Control": "no-cache"})


for _path, _name in PAGES.items():
    router.add_api_route(_path, _serve(_path), methods=["GET"], name=_name)


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
