"""Routes of figures over time."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from sqlalchemy.orm import Session

from offnominal.station import lines, statistics
from offnominal.station.accounts import Identity
from offnominal.station.station import Station
from offnominal.station.statistics import By, Period
from offnominal.station.web.guard import identity_of
from offnominal.station.web.problems import RESPONSES
from offnominal.station.web.statistics_schemas import Counts, Statistics
from offnominal.station.web.uploads import instant

router = APIRouter(prefix="/api", tags=["statistics"], responses=RESPONSES)
Caller = Annotated[Identity, Depends(identity_of)]
Since = Annotated[str | None, Query(description="Judged at this time or later.")]
Until = Annotated[str | None, Query(description="Judged before this time.")]


@router.get("/lines/{line}/counts", response_model=Counts)
def counts(line: str, request: Request, caller: Caller, since: Since = None, until: Until = None) -> dict[str, int]:
    """Number of parts by verdict."""
    station: Station = request.app.state.station
    with station.database.read() as session:
        return statistics.counts(session, _period(session, line, since, until))


@router.get("/lines/{line}/statistics", response_model=Statistics)
def figures(
    line: str, request: Request, caller: Caller, by: By = "hour", since: Since = None, until: Until = None
) -> dict[str, Any]:
    """Control chart of the share of NG, scores, and false alarms as reviewed against the stated rate."""
    station: Station = request.app.state.station
    with station.database.read() as session:
        period = _period(session, line, since, until)
        return {
            "counts": statistics.counts(session, period),
            "chart": statistics.control_chart(session, period, by),
            "scores": statistics.scores(session, period),
            "false_alarms": statistics.false_alarms(session, period),
        }


def _period(session: Session, line: str, since: str | None, until: str | None) -> Period:
    of = lines.line_named(session, line)
    return Period(of.id, instant("since", since), instant("until", until))
