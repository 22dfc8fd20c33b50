"""The append-only event log. Each event holds the SHA-256 of its content and of the hash before it.

A change of any event, or one left out in the middle, breaks the chain. Events cut off at the end leave a valid chain, so
`head` gives a hash to keep elsewhere; `verify` compares it. Rows that events describe hold their digest in `data`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from offnominal.station.tables import Event

#: The hash before the first event.
GENESIS = "0" * 64


def append(session: Session, kind: str, subject: str, by: str, data: Mapping[str, Any], line: str | None = None) -> Event:
    """Append an event in the session of the change that it describes.

    Parameters
    ----------
    session
        A session of `Database.write`, which serialises the writers.
    kind
        What happened, such as `inspection`, `review`, `activation`.
    subject
        Identifier of what it happened to.
    by
        Name of the user, token or command.
    data
        Further facts; must be JSON.
    line
        Name of the line, if it concerns one.
    """
    last = session.execute(select(Event.id, Event.hash).order_by(Event.id.desc()).limit(1)).first()
    number, before = (last.id + 1, last.hash) if last else (1, GENESIS)
    event = Event(id=number, at=datetime.now(UTC), by=by, kind=kind, line=line, subject=subject, data=canonical(data), hash="")
    event.hash = hash_of(event, before)
    session.add(event)
    session.flush()
    return event


def hash_of(event: Event, before: str) -> str:
    """SHA-256 of an event and of the hash before it, in hexadecimal digits."""
    content = [event.id, event.at.isoformat(), event.by, event.kind, event.line, event.subject, event.data, before]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def canonical(data: Mapping[str, Any]) -> str:
    """JSON with sorted keys and without spaces: equal data have equal text.

    Examples
    --------
    >>> canonical({"b": 1.5, "a": None})
    '{"a":null,"b":1.5}'
    """
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(data: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON, in hexadecimal digits."""
    return hashlib.sha256(canonical(data).encode()).hexdigest()


def head(session: Session) -> tuple[int, str]:
    """Number and hash of the last event."""
    last = session.execute(select(Event.id, Event.hash).order_by(Event.id.desc()).limit(1)).first()
    return (last.id, last.hash) if last else (0, GENESIS)


def broken_links(session: Session) -> Iterator[str]:
    """Yield one sentence per event that was changed, or that does not follow the one before it."""
    number, before = 0, GENESIS
    for event in session.scalars(select(Event).order_by(Event.id).execution_options(yield_per=1000)):
        if event.id != number + 1:
            yield f"event {number + 1}: missing, the next one is {event.id}"
        if event.hash != hash_of(event, before):
            yield f"event {event.id} ({event.kind} {event.subject}): does not match its hash or the event before it"
        number, before = event.id, event.hash
        session.expunge(event)
