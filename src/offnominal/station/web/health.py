"""Health and metrics: open to all, without data of parts."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from offnominal.station.station import Station
from offnominal.station.web.schemas import Health

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """The process answers."""
    return {"status": "alive"}


@router.get("/readyz", responses={503: {"model": Health}})
def ready(request: Request, response: Response) -> Health:
    """Whether the station can inspect; 503 with the problems if it cannot."""
    station: Station = request.app.state.station
    problems = station.problems()
    response.status_code = 503 if problems else 200
    return Health(ready=not problems, problems=problems)


@router.get("/metrics", response_class=Response)
def metrics(request: Request) -> Response:
    """Figures in Prometheus's format."""
    station: Station = request.app.state.station
    station.metrics.pending.set(station.judge.pending)
    station.metrics.ready.set(0 if station.problems() else 1)
    return Response(generate_latest(station.metrics.registry), media_type=CONTENT_TYPE_LATEST)
