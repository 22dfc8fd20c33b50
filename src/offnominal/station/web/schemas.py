"""What the HTTP API receives and answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Verdict = Literal["ok", "ng", "unreadable"]
ReviewVerdict = Literal["ok", "ng"]
Role = Literal["viewer", "operator", "engineer", "admin"]


class Received(BaseModel):
    """A request; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class Region(BaseModel):
    """A connected area of the anomaly map above the threshold, in pixels of the image."""

    box: list[int] = Field(description="Left, top, right, bottom; right and bottom exclusive.", examples=[[8, 0, 12, 4]])
    area: int = Field(description="Pixels.", examples=[14])
    peak: float = Field(description="Highest value of the anomaly map.", examples=[7.5])
    peak_at: list[int] = Field(description="Column and row of the peak.", examples=[[9, 2]])
    p_value: float = Field(examples=[0.01])
    length: float = Field(0.0, description="Largest distance between two of its points, in pixels.", examples=[5.7])
    width: float = Field(0.0, description="Smallest distance between two parallel lines around it, in pixels.", examples=[4.0])
    area_mm2: float | None = Field(None, description="Null if the size of a pixel is not known.", examples=[0.02])
    length_mm: float | None = Field(None, examples=[0.23])
    width_mm: float | None = Field(None, examples=[0.16])
    zone: str | None = Field(None, description="The zone in which it lies.", examples=["sealing face"])


class ZoneScore(BaseModel):
    """Score of a zone of the part."""

    name: str = Field(examples=["sealing face"])
    score: float = Field(examples=[4.2])
    p_value: float = Field(description="Adjusted for the number of zones.", examples=[0.03])


class Files(BaseModel):
    """Addresses of the files of an inspection; null if not kept."""

    image: str | None = Field(examples=["/api/inspections/019…/image"])
    picture: str | None = Field(description="The image as browsers show it.", examples=["/api/inspections/019…/picture"])
    heat: str | None = Field(examples=["/api/inspections/019…/heat"])
    thumbnail: str | None = Field(examples=["/api/inspections/019…/thumbnail"])
    receipt: str | None = Field(examples=[None])


class Review(BaseModel):
    """A person's verdict."""

    model_config = ConfigDict(populate_by_name=True)

    at: datetime
    by: str = Field(examples=["anna"])
    verdict: ReviewVerdict
    defect_class: str | None = Field(alias="class", examples=["scratch"])
    comment: str = Field(examples=["a hair, not a scratch"])


class Pose(BaseModel):
    """Where the part lies, relative to the reference image of the model."""

    dx: float = Field(description="Shift to the right in pixels.", examples=[4.2])
    dy: float = Field(description="Shift downwards in pixels.", examples=[-1.5])
    degrees: float = Field(description="Rotation, clockwise.", examples=[0.8])
    scale: float = Field(examples=[1.0])
    quality: float = Field(description="Correlation with the reference, -1 to 1.", examples=[0.93])
    problem: str | None = Field(description="Why the part counts as not found.", examples=[None])


class Inspection(BaseModel):
    """An inspected part."""

    id: str = Field(examples=["01a22e4f905d2ef2a1838bd859692d9b"])
    line: str = Field(examples=["cells"])
    serial: str | None = Field(examples=["A-0042"])
    lot: str | None = Field(examples=["2026-48"])
    taken_at: datetime | None
    judged_at: datetime
    verdict: Verdict
    score: float | None = Field(description="Peak of the anomaly map; higher is more anomalous.", examples=[7.5])
    p_value: float | None = Field(description="Conformal p-value: anomalous if at most the false-alarm rate.", examples=[0.01])
    whole_p_value: float | None = Field(description="p-value of the appearance of the whole image.", examples=[0.3])
    anomalous: bool | None
    threshold: float = Field(examples=[5.31])
    regions: list[Region]
    pose: Pose | None = Field(description="Where the part lies; null if the model does not align images.")
    zones: list[ZoneScore] = Field(description="The score of each zone; empty if the model has none.")
    error: str | None = Field(description="Why the image could not be read.", examples=[None])
    width: int | None = Field(examples=[300])
    height: int | None = Field(examples=[300])
    model: str = Field(description="SHA-256 of the model file.")
    duration_ms: float = Field(examples=[41.4])
    source: str = Field(description="http or folder.", examples=["http"])
    by: str = Field(description="Who sent it.", examples=["camera-1"])
    image_name: str = Field(examples=["A-0042.png"])
    image_sha256: str
    review: ReviewVerdict | None = Field(description="The latest review.")
    files: Files


class ReviewedInspection(Inspection):
    """An inspected part with its reviews."""

    reviews: list[Review]


class InspectionPage(BaseModel):
    """A page of inspections, newest first unless asked otherwise."""

    items: list[Inspection]
    next: str | None = Field(description="Pass it as `after` for the next page; null after the last one.")


class NewReview(Received):
    """A review to add."""

    verdict: ReviewVerdict = Field(examples=["ok"])
    comment: str = Field("", max_length=2000, examples=["a hair, not a scratch"])
    defect_class: str | None = Field(None, alias="class", max_length=64, examples=["scratch"])


class ModelVersion(BaseModel):
    """A version of a line's model."""

    digest: str = Field(description="SHA-256 of the model file.")
    number: int = Field(examples=[3])
    active: bool
    source: str = Field(description="upload or update.", examples=["upload"])
    parent: str | None = Field(description="Digest of the version that was updated.")
    size: int = Field(description="Bytes.")
    images: int = Field(description="Training images.", examples=[400])
    threshold: float
    false_alarm_rate: float = Field(examples=[0.01])
    promise: str = Field(description="The guarantee on false alarms in one sentence.")
    comment: str
    added_at: datetime
    added_by: str


class Drift(BaseModel):
    """State of the drift monitor."""

    monitored: bool
    warning: bool
    message: str | None = Field(description="The warning in one or two sentences.")
    images: int


class LineState(BaseModel):
    """A line with its active model, counts and drift."""

    name: str = Field(examples=["cells"])
    created_at: datetime
    model: ModelVersion | None
    ready: bool
    problem: str | None
    drift: Drift
    sources: list[str] = Field(description="Folders that are watched.")
    last_event: int = Field(description="Number of the latest event of the line.")


class NewLine(Received):
    """A line to create."""

    name: str = Field(examples=["cells"])


class Credentials(Received):
    """Name and password."""

    name: str = Field(max_length=64)
    password: str = Field(max_length=200)


class FirstUser(Credentials):
    """The user of a one-time link."""

    secret: str = Field(max_length=200)


class Me(BaseModel):
    """The caller."""

    name: str
    role: Role
    csrf: str | None = Field(description="Send it as X-CSRF-Token with changes, if logged in by cookie.")


class NewUser(Credentials):
    """A user to create."""

    role: Role


class UserChange(Received):
    """What changes about a user; its sessions end."""

    role: Role | None = None
    password: str | None = Field(None, max_length=200)
    disabled: bool | None = None


class User(BaseModel):
    """A user."""

    name: str
    role: Role
    disabled: bool
    created_at: datetime


class NewToken(Received):
    """A machine token to create."""

    name: str
    role: Role = "operator"


class Token(BaseModel):
    """A machine token."""

    name: str
    role: Role
    created_at: datetime
    revoked_at: datetime | None


class CreatedToken(BaseModel):
    """A new machine token; it is shown only once."""

    name: str
    token: str


class Health(BaseModel):
    """Whether the station can inspect."""

    ready: bool
    problems: list[str]


Json = dict[str, Any]


class NewCandidate(Received):
    """Parts to learn."""

    inspections: list[str] = Field(min_length=1, max_length=500, description="Parts whose latest review is OK.")


class Verdicts(BaseModel):
    """A verdict with its score."""

    verdict: ReviewVerdict
    score: float
    p_value: float | None = None


class Change(BaseModel):
    """A part whose verdict a candidate changes."""

    inspection: Inspection
    before: Verdicts
    after: Verdicts


class Replay(BaseModel):
    """What a candidate changes among the latest parts."""

    replayed: int
    changed: int
    unchanged: int
    not_replayed: int = Field(description="Images that could not be read again.")
    wrong_before: int = Field(description="Reviewed parts whose verdict differed from the review.")
    wrong_after: int = Field(description="The same with the candidate.")
    changes: list[Change]
    threshold_before: float
    threshold_after: float
    promise: str = Field(description="The guarantee of the candidate on false alarms.")
    learned: int
    unreadable: int


class Candidate(BaseModel):
    """A proposed model version."""

    id: int
    line: str
    state: Literal["updating", "replaying", "ready", "failed", "activated", "dismissed"]
    progress: float = Field(description="0 to 1, within the state.")
    error: str | None
    inspections: list[str]
    base: ModelVersion | None
    model: ModelVersion | None
    result: Replay | None
    at: datetime
    by: str


class Teaching(BaseModel):
    """What a line could learn, and what it missed."""

    proposed: list[Inspection]
    missed: list[Inspection]
    candidates: list[Candidate]
