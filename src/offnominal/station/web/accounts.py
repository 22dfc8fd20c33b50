"""Routes of users, tokens and logins."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy import select

from offnominal.station import accounts
from offnominal.station.accounts import Identity
from offnominal.station.errors import TooManyRequestsError, UnauthenticatedError
from offnominal.station.station import Station
from offnominal.station.tables import Token as TokenRow
from offnominal.station.tables import User as UserRow
from offnominal.station.web.guard import COOKIE, Rate, identity_of
from offnominal.station.web.problems import RESPONSES
from offnominal.station.web.schemas import (
    CreatedToken,
    Credentials,
    FirstUser,
    Me,
    NewToken,
    NewUser,
    Token,
    User,
    UserChange,
)

router = APIRouter(prefix="/api", tags=["accounts"], responses=RESPONSES)
Caller = Annotated[Identity, Depends(identity_of)]


@router.post("/login")
def log_in(credentials: Credentials, request: Request, response: Response) -> Me:
    """Start a browser session: sets a cookie and returns the CSRF token."""
    station: Station = request.app.state.station
    logins: Rate = request.app.state.logins
    client = request.client.host if request.client else ""
    if not logins.allows(client, take=False):
        raise TooManyRequestsError("too many failed logins; wait a minute")
    try:
        with station.database.read() as session:  # a password takes its time; writers must not wait for it
            user = accounts.log_in(session, credentials.name, credentials.password)
        with station.database.write() as session:
            secret = accounts.start_session(session, user, station.settings.session_hours)
    except UnauthenticatedError:
        logins.allows(client)
        raise
    return _logged_in(station, response, secret, user)


@router.post("/first", status_code=201)
def first(given: FirstUser, request: Request, response: Response) -> Me:
    """Create the user of a one-time link and log in."""
    station: Station = request.app.state.station
    with station.database.write() as session:
        user = accounts.accept(session, given.secret, given.name, given.password)
        session.flush()
        secret = accounts.start_session(session, user, station.settings.session_hours)
    return _logged_in(station, response, secret, user)


@router.post("/logout", status_code=204)
def log_out(request: Request, response: Response, caller: Caller) -> None:
    """End the browser session."""
    station: Station = request.app.state.station
    with station.database.write() as session:
        accounts.end_session(session, request.cookies.get(COOKIE, ""))
    response.delete_cookie(COOKIE)


@router.get("/me")
def me(caller: Caller) -> Me:
    """Who sends the request."""
    return Me(name=caller.name, role=caller.role, csrf=caller.csrf)


@router.get("/users", response_model=list[User])
def users(request: Request, caller: Caller) -> list[dict[str, Any]]:
    """All users. Role: admin."""
    caller.require("admin")
    station: Station = request.app.state.station
    with station.database.read() as session:
        return [accounts.public_user(user) for user in session.scalars(select(UserRow).order_by(UserRow.name))]


@router.post("/users", status_code=201, response_model=User)
def add_user(given: NewUser, request: Request, caller: Caller) -> dict[str, Any]:
    """Create a user. Role: admin."""
    caller.require("admin")
    station: Station = request.app.state.station
    with station.database.write() as session:
        return accounts.public_user(accounts.add_user(session, given.name, given.role, given.password, caller.name))


@router.patch("/users/{name}", response_model=User)
def change_user(name: str, given: UserChange, request: Request, caller: Caller) -> dict[str, Any]:
    """Change role, password or access of a user; its sessions end. Role: admin."""
    caller.require("admin")
    station: Station = request.app.state.station
    with station.database.write() as session:
        changed = accounts.change_user(
            session, name, caller.name, role=given.role, password=given.password, disabled=given.disabled
        )
        return accounts.public_user(changed)


@router.get("/tokens", response_model=list[Token])
def tokens(request: Request, caller: Caller) -> list[dict[str, Any]]:
    """All machine tokens, without their secrets. Role: admin."""
    caller.require("admin")
    station: Station = request.app.state.station
    with station.database.read() as session:
        return [accounts.public_token(token) for token in session.scalars(select(TokenRow).order_by(TokenRow.name))]


@router.post("/tokens", status_code=201)
def add_token(given: NewToken, request: Request, caller: Caller) -> CreatedToken:
    """Create a machine token; it is shown only in this answer. Role: admin."""
    caller.require("admin")
    station: Station = request.app.state.station
    with station.database.write() as session:
        return CreatedToken(name=given.name, token=accounts.add_token(session, given.name, given.role, caller.name))


@router.delete("/tokens/{name}", status_code=204)
def revoke_token(name: str, request: Request, caller: Caller) -> None:
    """Revoke a machine token. Role: admin."""
    caller.require("admin")
    station: Station = request.app.state.station
    with station.database.write() as session:
        accounts.revoke_token(session, name, caller.name)


def _logged_in(station: Station, response: Response, secret: str, user: UserRow) -> Me:
    response.set_cookie(
        COOKIE,
        secret,
        max_age=int(station.settings.session_hours * 3600),
        httponly=True,
        samesite="strict",
        secure=station.settings.secure_cookies,
        path="/",
    )
    return Me(name=user.name, role=user.role, csrf=accounts.csrf_token(secret))
