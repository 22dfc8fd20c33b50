"""Hostile requests at random: addresses, bodies, forms, files, identities and bytes that are no HTTP."""

from __future__ import annotations

import json
import random
import re
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from offnominal.station.accounts import ROLES
from station.bombs import bombs, hostile_models
from station.calls import post
from station.servers import LINE, PATIENCE, Server, image_bytes

#: Settings of a station that is attacked: its limits are small, so that an attack that passes one costs little.
CONFIG = """
[limits]
upload_megabytes = 4.0
model_megabytes = 4.0
megapixels = 4.0
requests_per_second = 1000000.0
logins_per_minute = 1000000.0
"""
#: What an answer must never contain: content of files of the machine and of the station.
SECRETS = (b"root:x:", b"SQLite format 3", b"megapixels = ", b"Traceback", b"$argon2")
TEXTS = (
    "", " ", "\0", "a\0b", "\x1b[31m", "\r\nSet-Cookie: a=b", "\n", "\u202egnp.exe", "\ufeff", "\ud800", "\U0001f600" * 50,
    "é" * 300,
    "A" * 257, "A" * 10_000, "../" * 20 + "etc/passwd", "/etc/passwd", "..\\..\\config.toml", "%2e%2e%2f", "file:///etc/passwd",
    "' or 1=1 --", '"; drop table inspection; --', "%", "_", "*", "${7*7}", "{{7*7}}", "$(id)", "`id`", "| id", "; id",
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "javascript:alert(1)", "-1", "0", "1e309", "NaN", "null",
    "true",
    "9" * 400, "9" * 5000, "0x10", "1970-01-01", "9999-12-31T23:59:59-23:59", "2026-11-30T25:00", "%00", "%s%s%n",
    "\u0000\uffff", "😀", ".",
    "..", "station.sqlite", LINE, "ok", "ng", "f" * 32, "0" * 64,
)  # fmt: skip


@cache
def values() -> tuple[Any, ...]:
    """Values for properties of JSON."""
    nested: Any = 0
    for _ in range(200):
        nested = [nested]
    return (*TEXTS, None, True, 0, -1, 2**31, 2**63, 2**200, 1.5, [], {}, [[]], {"a": {}}, nested, ["x"] * 1000, {"$ref": "#"})


@dataclass(frozen=True)
class Attack:
    """A request, or bytes; `role` None sends no token, `forged` a wrong one. `least` is the role that it needs."""

    kind: str
    method: str = "GET"
    path: str = "/"
    role: str | None = "operator"
    least: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    sent: dict[str, Any] = field(default_factory=dict)
    raw: bytes | None = None
    harmless: bool = False


@dataclass(frozen=True)
class Operation:
    """An operation of the OpenAPI document."""

    method: str
    path: str
    least: str | None
    body: str | None
    names: tuple[str, ...]


def operations(document: dict[str, Any]) -> list[Operation]:
    """All operations, with the least role that they need; None if all may."""
    found = []
    for path, described in document["paths"].items():
        for method, operation in described.items():
            role = re.search(r"Role: (\w+)\.", operation["description"])
            least = role[1] if role else "viewer"
            content = operation.get("requestBody", {}).get("content", {})
            names: Sequence[str] = ()
            for media in content.values():
                schema = document["components"]["schemas"].get(str(media["schema"].get("$ref")).split("/")[-1], {})
                names = tuple(schema.get("properties", ()))
            kind = next(iter(content), None)
            found.append(
                Operation(method.upper(), path, None if operation.get("security") == [] else least, kind, tuple(names))
            )
    return found


class Attacker:
    """Draws attacks on a server.

    Parameters
    ----------
    server
        The server.
    model
        A good model file, which hostile ones are made of.
    trap
        A folder that hostile model files would create.
    """

    def __init__(self, server: Server, model: Path, trap: Path) -> None:
        self.server, self.trap = server, trap
        document = httpx.get(server.url + "/openapi.json", trust_env=False, timeout=PATIENCE).json()
        self.operations = operations(document)
        self._models = list(hostile_models(model.read_bytes(), trap).values())

    def draw(self, rng: random.Random) -> Attack:
        """An attack."""
        kinds: Sequence[Callable[[random.Random], Attack]] = (
            self._address, self._address, self._json, self._json, self._form, self._bomb, self._model, self._identity,
            self._inference, self._bytes,
        )  # fmt: skip
        return rng.choice(kinds)(rng)

    def problem(self, attack: Attack) -> str | None:
        """Send an attack; what is wrong with the answer."""
        if attack.raw is not None:
            return self._send_bytes(attack.raw)
        target = {"target": attack.path.encode("ascii")}  # as it is: the client would resolve `..`
        headers = dict(attack.headers)
        if attack.role is not None:
            headers["Authorization"] = f"Bearer {self.server.home.tokens.get(attack.role, 'forged')}"
        try:
            with (
                httpx.Client(timeout=PATIENCE, trust_env=False, verify=False) as client,
                client.stream(attack.method, self.server.url, headers=headers, extensions=target, **attack.sent) as answer,
            ):
                stream = answer.headers.get("content-type", "").startswith("text/event-stream")
                return _wrong(attack, answer.status_code, answer.headers, b"" if stream else answer.read())
        except (httpx.InvalidURL, UnicodeError, httpx.LocalProtocolError, ValueError):
            return None  # this client cannot send it
        except httpx.TransportError as error:
            return f"{attack.kind} {attack.method} {attack.path[:80]}: {error!r}"

    def _send_bytes(self, content: bytes) -> str | None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.server.port), 10) as connection:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(10)
            answer = connection.recv(65536)
            if any(secret in answer for secret in SECRETS) or answer.split(b" ")[1:2] in ([b"500"], [b"200"]):
                return f"bytes {content[:60]!r}: {answer[:100]!r}"
        return None

    def _address(self, rng: random.Random) -> Attack:
        one = rng.choice(self.operations)
        path = re.sub(r"\{\w+\}", lambda match: _part(rng), one.path)
        if one.path.startswith("/api/lines/{line}") and rng.random() < 0.5:
            path = re.sub(r"\{\w+\}", lambda match: _part(rng), one.path.replace("{line}", LINE))
        query = [
            (rng.choice(("serial", "lot", "after", "since", "limit", "verdict", "line", "by", "order", "x")), rng.choice(TEXTS))
        ]
        encoded = "&".join(f"{name}={_part(rng, text)}" for name, text in query * rng.randint(0, 2))
        role = rng.choice((None, "forged", "viewer", "operator"))
        harmless = one.method == "GET" or one.path == "/api/logout"
        return Attack("address", one.method, path + ("?" + encoded if encoded else ""), role, one.least, harmless=harmless)

    def _json(self, rng: random.Random) -> Attack:
        one = rng.choice([operation for operation in self.operations if operation.body == "application/json"])
        body: Any = {name: rng.choice(values()) for name in one.names if rng.random() < 0.9}
        if rng.random() < 0.1:
            body = rng.choice(values())
        content = json.dumps(body).encode()
        if rng.random() < 0.1:
            content = rng.choice((b'{"a":' * 50_000, b"[" * 50_000, b"\xff\xfe", b"{", b"", b"NaN", content * 2, content[:-1]))
        path = re.sub(r"\{\w+\}", lambda match: rng.choice((LINE, _part(rng))), one.path)
        kind = rng.choice(("application/json", "application/json", "text/plain", "application/x-www-form-urlencoded", ""))
        role = rng.choice((None, "forged", "viewer", "operator", "engineer"))
        sent = {"content": content}
        return Attack("json", one.method, path, role, one.least, {"Content-Type": kind}, sent, harmless=True)

    def _form(self, rng: random.Random) -> Attack:
        names = ("serial", "lot", "taken_at", "path", "image", "x", "", "serial\0", "__proto__")
        data = {rng.choice(names): rng.choice(TEXTS) for _ in range(rng.choice((1, 3, 30)))}
        image = rng.choice((image_bytes(rng.randrange(4)), b"", b"no image"))
        files = {"image": (rng.choice(TEXTS) or "x.png", image)} if rng.random() < 0.9 else {"image": ("x", b"x" * 5_100_000)}
        headers = {"Idempotency-Key": quote(rng.choice(TEXTS), errors="replace")[:2000]} if rng.random() < 0.5 else {}
        return self._post("form", rng, {"data": data, "files": files}, headers, harmless=image[:4] == b"\x89PNG")

    def _bomb(self, rng: random.Random) -> Attack:
        return self._post(
            "bomb", rng, {"files": {"image": (rng.choice(TEXTS) or "x.png", rng.choice(list(bombs().values())))}}, {}
        )

    def _post(
        self, kind: str, rng: random.Random, sent: dict[str, Any], headers: dict[str, str], harmless: bool = False
    ) -> Attack:
        role = rng.choice(("operator", "operator", "viewer", None))
        path = f"/api/lines/{LINE}/inspections"
        return Attack(kind, "POST", path, role, "operator", headers, sent, harmless=harmless)

    def _model(self, rng: random.Random) -> Attack:
        sent = {
            "files": {"model": (rng.choice(TEXTS) or "x", rng.choice(self._models))},
            "data": {"comment": rng.choice(TEXTS)},
        }
        role = rng.choice(("engineer", "engineer", "operator", "forged"))
        return Attack("model", "POST", f"/api/lines/{LINE}/models", role, "engineer", {}, sent)

    def _identity(self, rng: random.Random) -> Attack:
        one = rng.choice([operation for operation in self.operations if operation.least is not None])
        text = quote(rng.choice(TEXTS), errors="replace")[:3000]
        headers = rng.choice(
            (
                {"Authorization": f"Bearer {text}"}, {"Authorization": f"Basic {text}"}, {"Authorization": text},
                {"Authorization": "Bearer"},
                {"Cookie": f"offnominal_session={text}"}, {"Cookie": f"offnominal_session={text}", "X-CSRF-Token": text},
                {"Cookie": "; ".join(f"c{number}={number}" for number in range(500))},
                {"X-Forwarded-User": "admin", "X-Real-IP": "127.0.0.1"},
                {"Cookie": f"offnominal_session={self.server.home.tokens['admin']}"},
            )
        )  # fmt: skip
        path = re.sub(r"\{\w+\}", LINE, one.path)
        return Attack("identity", one.method, path, None, one.least, headers)

    def _inference(self, rng: random.Random) -> Attack:
        image = {
            name: rng.choice(values()) for name in ("name", "datatype", "shape", "data", "parameters") if rng.random() < 0.8
        }
        image |= {"name": "image", "datatype": rng.choice(("UINT8", "BYTES"))} if rng.random() < 0.7 else {}
        body = {"inputs": [image], "outputs": rng.choice((None, [{"name": rng.choice(values())}], rng.choice(values())))}
        headers = {"Inference-Header-Content-Length": rng.choice(TEXTS)[:3000]} if rng.random() < 0.3 else {}
        headers = {name: value for name, value in headers.items() if value.isprintable() and value.isascii()}
        return Attack(
            "inference", "POST", f"/v2/models/{LINE}/infer", "operator", "operator", headers, {"content": json.dumps(body)}
        )

    def _bytes(self, rng: random.Random) -> Attack:
        token = self.server.home.tokens["operator"]
        head = f"POST /api/lines/{LINE}/inspections HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n".encode()
        choices = (
            rng.randbytes(rng.randint(1, 3000)), b"GET / HTTP/9.9\r\n\r\n", b"GET\r\n\r\n", b"\r\n" * 1000,
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 20_000,
            b"GET /api/lines HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            head + b"Content-Length: -1\r\n\r\n", head + b"Content-Length: 99999999999999999999\r\n\r\n",
            head + b"Content-Length: 5\r\n\r\nx",
            head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nxxxxx",
            head + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
            head + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
            head + b"Expect: 100-continue\r\nContent-Length: 10\r\n\r\n",
            b"GET /api/lines HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\r\n\r\n",
            b"GET /static/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET http://evil.example/api/lines HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /api/lines HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        )  # fmt: skip
        return Attack("bytes", raw=rng.choice(choices))


def _part(rng: random.Random, text: str | None = None) -> str:
    """A hostile part of an address, sometimes encoded twice."""
    drawn = quote(rng.choice(TEXTS) if text is None else text, safe="./%" if rng.random() < 0.3 else "", errors="replace")[
        :4000
    ]
    return quote(drawn) if rng.random() < 0.1 else drawn


def _wrong(attack: Attack, status: int, headers: httpx.Headers, content: bytes) -> str | None:
    where = f"{attack.kind} {attack.method} {attack.path[:80]} as {attack.role}: {status}"
    if status >= 500 and status != 503:
        return where
    if any(secret in content for secret in SECRETS):
        return f"{where}, with a secret"
    if status < 300 and attack.least is not None:
        if attack.role not in ROLES or ROLES.index(attack.role) < ROLES.index(attack.least):
            return f"{where}, without the role {attack.least}"
        if not attack.harmless:
            return f"{where}, succeeded: {content[:100]!r}"
    if status >= 400 and headers.get("content-type") != "application/problem+json":
        return f"{where}, no problem: {content[:100]!r}"
    if headers.get("x-content-type-options") != "nosniff":
        return f"{where}, without headers"
    return None


def resident(pid: int) -> int:
    """Bytes of memory of a process."""
    found = re.search(r"VmRSS:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return 1024 * int(found[1])


def handles(pid: int) -> int:
    """Open files and sockets of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@dataclass(frozen=True)
class Result:
    """What attacks have done: requests by kind, problems, and bytes of memory before and along the way."""

    sent: Counter[str]
    problems: list[str]
    memory: list[int]


def attacked(attacker: Attacker, number: int, *, seed: int = 0, clients: int = 8) -> Result:
    """Attack from several clients; between attacks the server must inspect good parts."""
    server, size = attacker.server, 50
    sent: Counter[str] = Counter()
    problems: list[str] = []
    memory = [resident(server.pid)]

    def group(first: int) -> None:
        rng = random.Random(f"{seed} {first}")
        for _ in range(min(size, number - first)):
            attack = attacker.draw(rng)
            sent[attack.kind] += 1
            if (wrong := attacker.problem(attack)) is not None:
                problems.append(wrong)
        with server.client() as client:
            good = post(client, LINE, image_bytes(3))
            if good.status_code != 201 or good.json()["verdict"] != "ok":
                problems.append(f"a good part: {good.text[:200]}")
        memory.append(resident(server.pid))

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(group, range(0, number, size)))
    if attacker.trap.exists():
        problems.append("the code of a model was run")
    return Result(sent, problems, memory)
