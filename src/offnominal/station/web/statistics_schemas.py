"""What the HTTP API answers about the statistics of a line."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from offnominal.station.web.schemas import Verdict


class Counts(BaseModel):
    """Parts by verdict."""

    ok: int
    ng: int
    unreadable: int


class Group(BaseModel):
    """An hour or a lot in the control chart."""

    name: str = Field(description="The lot, or the start of the hour.")
    start: datetime
    n: int
    ng: int
    share: float
    lower: float = Field(description="Lower control limit.")
    upper: float = Field(description="Upper control limit.")
    out: bool = Field(description="Whether the share lies outside its limits.")


class ControlChart(BaseModel):
    """Share of NG per group."""

    by: Literal["hour", "lot"]
    centre: float
    groups: list[Group]


class Score(BaseModel):
    """A score with the threshold that applied."""

    id: str
    at: datetime
    score: float
    threshold: float
    verdict: Verdict


class FalseAlarms(BaseModel):
    """False alarms as reviewed."""

    false_alarms: int = Field(description="Flagged parts that were reviewed OK.")
    good: int = Field(description="Parts that count as good.")
    unreviewed: int = Field(description="Flagged parts without a review.")
    rate: float | None
    low: float
    high: float
    stated: float | None
    sentence: str


class Statistics(BaseModel):
    """Figures of a line."""

    counts: Counts
    chart: ControlChart
    scores: list[Score]
    false_alarms: FalseAlarms
