"""Users, tokens, browser sessions and one-time links.

Passwords are hashed with Argon2. Tokens, session secrets and links have 256 random bits, so that SHA-256 protects them: nobody
can guess them, and the database holds no secret that could be used.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from offnominal.errors import InputError
from offnominal.station import events
from offnominal.station.errors import ConflictError, ForbiddenError, NotFoundError, UnauthenticatedError
from offnominal.station.settings import NAME
from offnominal.station.tables import Invitation, LoginSession, Token, User

#: From least to most: each role may do what the roles before it may.
ROLES = ("viewer", "operator", "engineer", "admin")
#: Fewest and most characters of a password.
SHORTEST, LONGEST = 10, 200
#: Hours for which a one-time link is valid.
LINK_HOURS = 48
#: Prefix of machine tokens, so that secret scanners recognise them.
PREFIX = "offnominal_"


@dataclass(frozen=True)
class Identity:
    """Who sends a request. `csrf` is the token that a browser must send with changes; None for machines."""

    name: str
    role: str
    csrf: str | None = None

    def require(self, role: str) -> None:
        """Raise `ForbiddenError` unless the role suffices.

        Examples
        --------
        >>> Identity("anna", "engineer").require("operator")
        """
        if ROLES.index(self.role) < ROLES.index(role):
            raise ForbiddenError(f"{self.name} is {self.role}; this needs the role {role}")


def add_user(session: Session, name: str, role: str, password: str, by: str) -> User:
    """Create a user. Raises `InputError` or `ConflictError`."""
    _require_name(name)
    require_role(role)
    if session.scalar(select(User).where(User.name == name)) is not None:
        raise ConflictError(f"user {name}: exists already")
    user = User(name=name, role=role, password_hash=hash_password(password), disabled=False, created_at=datetime.now(UTC))
    session.add(user)
    events.append(session, "user.created", name, by, {"role": role})
    return user


def change_user(
    session: Session, name: str, by: str, *, role: str | None = None, password: str | None = None, disabled: bool | None = None
) -> User:
    """Change a user and end its sessions. Raises `NotFoundError`, `InputError`, or `ConflictError` for the last admin."""
    user = session.scalar(select(User).where(User.name == name))
    if user is None:
        raise NotFoundError(f"user {name[:70]}: does not exist")
    if role is not None:
        require_role(role)
    loses = user.role == "admin" and not user.disabled and (disabled or role not in (None, "admin"))
    admins = session.scalar(select(func.count()).select_from(User).where(User.role == "admin", User.disabled.is_(False)))
    if loses and admins == 1:
        raise ConflictError(f"user {name}: is the last admin; make another user admin first")
    if password is not None:
        user.password_hash = hash_password(password)
    user.role = user.role if role is None else role
    user.disabled = user.disabled if disabled is None else disabled
    session.execute(delete(LoginSession).where(LoginSession.user_id == user.id))
    changed = {"role": user.role, "disabled": user.disabled, "password": password is not None}
    events.append(session, "user.changed", name, by, changed)
    return user


def add_token(session: Session, name: str, role: str, by: str) -> str:
    """Create a machine token and return it; it is not stored and cannot be shown again."""
    _require_name(name)
    require_role(role)
    if session.scalar(select(Token).where(Token.name == name)) is not None:
        raise ConflictError(f"token {name}: exists already")
    secret = PREFIX + secrets.token_urlsafe(32)
    session.add(Token(name=name, role=role, digest=digest(secret), created_at=datetime.now(UTC), revoked_at=None))
    events.append(session, "token.created", name, by, {"role": role})
    return secret


def revoke_token(session: Session, name: str, by: str) -> None:
    """Revoke a machine token. Raises `NotFoundError`."""
    token = session.scalar(select(Token).where(Token.name == name, Token.revoked_at.is_(None)))
    if token is None:
        raise NotFoundError(f"token {name[:70]}: does not exist")
    token.revoked_at = datetime.now(UTC)
    events.append(session, "token.revoked", name, by, {})


def invite(session: Session, role: str, by: str) -> str:
    """Create a one-time link and return its secret."""
    require_role(role)
    secret = secrets.token_urlsafe(32)
    expires = datetime.now(UTC) + timedelta(hours=LINK_HOURS)
    session.add(Invitation(digest=digest(secret), role=role, expires_at=expires, used_at=None))
    events.append(session, "user.invited", role, by, {"expires": expires.isoformat()})
    return secret


def accept(session: Session, secret: str, name: str, password: str) -> User:
    """Create the user of a one-time link. Raises `ForbiddenError` if it was used or has expired."""
    invitation = session.get(Invitation, digest(secret))
    if invitation is None or invitation.used_at is not None or invitation.expires_at < datetime.now(UTC):
        raise ForbiddenError("this link was used or has expired; ask for a new one: offnominal station user DIR --link")
    user = add_user(session, name, invitation.role, password, by=name)
    invitation.used_at = datetime.now(UTC)
    return user


def log_in(session: Session, name: str, password: str) -> User:
    """Check a password. Raises `UnauthenticatedError`; takes as long for an unknown user."""
    user = session.scalar(select(User).where(User.name == name))
    stored = _unknown_hash() if user is None else user.password_hash
    try:
        PasswordHasher().verify(stored, password[:LONGEST])
    except (VerificationError, InvalidHashError):
        user = None
    if user is None or user.disabled:
        raise UnauthenticatedError("the name or the password is wrong")
    return user


def start_session(session: Session, user: User, hours: float) -> str:
    """Start a browser session and return its secret; expired sessions are removed."""
    secret, now = secrets.token_urlsafe(32), datetime.now(UTC)
    session.execute(delete(LoginSession).where(LoginSession.expires_at < now))
    session.add(LoginSession(digest=digest(secret), user_id=user.id, created_at=now, expires_at=now + timedelta(hours=hours)))
    events.append(session, "user.logged_in", user.name, user.name, {})
    return secret


def end_session(session: Session, secret: str) -> None:
    """End a browser session."""
    session.execute(delete(LoginSession).where(LoginSession.digest == digest(secret)))


def identity_of_token(session: Session, secret: str) -> Identity:
    """Who owns a token. Raises `UnauthenticatedError`."""
    token = session.scalar(select(Token).where(Token.digest == digest(secret), Token.revoked_at.is_(None)))
    if token is None:
        raise UnauthenticatedError("the token is not valid")
    return Identity(token.name, token.role)


def identity_of_session(session: Session, secret: str) -> Identity:
    """Who owns a browser session. Raises `UnauthenticatedError`."""
    found = session.execute(
        select(User, LoginSession.expires_at)
        .join(LoginSession, LoginSession.user_id == User.id)
        .where(LoginSession.digest == digest(secret), User.disabled.is_(False))
    ).first()
    if found is None or found.expires_at < datetime.now(UTC):
        raise UnauthenticatedError("the session has ended; log in")
    return Identity(found.User.name, found.User.role, csrf_token(secret))


def csrf_token(secret: str) -> str:
    """The token that proves that a change comes from a page of the station: only such a page can read it."""
    return hmac.new(secret.encode(), b"csrf", hashlib.sha256).hexdigest()


def hash_password(password: str) -> str:
    """Argon2 hash of a password. Raises `InputError` if it is too short or too long."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise InputError(f"a password has {SHORTEST} to {LONGEST} characters")
    return PasswordHasher().hash(password)


def require_role(role: str) -> None:
    """Raise `InputError` unless the role exists."""
    if role not in ROLES:
        raise InputError(f"role {role[:40]!r}: give one of {', '.join(ROLES)}")


def digest(secret: str) -> str:
    """SHA-256 of a secret, in hexadecimal digits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def public_user(user: User) -> dict[str, Any]:
    """A user as the HTTP API shows it."""
    return {"name": user.name, "role": user.role, "disabled": user.disabled, "created_at": user.created_at}


def public_token(token: Token) -> dict[str, Any]:
    """A machine token as the HTTP API shows it, without its secret."""
    return {"name": token.name, "role": token.role, "created_at": token.created_at, "revoked_at": token.revoked_at}


def _require_name(name: str) -> None:
    if not re.fullmatch(NAME, name):
        raise InputError(f"name {name[:70]!r}: give up to 64 letters, digits, '.', '_' or '-', starting with a letter or digit")


@cache
def _unknown_hash() -> str:
    return PasswordHasher().hash(secrets.token_urlsafe(32))
