"""The database of a station: SQLite in its folder, or PostgreSQL by URL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, select, text
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from offnominal.errors import InputError, SettingsError
from offnominal.station.errors import UnavailableError

#: Seconds to wait for a lock of SQLite, and for a connection to PostgreSQL.
LOCK_SECONDS, CONNECT_SECONDS = 30, 3
#: Seconds after which a statement of PostgreSQL is cancelled, so that a server that hangs does not block the station.
STATEMENT_SECONDS = 20
#: How libpq notices a server that is gone without a word: after some seconds, not after the hours of the operating system.
KEEPALIVE = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}
#: Key of PostgreSQL's advisory lock, which serialises writers of all processes as SQLite does by itself.
ADVISORY_LOCK = 0x6F66666E


def sqlite_url(folder: Path) -> str:
    """URL of the embedded database of a station.

    Examples
    --------
    >>> sqlite_url(Path("/srv/station"))
    'sqlite:////srv/station/station.sqlite'
    """
    return f"sqlite:///{folder.absolute().as_posix()}/station.sqlite"


class Database:
    """Sessions that read or write. Errors of the connection become `UnavailableError`.

    Parameters
    ----------
    url
        A URL of SQLAlchemy, `sqlite:///…` or `postgresql+psycopg://…`.

    Raises
    ------
    SettingsError
        The URL cannot be used.

    Examples
    --------
    >>> database = Database("sqlite://")
    >>> with database.read() as session:
    ...     session.scalar(text("select 1"))
    1
    """

    def __init__(self, url: str) -> None:
        self.url, self._writing = url, threading.RLock()
        self.engine = _engine(url)
        #: Why the last access failed; None if it succeeded.
        self.problem: str | None = None

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is the embedded one."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session for reading."""
        with self._available(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session for writing; commits at the end of the block. Writers of all processes take turns."""
        engine = self.engine.execution_options(writes=True)
        with self._writing, self._available(), Session(engine, expire_on_commit=False) as session, session.begin():
            if not self.is_sqlite:
                session.execute(text(f"select pg_advisory_xact_lock({ADVISORY_LOCK})"))
            yield session

    def check(self) -> str | None:
        """Why the database cannot be used now; None if it can."""
        try:
            with self.read() as session:
                session.execute(select(1))
        except UnavailableError as error:
            return str(error)
        return None

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextmanager
    def _available(self) -> Iterator[None]:
        try:
            yield
        except (OperationalError, InterfaceError, PoolTimeout) as error:
            raise self._unavailable(error) from None
        except (DataError, OverflowError, UnicodeEncodeError):
            raise InputError("a value cannot be stored: a number is out of range, or a character is no text") from None
        except DBAPIError as error:
            if error.connection_invalidated:
                raise self._unavailable(error) from None
            raise
        self.problem = None

    def _unavailable(self, error: Exception) -> UnavailableError:
        cause = getattr(error, "orig", None) or error
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0][:200]
        self.problem = f"the database is not available ({reason})"
        return UnavailableError(f"{self.problem}; try again", retry_after=5)


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            engine = create_engine(parsed, connect_args={"timeout": LOCK_SECONDS, "check_same_thread": False})
            event.listen(engine, "connect", _configure_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            return engine
        if parsed.get_backend_name() == "postgresql":
            options = f"-c statement_timeout={STATEMENT_SECONDS * 1000}"
            return create_engine(
                parsed,
                pool_pre_ping=True,
                pool_timeout=CONNECT_SECONDS,
                connect_args={"connect_timeout": CONNECT_SECONDS, "options": options, **KEEPALIVE},
            )
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise SettingsError(f"database: cannot use this URL ({error}); give postgresql+psycopg://USER@HOST/NAME") from None
    raise SettingsError(f"database {parsed.get_backend_name()}: give sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME")


def _configure_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # `_begin_sqlite` begins transactions
    for setting in ("journal_mode=wal", "synchronous=full", "foreign_keys=on"):
        connection.execute(f"pragma {setting}").close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("begin immediate" if writes else "begin")
