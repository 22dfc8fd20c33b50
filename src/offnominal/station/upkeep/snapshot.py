"""A view of the whole database at one moment, while the station goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text
from sqlalchemy.orm import Session

from offnominal.station.database import Database

#: Rows that are fetched at once, so that memory does not grow with the database.
ROWS = 1000


@contextmanager
def snapshot(database: Database) -> Iterator[Session]:
    """A session for reading in which all queries see the same state. Statements may take as long as they need.

    Examples
    --------
    >>> with snapshot(Database("sqlite://")) as session:
    ...     session.scalar(text("select 1"))
    1
    """
    with database.read() as session:
        if not database.is_sqlite:  # a transaction of SQLite always sees one state
            session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            session.execute(text("set local statement_timeout = 0"))
        yield session
