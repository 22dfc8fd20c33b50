"""Users, tokens, sessions and one-time links, without HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from statistics import median
from time import perf_counter

import pytest
from sqlalchemy import text, update

from offnominal.errors import InputError
from offnominal.station import accounts, events, setup
from offnominal.station.accounts import ROLES, Identity
from offnominal.station.database import Database
from offnominal.station.errors import ConflictError, ForbiddenError, NotFoundError, UnauthenticatedError
from offnominal.station.tables import Invitation, LoginSession
from station.conftest import StationFactory
from station.servers import PASSWORD

OTHER = "another long password"


@pytest.fixture
def database(station_folder: StationFactory, database_url: str | None) -> Iterator[Database]:
    home = station_folder(database=database_url, model=None)
    with setup.Setup(home.root) as opened:
        with opened.database.write() as session:
            accounts.add_user(session, "anna", "admin", PASSWORD, "test")
        yield opened.database


def started(database: Database, name: str = "anna") -> str:
    with database.write() as session:
        return accounts.start_session(session, accounts.log_in(session, name, PASSWORD), 1.0)


@pytest.mark.parametrize("held", ROLES)
@pytest.mark.parametrize("needed", ROLES)
def test_each_role_may_do_what_the_roles_before_it_may(held: str, needed: str) -> None:
    identity = Identity("anna", held)
    if ROLES.index(held) >= ROLES.index(needed):
        identity.require(needed)
    else:
        with pytest.raises(ForbiddenError, match=f"needs the role {needed}"):
            identity.require(needed)


def test_a_password_opens_and_nothing_else_does(database: Database) -> None:
    with database.read() as session:
        assert accounts.log_in(session, "anna", PASSWORD).role == "admin"
        for name, password in (("anna", PASSWORD + " "), ("anna", ""), ("ANNA", PASSWORD), ("nobody", PASSWORD), ("", "")):
            with pytest.raises(UnauthenticatedError, match="the name or the password is wrong"):
                accounts.log_in(session, name, password)


def test_an_unknown_user_takes_as_long_as_a_wrong_password(database: Database) -> None:
    def seconds(name: str) -> float:
        begin = perf_counter()
        with pytest.raises(UnauthenticatedError):
            accounts.log_in(session, name, OTHER)
        return perf_counter() - begin

    with database.read() as session:
        seconds("nobody")  # the hash that stands in for an unknown user is made once
        turns = [(seconds("anna"), seconds("nobody")) for _ in range(7)]
    known, unknown = (median(column) for column in zip(*turns, strict=True))
    assert 0.5 < known / unknown < 2
    assert known > 0.005  # Argon2, not a plain digest


@pytest.mark.parametrize("password", ["", "short", "x" * 201])
def test_a_password_has_a_length(database: Database, password: str) -> None:
    with database.write() as session, pytest.raises(InputError, match="10 to 200"):
        accounts.add_user(session, "ben", "viewer", password, "anna")


@pytest.mark.parametrize("name", ["", "-ben", "ben smith", "ben/../x", "ben\n", "b" * 65, "<b>", "ben\0", "бен"])
def test_names_are_plain(database: Database, name: str) -> None:
    with database.write() as session:
        with pytest.raises(InputError, match="name"):
            accounts.add_user(session, name, "viewer", PASSWORD, "anna")
        with pytest.raises(InputError, match="name"):
            accounts.add_token(session, name, "viewer", "anna")


def test_names_and_roles_are_checked(database: Database) -> None:
    with database.write() as session:
        with pytest.raises(ConflictError):
            accounts.add_user(session, "anna", "viewer", PASSWORD, "anna")
        with pytest.raises(InputError, match="role"):
            accounts.add_user(session, "ben", "owner", PASSWORD, "anna")
        with pytest.raises(NotFoundError):
            accounts.change_user(session, "ben", "anna", role="admin")


@pytest.mark.parametrize("change", [{"role": "viewer"}, {"disabled": True}])
def test_the_last_admin_stays(database: Database, change: dict[str, object]) -> None:
    def refused() -> None:
        with pytest.raises(ConflictError, match="last admin"), database.write() as session:
            accounts.change_user(session, "anna", "anna", **change)  # type: ignore[arg-type]

    refused()
    with database.write() as session:
        accounts.add_user(session, "ben", "admin", PASSWORD, "anna")
        accounts.change_user(session, "ben", "anna", disabled=True)
    refused()  # a disabled admin does not count
    with database.write() as session:
        accounts.change_user(session, "ben", "anna", disabled=False)
        accounts.change_user(session, "anna", "ben", **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"role": "admin"}, {"password": OTHER}, {"disabled": False}])
def test_a_change_ends_the_sessions_of_a_user(database: Database, change: dict[str, object]) -> None:
    secret = started(database)
    with database.read() as session:
        assert accounts.identity_of_session(session, secret).name == "anna"
    with database.write() as session:
        accounts.change_user(session, "anna", "anna", **change)  # type: ignore[arg-type]
    with database.read() as session, pytest.raises(UnauthenticatedError):
        accounts.identity_of_session(session, secret)


def test_sessions_end(database: Database) -> None:
    first, second = started(database), started(database)
    assert first != second
    with database.write() as session:
        accounts.end_session(session, first)
    with database.read() as session:
        with pytest.raises(UnauthenticatedError):
            accounts.identity_of_session(session, first)
        assert accounts.identity_of_session(session, second).csrf == accounts.csrf_token(second)
    with database.write() as session:
        session.execute(update(LoginSession).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    with database.read() as session, pytest.raises(UnauthenticatedError, match="ended"):
        accounts.identity_of_session(session, second)


def test_a_disabled_user_has_no_session(database: Database) -> None:
    with database.write() as session:
        accounts.add_user(session, "ben", "viewer", PASSWORD, "anna")
    secret = started(database, "ben")
    with database.write() as session:
        session.execute(text("update user_account set disabled = true where name = 'ben'"))
    with database.read() as session:
        with pytest.raises(UnauthenticatedError):
            accounts.identity_of_session(session, secret)
        with pytest.raises(UnauthenticatedError):
            accounts.log_in(session, "ben", PASSWORD)


def test_a_token_works_until_it_is_revoked(database: Database) -> None:
    with database.write() as session:
        secret = accounts.add_token(session, "camera", "operator", "anna")
        with pytest.raises(ConflictError):
            accounts.add_token(session, "camera", "viewer", "anna")
    with database.read() as session:
        assert accounts.identity_of_token(session, secret) == Identity("camera", "operator")
        for wrong in (secret[:-1], secret + "x", secret.upper(), "", accounts.digest(secret)):
            with pytest.raises(UnauthenticatedError):
                accounts.identity_of_token(session, wrong)
    with database.write() as session:
        accounts.revoke_token(session, "camera", "anna")
    with database.read() as session, pytest.raises(UnauthenticatedError):
        accounts.identity_of_token(session, secret)
    with database.write() as session, pytest.raises(NotFoundError):
        accounts.revoke_token(session, "camera", "anna")


def test_a_link_works_once_and_not_for_ever(database: Database) -> None:
    with database.write() as session:
        once, late = accounts.invite(session, "operator", "anna"), accounts.invite(session, "admin", "anna")
        session.execute(
            update(Invitation)
            .where(Invitation.digest == accounts.digest(late))
            .values(expires_at=datetime.now(UTC) - timedelta(seconds=1))
        )
        with pytest.raises(InputError):  # a password that is too short does not use it up
            accounts.accept(session, once, "ben", "short")
        assert accounts.accept(session, once, "ben", PASSWORD).role == "operator"
        for secret in (once, late, "", "x" * 300, "\ud800"):
            with pytest.raises(ForbiddenError, match="was used or has expired"):
                accounts.accept(session, secret, "cleo", PASSWORD)


def test_no_secret_is_stored(database: Database) -> None:
    secret = started(database)
    with database.write() as session:
        secrets = [PASSWORD, secret, accounts.add_token(session, "camera", "viewer", "anna")]
        secrets.append(accounts.invite(session, "viewer", "anna"))
    with database.read() as session:
        stored = [
            str(row)
            for table in ("user_account", "token", "login_session", "invitation", "event")
            for row in session.execute(text(f"select * from {table}")).all()
        ]
        assert list(events.broken_links(session)) == []
    assert not any(secret in row for row in stored for secret in secrets)


def test_every_change_is_an_event(database: Database) -> None:
    started(database)
    with database.write() as session:
        accounts.add_token(session, "camera", "viewer", "anna")
        accounts.revoke_token(session, "camera", "anna")
        accounts.invite(session, "viewer", "anna")
        accounts.change_user(session, "anna", "anna", password=OTHER)
    with database.read() as session:
        kinds = [row.kind for row in session.execute(text("select kind from event order by id")).all()]
    expected = ["user.created", "user.logged_in", "token.created", "token.revoked", "user.invited", "user.changed"]
    assert kinds[-len(expected) :] == expected
