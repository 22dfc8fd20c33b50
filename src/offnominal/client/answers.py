"""What a station answers, as the OpenAPI document describes it. Fields that a later version adds are ignored."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import Field, TypeAdapter, ValidationError

from offnominal.errors import OffnominalError

Verdict = Literal["ok", "ng", "unreadable"]
ReviewVerdict = Literal["ok", "ng"]
FileKind = Literal["image", "picture", "heat", "thumbnail", "receipt"]
T = TypeVar("T")


@dataclass(frozen=True)
class Region:
    """A connected area of the anomaly map above the threshold, in pixels of the image."""

    box: tuple[int, int, int, int]
    area: int
    peak: float
    peak_at: tuple[int, int]
    p_value: float
    length: float = 0.0
    width: float = 0.0
    area_mm2: float | None = None
    length_mm: float | None = None
    width_mm: float | None = None
    zone: str | None = None


@dataclass(frozen=True)
class ZoneScore:
    """Score of a zone of the part."""

    name: str
    score: float
    p_value: float


@dataclass(frozen=True)
class Pose:
    """Where the part lies, relative to the reference image of the model. `problem` says why it counts as not found."""

    dx: float
    dy: float
    degrees: float
    scale: float
    quality: float
    problem: str | None


@dataclass(frozen=True)
class Review:
    """A person's verdict on a part."""

    at: datetime
    by: str
    verdict: ReviewVerdict
    defect_class: Annotated[str | None, Field(validation_alias="class")]
    comment: str


@dataclass(frozen=True)
class Inspection:
    """An inspected part. The figures are None if its image could not be read; `error` then has the reason."""

    id: str
    line: str
    serial: str | None
    lot: str | None
    taken_at: datetime | None
    judged_at: datetime
    verdict: Verdict
    score: float | None
    p_value: float | None
    whole_p_value: float | None
    anomalous: bool | None
    threshold: float
    regions: tuple[Region, ...]
    error: str | None
    width: int | None
    height: int | None
    model: str
    duration_ms: float
    source: str
    by: str
    image_name: str
    image_sha256: str
    review: ReviewVerdict | None
    pose: Pose | None = field(default=None, kw_only=True)
    zones: tuple[ZoneScore, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True)
class ReviewedInspection(Inspection):
    """An inspected part with its reviews, oldest first."""

    reviews: tuple[Review, ...]


@dataclass(frozen=True)
class ModelVersion:
    """A version of a line's model; `digest` is the SHA-256 of its file."""

    digest: str
    number: int
    active: bool
    source: str
    parent: str | None
    size: int
    images: int
    threshold: float
    false_alarm_rate: float
    promise: str
    comment: str
    added_at: datetime
    added_by: str


@dataclass(frozen=True)
class Drift:
    """State of the drift monitor of a line."""

    monitored: bool
    warning: bool
    message: str | None
    images: int


@dataclass(frozen=True)
class Line:
    """A line with its active model."""

    name: str
    created_at: datetime
    model: ModelVersion | None
    ready: bool
    problem: str | None
    drift: Drift
    sources: tuple[str, ...]
    last_event: int


@dataclass(frozen=True)
class Event:
    """Something that happened on a line; `inspection` is set for the kinds `inspection` and `review`."""

    number: int
    kind: str
    at: datetime
    by: str
    subject: str
    data: dict[str, Any]
    inspection: Inspection | None = None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def parsed(kind: type[T], answer: Any) -> T:
    """An answer as a dataclass. Raises `OffnominalError` if it is another one."""
    try:
        parsed: T = _adapter(cast(Any, kind)).validate_python(answer)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise OffnominalError(f"the station answers something else than this client expects ({where}); update it") from None
    return parsed
