"""The guard in front of all routes: size, rate, identity, CSRF, and the headers of every response."""

from __future__ import annotations

import asyncio
import hmac
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from urllib.parse import urlsplit

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from offnominal.errors import InputError
from offnominal.station import accounts
from offnominal.station.accounts import Identity
from offnominal.station.errors import (
    ForbiddenError,
    TooLargeError,
    TooManyRequestsError,
    UnauthenticatedError,
    UnavailableError,
)
from offnominal.station.station import Station
from offnominal.station.web.problems import problem_of

COOKIE, CSRF_HEADER = "offnominal_session", "x-csrf-token"
SAFE = ("GET", "HEAD", "OPTIONS")
#: Paths that need no identity: pages without data, health, login. Everything else needs one.
PUBLIC = frozenset(
    {
        "/", "/login", "/first", "/history", "/charts", "/teach", "/settings",
        "/healthz", "/readyz", "/metrics", "/openapi.json", "/favicon.ico", "/api/login", "/api/first",
    }
)  # fmt: skip
PUBLIC_PREFIXES = ("/static/", "/line/")
#: Bytes of a request that is neither an image nor a model, and of the form around an image.
SMALL = 1_000_000
#: Longest silence in seconds while a body is received.
SILENCE = 30.0
#: Bytes of memory for the bodies of images and models that are not yet answered; larger ones are on the disk by then.
MEMORY = 1_000_000_000
#: Clients whose rate is remembered.
CLIENTS = 10_000

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Rate:
    """A token bucket per client.

    Examples
    --------
    >>> rate = Rate(per_second=1, burst=2)
    >>> [rate.allows("a"), rate.allows("a"), rate.allows("a")]
    [True, True, False]
    """

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second, self._burst, self._lock = per_second, burst, threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, client: str, *, take: bool = True) -> bool:
        """Whether the client may go on; takes one from its bucket."""
        now = monotonic()
        with self._lock:
            left, since = self._buckets.pop(client, (self._burst, now))
            left = min(self._burst, left + (now - since) * self._per_second)
            allowed = left >= 1
            self._buckets[client] = (left - 1 if allowed and take else left, now)
            if len(self._buckets) > CLIENTS:
                self._buckets.popitem(last=False)
        return allowed


class Guard:
    """ASGI middleware; sets `request.state.identity`."""

    def __init__(self, app: ASGIApp, station: Station) -> None:
        self._app, self._station = app, station
        limits = station.settings.limits
        self._rate = Rate(limits.requests_per_second, 2 * limits.requests_per_second)
        self._receiving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, then pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if scope["path"].startswith("/api/"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            most = self._most_bytes(scope["method"], scope["path"])
            await self._admit(scope, most)
            with self._received(scope, most):
                await self._app(scope, _limited(receive, most), send_with_headers)
        except Exception as error:  # an unexpected one too gets the headers
            if started:
                raise
            await problem_of(error)(scope, receive, send_with_headers)

    async def _admit(self, scope: Scope, most: int) -> None:
        """Set `identity` in the state of the request. Raises `StationError` if the request is refused."""
        headers = Headers(scope=scope)
        self._check_size(headers, most)
        if not self._rate.allows(_client(scope)):
            raise TooManyRequestsError("too many requests; slow down")
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:
            raise InputError("the address has a NUL character")
        identity = None if is_public(scope["path"]) else await run_in_threadpool(self._identify, headers)
        _check_csrf(identity, scope["method"], headers)
        if most > SMALL and identity is not None:
            identity.require("operator")  # before the body, which is large
        scope.setdefault("state", {})["identity"] = identity

    @contextmanager
    def _received(self, scope: Scope, most: int) -> Iterator[None]:
        """Count the memory of a large body. Raises `UnavailableError` if there are too many at the same time."""
        size = 0
        if most > SMALL:  # the framework keeps the start of a file in memory
            size = int(Headers(scope=scope).get("content-length", most)) if scope["path"].startswith("/v2/") else SMALL
        if size and self._receiving and self._receiving + size > MEMORY:
            raise UnavailableError("too many uploads at the same time; try again later", retry_after=1)
        self._receiving += size
        try:
            yield
        finally:
            self._receiving -= size

    def _most_bytes(self, method: str, path: str) -> int:
        limits = self._station.settings.limits
        if method != "POST":
            return SMALL
        if path.startswith("/api/lines/") and path.endswith("/models"):
            return int(limits.model_megabytes * 1e6) + SMALL
        if path.endswith("/inspections"):
            return int(limits.upload_megabytes * 1e6) + SMALL
        if path.startswith("/v2/") and path.endswith("/infer"):
            return int(limits.upload_megabytes * 1e6) + SMALL
        return SMALL

    def _check_size(self, headers: Headers, most: int) -> None:
        length = headers.get("content-length", "0")
        if not re.fullmatch("[0-9]{1,18}", length) or int(length) > most:
            raise TooLargeError(f"the request has {length[:20]} bytes; at most {most} are accepted here")

    def _identify(self, headers: Mapping[str, str]) -> Identity:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        with self._station.database.read() as session:
            if scheme.lower() == "bearer":
                return accounts.identity_of_token(session, token.strip())
            secret = cookie_parser(headers.get("cookie", "")).get(COOKIE)
            if not secret:
                raise UnauthenticatedError("log in, or send a token: Authorization: Bearer TOKEN")
            return accounts.identity_of_session(session, secret)


def identity_of(request: Request) -> Identity:
    """Dependency: who sends the request."""
    identity = request.state.identity
    assert isinstance(identity, Identity)
    return identity


def is_public(path: str) -> bool:
    """Whether a path needs no identity."""
    return path in PUBLIC or path.startswith(PUBLIC_PREFIXES)


def _client(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""


def _check_csrf(identity: Identity | None, method: str, headers: Headers) -> None:
    """A browser sends its cookie with every request, so a change must also carry a token that only our pages can read.

    A login has no token yet; another site must not log a browser in either.
    """
    if method in SAFE or (identity is not None and identity.csrf is None):
        return
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        raise ForbiddenError("the request comes from another site")
    if identity is None or identity.csrf is None:
        return
    if not hmac.compare_digest(headers.get(CSRF_HEADER, "").encode(), identity.csrf.encode()):
        raise ForbiddenError("the header X-CSRF-Token is missing or wrong; GET /api/me has it")


def _limited(receive: Receive, most: int) -> Receive:
    """`receive`, which refuses a body of more bytes, of any length its header states, and one that stalls."""
    received, complete = 0, False

    async def limited() -> Message:
        nonlocal received, complete
        if complete:
            return await receive()  # waits for the client to leave, without a limit
        try:
            async with asyncio.timeout(SILENCE):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, f"no byte of the body for {SILENCE:g} seconds") from None
        if message["type"] == "http.request":
            received, complete = received + len(message.get("body", b"")), not message.get("more_body", False)
            if received > most:
                raise HTTPException(413, f"the request has more than {most} bytes")
        return message

    return limited
