"""Verifies a station: the chain of events, the rows that events describe, and the files that rows name.

The event log is the witness. Each event of an inspection or a review holds the digest of its row, so a changed row is found.
Each row must have its event, and each event its row, so an added or a removed one is found too. What was cut off at the end is
only found with a `head` that was kept elsewhere: its hash must still occur in the chain.

The station may run: all tables are read in one state, and files are looked up afterwards, page by page.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, defer

from offnominal.station import events, inspections
from offnominal.station.database import Database
from offnominal.station.folder import StationFolder, file_digest
from offnominal.station.media import PRUNED
from offnominal.station.tables import Activation, Event, Inspection, Line, ModelVersion, Review, Token, User
from offnominal.station.upkeep.snapshot import ROWS, snapshot

Report = Callable[[str], None]
#: Rows whose files are looked up between two queries.
PAGE = 500
ACTIVATED, ROLLED_BACK = "model.activated", "model.rolled_back"


@dataclass(frozen=True)
class Verified:
    """What was verified.

    Attributes
    ----------
    events
        Number of the last event.
    head
        Its hash. Keep it elsewhere: it proves later that nothing was cut off.
    inspections, images, models
        Rows and files that were looked at.
    problems
        Number of problems.
    """

    events: int
    head: str
    inspections: int
    images: int
    models: int
    problems: int


def verify(database: Database, folder: StationFolder, report: Report, head: str | None = None) -> Verified:
    """Verify everything.

    Parameters
    ----------
    database, folder
        Of the station.
    report
        Called with one sentence per problem.
    head
        A hash that was printed earlier; it must occur in the chain.

    Raises
    ------
    UnavailableError
        The database cannot be used.
    """
    problems = 0

    def counted(problem: str) -> None:
        nonlocal problems
        problems += 1
        report(problem)

    with snapshot(database) as session:
        number, last = events.head(session)
        for problem in events.broken_links(session):
            counted(problem)
        if head is not None and not _occurs(session, head.strip().lower()):
            counted(f"head {head.strip()[:64]}: does not occur in the event log; events were cut off or replaced")
        count = session.scalar(select(func.count()).select_from(Inspection)) or 0
        for check in (_inspections, _reviews, _latest_reviews, _pruned, _models, _activations, _accounts):
            check(session, counted)
        digests = sorted(set(session.scalars(select(ModelVersion.digest))))
    for digest in digests:
        _file(folder.model(digest), digest, f"model {digest[:12]}", counted)
    images = _images(database, folder, counted)
    return Verified(number, last, count, images, len(digests), problems)


def _occurs(session: Session, head: str) -> bool:
    return head == events.GENESIS or session.scalar(select(Event.id).where(Event.hash == head).limit(1)) is not None


def _inspections(session: Session, report: Report) -> None:
    rows = (
        select(Event, Inspection)
        .outerjoin(Inspection, Inspection.id == Event.subject)
        .where(Event.kind == "inspection")
        .options(defer(Inspection.appearance))
        .order_by(Event.id)
    )
    for event, row in _streamed(session, rows):
        if row is None:
            report(f"inspection {event.subject}: event {event.id} tells of it, but its row is missing")
        elif _data(event).get("row") != events.digest_of(inspections.facts(row)):
            report(f"inspection {row.id}: its row does not match event {event.id}")
    told = (
        select(Event.subject, func.count().label("times")).where(Event.kind == "inspection").group_by(Event.subject).subquery()
    )
    counts = (
        select(Inspection.id, told.c.times)
        .outerjoin(told, told.c.subject == Inspection.id)
        .where(func.coalesce(told.c.times, 0) != 1)
    )
    for id, times in session.execute(counts.execution_options(yield_per=ROWS)):
        report(f"inspection {id}: " + ("has no event" if times is None else f"has {times} events; one is right"))


def _reviews(session: Session, report: Report) -> None:
    """Reviews and their events have the same order, so both are read once, side by side."""
    rows = (row for (row,) in _streamed(session, select(Review).order_by(Review.id)))
    row = next(rows, None)
    for (event,) in _streamed(session, select(Event).where(Event.kind == "review").order_by(Event.id)):
        wanted = _data(event).get("review")
        if not isinstance(wanted, int):
            report(f"review of {event.subject}: event {event.id} does not say which")
            continue
        while row is not None and row.id < wanted:
            report(f"review {row.id} of {row.inspection_id}: has no event")
            row = next(rows, None)
        if row is None or row.id > wanted:
            report(f"review {wanted} of {event.subject}: event {event.id} tells of it, but its row is missing")
            continue
        shown = inspections.public_review(row) | {"at": row.at.isoformat()}
        if row.inspection_id != event.subject or _data(event).get("row") != events.digest_of(shown):
            report(f"review {row.id} of {event.subject}: its row does not match event {event.id}")
        row = next(rows, None)
    while row is not None:
        report(f"review {row.id} of {row.inspection_id}: has no event")
        row = next(rows, None)


def _latest_reviews(session: Session, report: Report) -> None:
    newest = select(func.max(Review.id)).group_by(Review.inspection_id)
    latest = select(Review.inspection_id, Review.verdict).where(Review.id.in_(newest)).subquery()
    differ = (
        select(Inspection.id)
        .outerjoin(latest, latest.c.inspection_id == Inspection.id)
        .where(func.coalesce(Inspection.review, "") != func.coalesce(latest.c.verdict, ""))
    )
    for id in session.scalars(differ.execution_options(yield_per=ROWS)):
        report(f"inspection {id}: its review is not that of its latest review")


def _pruned(session: Session, report: Report) -> None:
    """Images that are not kept have an event that says so."""
    told = 0
    for (event,) in _streamed(session, select(Event).where(Event.kind == PRUNED).order_by(Event.id)):
        ids = _data(event).get("inspections", [])
        told += len(ids)
        kept = select(Inspection.id).where(Inspection.id.in_(ids), Inspection.media_kept)
        for id in session.scalars(kept):
            report(f"inspection {id}: event {event.id} says that its image was removed, but its row says that it is kept")
    gone = session.scalar(select(func.count()).select_from(Inspection).where(Inspection.media_kept.is_(False))) or 0
    if gone > told:
        report(f"{gone - told} images are not kept, although no event says that they were removed")


def _models(session: Session, report: Report) -> None:
    added = {(event.line, event.subject): event for event in session.scalars(select(Event).where(Event.kind == "model.added"))}
    rows = session.execute(
        select(ModelVersion, Line.name).join(Line, Line.id == ModelVersion.line_id).order_by(ModelVersion.id)
    )
    for version, line in rows:
        event = added.pop((line, version.digest), None)
        if event is None:
            report(f"model {version.number} of line {line}: has no event")
            continue
        names = ("number", "size", "source", "parent", "promise")
        if any(_data(event).get(name) != getattr(version, name) for name in names) or event.by != version.added_by:
            report(f"model {version.number} of line {line}: its row does not match event {event.id}")
    for (of, digest), event in added.items():
        report(f"model {digest[:12]} of line {of}: event {event.id} tells of it, but its row is missing")


def _activations(session: Session, report: Report) -> None:
    told: dict[str | None, list[Event]] = defaultdict(list)
    kinds = (ACTIVATED, ROLLED_BACK)
    for event in session.scalars(select(Event).where(Event.kind.in_(kinds)).order_by(Event.id)):
        told[event.line].append(event)
    created = set(session.scalars(select(Event.subject).where(Event.kind == "line.created")))
    lines = session.scalars(select(Line).order_by(Line.id)).all()
    for line in lines:
        if line.name not in created:
            report(f"line {line.name}: has no event")
        rows = session.execute(
            select(Activation, ModelVersion.digest)
            .join(ModelVersion, ModelVersion.id == Activation.model_version_id)
            .where(Activation.line_id == line.id)
            .order_by(Activation.id)
        ).all()
        _activations_of(line, [row for row, _ in rows], [digest for _, digest in rows], told[line.name], report)
    for name in sorted(created - {line.name for line in lines}):
        report(f"line {name}: an event tells of it, but its row is missing")


def _activations_of(
    line: Line, rows: Sequence[Activation], digests: Sequence[str], told: Sequence[Event], report: Report
) -> None:
    if len(rows) != len(told):
        report(f"line {line.name}: has {len(rows)} activations and {len(told)} events of them")
    by_id = {row.id: row for row in rows}
    current: Activation | None = None
    for row, digest, event in zip(rows, digests, told, strict=False):
        previous = None if current is None else current.id
        if event.kind == ROLLED_BACK:
            back = None if current is None else by_id.get(current.previous or 0)
            previous = None if back is None else back.previous
        if (event.subject, event.by, previous) != (digest, row.by, row.previous):
            report(f"line {line.name}: activation {row.id} does not match event {event.id}")
        current = row
    if line.activation != (rows[-1].id if rows else None):
        report(f"line {line.name}: its active model is not that of its last activation")


def _accounts(session: Session, report: Report) -> None:
    """Users and tokens have the role that the log gives them."""
    kinds = ("user.created", "user.changed", "token.created", "token.revoked")
    told: dict[tuple[str, str], dict[str, Any]] = defaultdict(dict)
    for event in session.scalars(select(Event).where(Event.kind.in_(kinds)).order_by(Event.id)):
        what, _, happened = event.kind.partition(".")
        told[what, event.subject] |= {"revoked": True} if happened == "revoked" else _data(event)
    for user in session.scalars(select(User).order_by(User.id)):
        expected = told.get(("user", user.name), {})
        if (expected.get("role"), expected.get("disabled", False)) != (user.role, user.disabled):
            report(f"user {user.name}: its row does not match the events")
    for token in session.scalars(select(Token).order_by(Token.id)):
        expected = told.get(("token", token.name), {})
        if (expected.get("role"), expected.get("revoked", False)) != (token.role, token.revoked_at is not None):
            report(f"token {token.name}: its row does not match the events")


def _images(database: Database, folder: StationFolder, report: Report) -> int:
    """Compare every kept image with the digest in its row; return their number."""
    last, count = "", 0
    while True:
        with database.read() as session:
            page = session.execute(
                select(Inspection.id, Inspection.judged_at, Inspection.image_file, Inspection.image_sha256)
                .where(Inspection.media_kept, Inspection.id > last)
                .order_by(Inspection.id)
                .limit(PAGE)
            ).all()
        if not page:
            return count
        for row in page:
            if "/" in row.image_file:
                report(f"inspection {row.id}: its image has a wrong name")
                continue
            path = folder.inspection(row.id, row.judged_at) / row.image_file
            _file(path, row.image_sha256, f"inspection {row.id}", report, partial(_still_kept, database, row.id))
        last, count = page[-1].id, count + len(page)


def _still_kept(database: Database, id: str) -> bool:
    """Whether an image is to be there; the station may have removed it since."""
    with database.read() as session:
        return bool(session.scalar(select(Inspection.media_kept).where(Inspection.id == id)))


def _file(path: Path, digest: str, name: str, report: Report, expected: Callable[[], bool] = lambda: True) -> None:
    try:
        if file_digest(path) != digest:
            report(f"{name}: {path} does not match its SHA-256")
    except OSError as error:
        if expected():
            report(f"{name}: {path} cannot be read ({error.strerror or error})")


def _streamed(session: Session, rows: Any) -> Iterator[Any]:
    """Rows of ORM entities, forgotten by the session as they pass."""
    for row in session.execute(rows.execution_options(yield_per=ROWS)):
        yield row
        for entity in row:
            if entity is not None and entity in session:
                session.expunge(entity)


def _data(event: Event) -> dict[str, Any]:
    """The facts of an event; none if they are damaged, which the chain reports."""
    try:
        data = json.loads(event.data)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}
