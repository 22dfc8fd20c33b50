"""The guard in front of all routes: size, rate, identity, CSRF, and the headers of every response."""

from __future__ import annotations

import hmac
import threading
from collections import OrderedDict
from collections.abc import Mapping
from time import monotonic
from urllib.parse import urlsplit

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from offnominal.station import accounts
from offnominal.station.accounts import Identity
from offnominal.station.errors import ForbiddenError, StationError, TooLargeError, TooManyRequestsError, UnauthenticatedError
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, then pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if scope["path"].startswith("/api/"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            headers = Headers(scope=scope)
            most = self._most_bytes(scope["path"])
            self._check_size(headers, most)
            if not self._rate.allows(_client(scope)):
                raise TooManyRequestsError("too many requests; slow down")
            state = scope.setdefault("state", {})
            state["identity"] = None
            if not _public(scope["path"]):
                identity = await run_in_threadpool(self._identify, headers)
                _check_csrf(identity, scope["method"], headers)
                state["identity"] = identity
        except StationError as error:
            await problem_of(error)(scope, receive, send_with_headers)
            return
        await self._app(scope, _limited(receive, most), send_with_headers)

    def _most_bytes(self, path: str) -> int:
        limits = self._station.settings.limits
        if path.startswith("/api/lines/") and path.endswith("/models"):
            return int(limits.model_megabytes * 1e6) + SMALL
        if path.endswith("/inspections"):
            return int(limits.upload_megabytes * 1e6) + SMALL
        if path.startswith("/v2/") and path.endswith("/infer"):
            return int(4 * limits.upload_megabytes * 1e6) + SMALL
        return SMALL

    def _check_size(self, headers: Headers, most: int) -> None:
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > most:
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


def _public(path: str) -> bool:
    return path in PUBLIC or path.startswith(PUBLIC_PREFIXES)


def _client(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""


def _check_csrf(identity: Identity, method: str, headers: Headers) -> None:
    """A browser sends its cookie with every request, so a change must also carry a token that only our pages can read."""
    if identity.csrf is None or method in SAFE:
        return
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        raise ForbiddenError("the request comes from another site")
    if not hmac.compare_digest(headers.get(CSRF_HEADER, "").encode(), identity.csrf.encode()):
        raise ForbiddenError("the header X-CSRF-Token is missing or wrong; GET /api/me has it")


def _limited(receive: Receive, most: int) -> Receive:
    """`receive`, which refuses a body that is longer than its header says or that has no length."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        if message["type"] == "http.request":
            received += len(message.get("body", b""))
            if received > most:
                raise HTTPException(413, f"the request has more than {most} bytes")
        return message

    return limited
