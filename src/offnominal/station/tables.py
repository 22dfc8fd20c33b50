"""The tables of the database. Migrations in `migrations/` create and change them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

#: Verdicts of an inspection, and of a review (without `unreadable`).
OK, NG, UNREADABLE = "ok", "ng", "unreadable"


class Instant(TypeDecorator[datetime]):
    """A point in time, stored as microseconds since 1970 (UTC), so that every database sorts and compares it alike."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Microseconds of an aware datetime."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time needs a time zone, got {value}")
        delta = value - datetime.fromtimestamp(0, UTC)
        return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """The datetime in UTC."""
        if value is None:
            return None
        return datetime.fromtimestamp(value // 1_000_000, UTC).replace(microsecond=value % 1_000_000)


class Base(DeclarativeBase):
    """Base of the tables; constraints have fixed names, so that migrations can change them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: Instant, dict[str, Any]: JSON, list[Any]: JSON, float: Double, bool: Boolean}  # noqa: RUF012


class Line(Base):
    """A production line: a name, and the activation that is current."""

    __tablename__ = "line"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    activation: Mapped[int | None] = mapped_column(Integer)


class ModelVersion(Base):
    """A model file of a line, named by the SHA-256 of its content.

    `source` is `upload` or `update`; `parent` is the digest of the version that was updated.
    """

    __tablename__ = "model_version"
    __table_args__ = (UniqueConstraint("line_id", "digest"), UniqueConstraint("line_id", "number"))

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    line_id: Mapped[int] = mapped_column(ForeignKey("line.id"))
    number: Mapped[int]
    digest: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    source: Mapped[str] = mapped_column(String(16))
    parent: Mapped[str | None] = mapped_column(String(64))
    threshold: Mapped[float]
    false_alarm_rate: Mapped[float]
    promise: Mapped[str] = mapped_column(Text)
    images: Mapped[int]
    comment: Mapped[str] = mapped_column(Text, default="")
    added_at: Mapped[datetime]
    added_by: Mapped[str] = mapped_column(String(64))


class Activation(Base):
    """The activation of a model version; `previous` is the activation that a rollback returns to."""

    __tablename__ = "activation"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    line_id: Mapped[int] = mapped_column(ForeignKey("line.id"))
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))
    previous: Mapped[int | None] = mapped_column(Integer)
    at: Mapped[datetime]
    by: Mapped[str] = mapped_column(String(64))


class Inspection(Base):
    """One inspected part. The figures are null if its image could not be read; `error` then has the reason."""

    __tablename__ = "inspection"
    __table_args__ = (
        UniqueConstraint("line_id", "idempotency_key"),
        Index("ix_inspection_line", "line_id", "id"),
        Index("ix_inspection_serial", "serial"),
        Index("ix_inspection_lot", "line_id", "lot"),
        Index("ix_inspection_judged_at", "line_id", "judged_at"),
        Index("ix_inspection_verdict", "line_id", "verdict", "id"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    line_id: Mapped[int] = mapped_column(ForeignKey("line.id"))
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))
    serial: Mapped[str | None] = mapped_column(String(256))
    lot: Mapped[str | None] = mapped_column(String(256))
    taken_at: Mapped[datetime | None]
    judged_at: Mapped[datetime]
    verdict: Mapped[str] = mapped_column(String(16))
    score: Mapped[float | None]
    p_value: Mapped[float | None]
    whole_p_value: Mapped[float | None]
    threshold: Mapped[float]
    regions: Mapped[list[Any]]
    pose: Mapped[dict[str, Any] | None]
    zones: Mapped[list[Any] | None]
    appearance: Mapped[list[Any] | None]
    error: Mapped[str | None] = mapped_column(Text)
    width: Mapped[int | None]
    height: Mapped[int | None]
    duration_ms: Mapped[float]
    source: Mapped[str] = mapped_column(String(16))
    by: Mapped[str] = mapped_column(String(64))
    image_name: Mapped[str] = mapped_column(String(256))
    image_file: Mapped[str] = mapped_column(String(64))
    image_sha256: Mapped[str] = mapped_column(String(64))
    media_bytes: Mapped[int] = mapped_column(BigInteger)
    media_kept: Mapped[bool] = mapped_column(default=True)
    idempotency_key: Mapped[str | None] = mapped_column(String(256))
    request_sha256: Mapped[str | None] = mapped_column(String(64))
    review: Mapped[str | None] = mapped_column(String(16))


class Review(Base):
    """A person's verdict on an inspection. The latest one counts; `Inspection.review` holds its verdict."""

    __tablename__ = "review"
    __table_args__ = (Index("ix_review_inspection", "inspection_id"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    inspection_id: Mapped[str] = mapped_column(ForeignKey("inspection.id"))
    at: Mapped[datetime]
    by: Mapped[str] = mapped_column(String(64))
    verdict: Mapped[str] = mapped_column(String(16))
    defect_class: Mapped[str | None] = mapped_column(String(64))
    comment: Mapped[str] = mapped_column(Text)


class Event(Base):
    """A line of the append-only log; see `events`."""

    __tablename__ = "event"
    __table_args__ = (Index("ix_event_line", "line", "id"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    by: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(32))
    line: Mapped[str | None] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(64))
    data: Mapped[str] = mapped_column(Text)
    hash: Mapped[str] = mapped_column(String(64))


class Candidate(Base):
    """A proposed model version: reviewed parts to learn, and what the version changes; see `teach`."""

    __tablename__ = "candidate"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    line_id: Mapped[int] = mapped_column(ForeignKey("line.id"))
    base_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))
    model_version_id: Mapped[int | None] = mapped_column(ForeignKey("model_version.id"))
    state: Mapped[str] = mapped_column(String(16))
    progress: Mapped[float]
    inspections: Mapped[list[Any]]
    result: Mapped[dict[str, Any] | None]
    error: Mapped[str | None] = mapped_column(Text)
    at: Mapped[datetime]
    by: Mapped[str] = mapped_column(String(64))


class User(Base):
    """A person with a role and an Argon2 hash of the password."""

    __tablename__ = "user_account"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    password_hash: Mapped[str] = mapped_column(String(256))
    disabled: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]


class Token(Base):
    """A token of a machine. Only the SHA-256 of its 256 random bits is stored."""

    __tablename__ = "token"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class LoginSession(Base):
    """A session of a browser. Only the SHA-256 of its secret is stored."""

    __tablename__ = "login_session"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class Invitation(Base):
    """A one-time link that creates a user with a role."""

    __tablename__ = "invitation"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
