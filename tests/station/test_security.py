"""Attacks over real HTTP, and the answers to them: identity, CSRF, logins, sizes, paths, headers."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from offnominal.station import accounts, setup
from offnominal.station.station import Station
from offnominal.station.web import create_app, guard
from station.calls import is_problem, post
from station.conftest import ServerFactory, StationFactory
from station.parts import waiting_files
from station.servers import LINE, PASSWORD, PATIENCE, Server, image_bytes

CONFIG = """
[limits]
upload_megabytes = 2.0
model_megabytes = 4.0
megapixels = 4.0
requests_per_second = 100000.0
logins_per_minute = 10000.0

[lines.parts]
allowed_folders = ["{folder}/allowed"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one that requests may name, and others beside it."""
    root = tmp_path_factory.mktemp("folders")
    for name in ("allowed", "allowed-not", "secret"):
        (root / name).mkdir()
        (root / name / "part.png").write_bytes(image_bytes(1))
    (root / "allowed" / "link.png").symlink_to(root / "secret" / "part.png")
    (root / "allowed" / "folder").symlink_to(root / "secret")
    os.mkfifo(root / "allowed" / "pipe.png")
    return root


@pytest.fixture(scope="module")
def running(station_folder: StationFactory, server: ServerFactory, folder: Path) -> Iterator[Server]:
    home = station_folder(config=CONFIG.format(folder=folder))
    home.add_user("anna", "engineer")
    with server(home) as started:
        yield started
        assert "Traceback" not in started.log


@pytest.fixture
def client(running: Server) -> Iterator[httpx.Client]:
    with running.client() as client:
        yield client


@pytest.fixture
def browser(running: Server) -> Iterator[httpx.Client]:
    """A browser of anna; it has its CSRF token as a header."""
    with httpx.Client(base_url=running.url, timeout=PATIENCE, trust_env=False) as client:
        answer = client.post("/api/login", json={"name": "anna", "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        client.headers["X-CSRF-Token"] = answer.json()["csrf"]
        yield client


def test_a_browser_needs_its_token_and_its_own_site(browser: httpx.Client) -> None:
    token = browser.headers.pop("X-CSRF-Token")
    assert browser.get("/api/me").json() == {"name": "anna", "role": "engineer", "csrf": token}

    def create(name: str, **headers: str) -> httpx.Response:
        return browser.post("/api/lines", json={"name": name}, headers=headers)

    for headers in ({}, {"X-CSRF-Token": "wrong"}, {"X-CSRF-Token": token[:-1]}, {"X-CSRF-Token": token.upper()}):
        assert is_problem(create("csrf", **headers), 403)
    port = browser.base_url.port
    foreign = (
        "http://evil.example",
        "null",
        f"http://127.0.0.1:{port}.evil.example",
        f"http://localhost:{port}",
        "http://127.0.0.1",
    )
    for origin in foreign:
        assert is_problem(create("csrf", **{"X-CSRF-Token": token, "Origin": origin}), 403)
    assert is_problem(browser.delete("/api/tokens/x"), 403)
    assert is_problem(browser.patch("/api/users/x", json={}), 403)
    assert create("own-site", **{"X-CSRF-Token": token, "Origin": str(browser.base_url).rstrip("/")}).status_code == 201


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""])
def test_a_form_of_another_site_is_no_json(browser: httpx.Client, kind: str) -> None:
    """A page of another site can send these without asking first."""
    for path, content in (
        ("/api/lines", b'{"name":"form"}'),
        ("/api/login", b'{"name":"anna","password":"%s"}' % PASSWORD.encode()),
    ):
        answer = browser.post(path, content=content, headers={"Content-Type": kind})
        assert answer.status_code in (400, 422)
        assert is_problem(answer, answer.status_code)


def test_another_site_cannot_log_a_browser_in(running: Server) -> None:
    for path in ("/api/login", "/api/first"):
        answer = httpx.post(
            running.url + path,
            json={"name": "anna", "password": PASSWORD, "secret": "x"},
            headers={"Origin": "http://evil.example"},
            trust_env=False,
        )
        assert is_problem(answer, 403)


def test_a_session_is_new_and_ends(running: Server) -> None:
    with httpx.Client(base_url=running.url, trust_env=False) as client:
        client.cookies.set(guard.COOKIE, "fixed by somebody else")
        answer = client.post("/api/login", json={"name": "anna", "password": PASSWORD})
        assert "fixed" not in answer.headers["set-cookie"]
        flags = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")}
        assert {"httponly", "samesite=strict", "path=/"} <= flags
        assert "secure" not in flags
        cookie = answer.cookies[guard.COOKIE]
        assert len(cookie) > 40
    cookies = {"Cookie": f"{guard.COOKIE}={cookie}"}
    assert httpx.get(running.url + "/api/me", headers=cookies, trust_env=False).status_code == 200
    csrf = {"X-CSRF-Token": accounts.csrf_token(cookie)}
    assert httpx.post(running.url + "/api/logout", headers={**cookies, **csrf}, trust_env=False).status_code == 204
    assert is_problem(httpx.get(running.url + "/api/me", headers=cookies, trust_env=False), 401)


def test_behind_https_cookies_are_secure(station_folder: StationFactory, server: ServerFactory) -> None:
    home = station_folder(config="secure_cookies = true\n[limits]\nlogins_per_minute = 5.0\n")
    home.add_user("anna", "engineer")
    with server(home) as running, httpx.Client(base_url=running.url, trust_env=False, timeout=PATIENCE) as client:
        assert "Secure" in client.post("/api/login", json={"name": "anna", "password": PASSWORD}).headers["set-cookie"]
        # Guessing is slowed down, also where the password is right.
        wrong = [client.post("/api/login", json={"name": "anna", "password": f"wrong {number}"}) for number in range(5)]
        assert all(is_problem(answer, 401) for answer in wrong)
        assert {answer.json()["detail"] for answer in wrong} == {"the name or the password is wrong"}
        for password in ("wrong again", PASSWORD):
            assert is_problem(client.post("/api/login", json={"name": "anna", "password": password}), 429)


def test_a_revoked_token_and_a_used_link_are_worth_nothing(running: Server, browser: httpx.Client) -> None:
    with running.client("admin") as admin:
        secret = admin.post("/api/tokens", json={"name": "camera", "role": "operator"}).json()["token"]
        headers = {"Authorization": f"Bearer {secret}"}
        assert httpx.get(running.url + "/api/lines", headers=headers, trust_env=False).status_code == 200
        assert admin.delete("/api/tokens/camera").status_code == 204
        assert is_problem(httpx.get(running.url + "/api/lines", headers=headers, trust_env=False), 401)
        assert secret not in admin.get("/api/tokens").text
    with setup.Setup(running.home.root) as opened, opened.database.write() as session:
        link = accounts.invite(session, "viewer", "test")
    given = {"secret": link, "name": "ben", "password": PASSWORD}
    for status, secret in ((403, "guessed"), (201, link), (403, link)):
        answer = httpx.post(running.url + "/api/first", json={**given, "secret": secret}, trust_env=False)
        assert answer.status_code == status
    with running.client("admin") as admin:
        assert admin.patch("/api/users/ben", json={"disabled": True}).status_code == 200
    answer = httpx.post(running.url + "/api/login", json={"name": "ben", "password": PASSWORD}, trust_env=False)
    assert is_problem(answer, 401)


TRAVERSALS = (
    "{root}/secret/part.png", "{root}/allowed/../secret/part.png", "{root}/allowed/./../secret/part.png",
    "{root}/allowed-not/part.png", "{root}/allowed/link.png", "{root}/allowed/folder/part.png", "{root}/allowed",
    "{root}/allowed/", "{root}/allowed/pipe.png", "{root}/allowed/missing.png", "/etc/passwd", "/dev/zero",
    "/proc/self/environ", "part.png", "../part.png", "file://{root}/allowed/part.png", "//{root}/secret/part.png", "~/part.png",
    "{root}/allowed/part.png#1",
    "\\\\server\\share\\part.png", "http://127.0.0.1/part.png", "{root}/allowed/..%2fsecret/part.png", "./config.toml",
)  # fmt: skip


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_path_leads_out_of_the_allowed_folders(client: httpx.Client, folder: Path, path: str) -> None:
    answer = client.post(f"/api/lines/{LINE}/inspections", data={"path": path.replace("{root}", str(folder))})
    assert is_problem(answer, 403)
    assert "secret" not in answer.text


def test_an_allowed_path_is_fine_and_a_line_has_its_own(running: Server, client: httpx.Client, folder: Path) -> None:
    path = {"path": str(folder / "allowed" / "part.png")}
    assert client.post(f"/api/lines/{LINE}/inspections", data=path).status_code == 201
    with running.client("engineer") as engineer:
        engineer.post("/api/lines", json={"name": "other"})
    assert is_problem(client.post("/api/lines/other/inspections", data=path), 403)
    for wrong in (path["path"] + "\0.png", "a\nb"):
        assert is_problem(client.post(f"/api/lines/{LINE}/inspections", data={"path": wrong}), 422)


@pytest.mark.parametrize(
    "path",
    [
        "/static/../web/app.py", "/static/..%2f..%2fconfig.toml", "/static/%2e%2e/station.py", "/static//etc/passwd",
        "/static/report/..%2f..%2f__init__.py", "/static/%00", "/static/report/%00", "/line/../api/lines",
        "/line/..%2f..%2fapi%2flines",
        "/api/inspections/..%2f..%2fconfig.toml/image", "/api/lines/..%2f..%2f/models", "/%2e%2e/%2e%2e/etc/passwd",
        "/api/inspections/%2e%2e%2fstation.sqlite", f"/api/lines/{LINE}/models/..%2f..%2fconfig.toml",
        f"/api/lines/{LINE}/models/{'0' * 64}%2f..%2f..%2fstation.sqlite",
    ],
)  # fmt: skip
def test_no_address_leads_to_a_file_outside(running: Server, path: str) -> None:
    with running.client("admin") as client, client.stream("GET", client.base_url.copy_with(raw_path=path.encode())) as answer:
        content = answer.read()
        assert answer.status_code in (404, 422) or path.startswith("/line/"), (answer.status_code, content[:200])
        assert b"root:" not in content
        assert b"SQLite format" not in content
        assert b"allowed_folders" not in content


def test_the_name_of_a_file_is_only_shown(running: Server, client: httpx.Client) -> None:
    for name in (
        "../../../etc/passwd.png",
        "/etc/cron.d/x.png",
        "..\\..\\x.png",
        "x.png/../../y.tif",
        "x.svg",
        "x.html",
        ".htaccess",
    ):
        shown = post(client, LINE, image_bytes(2), name=name).json()
        assert shown["image_name"] == name.replace("\\", "/").split("/")[-1]
        answer = client.get(shown["files"]["image"])
        assert answer.content == image_bytes(2)
        assert answer.headers["content-type"] in ("image/png", "image/tiff", "application/octet-stream")
    stored = {path.name for path in (running.home.root / "media").glob("*/*/*")}
    assert stored <= {"image.png", "image.tif", "image.image", "heat.jpg", "thumb.jpg", "picture.jpg"}


def test_headers_are_on_every_answer(running: Server, client: httpx.Client) -> None:
    shown = post(client, LINE, image_bytes(3)).json()
    paths = [
        "/", "/login", "/history", f"/line/{LINE}", "/healthz", "/readyz", "/metrics", "/openapi.json", "/favicon.ico",
        "/nothing", "/api/nothing", "/api/lines", "/api/inspections?limit=0", shown["files"]["image"], shown["files"]["heat"],
        "/api/export.csv", "/static/nothing.js", "/static/report/page.css", "/v2", "/api/inspections/0", "/api/%00",
    ]  # fmt: skip
    answers = [client.get(path) for path in paths]
    answers += [httpx.get(running.url + "/api/lines", trust_env=False), client.request("TRACE", "/api/lines"), client.post("/")]
    answers += [client.post("/api/login", content=b"x" * 1_000_001), client.options("/api/lines")]
    with client.stream("GET", f"/api/lines/{LINE}/events") as stream:
        answers.append(stream)
    for answer in answers:
        for name, value in guard.HEADERS.items():
            assert answer.headers.get(name) == value, (answer.request.url, name)
        assert "server" not in answer.headers
        if answer.request.url.path.startswith("/api/") and "cache-control" in answer.headers:
            assert answer.headers["cache-control"] in ("no-store", "private, max-age=31536000, immutable")
    policy = guard.HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy


def test_an_unexpected_error_has_headers_and_no_details(station_folder: StationFactory) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("the secret of the station")

    async def get(app: Any) -> httpx.Response:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=True), base_url="http://x"
        ) as client:
            return await client.get("/healthz")

    with Station(station_folder().root) as station:
        answer = asyncio.run(get(guard.Guard(broken, station)))
        assert is_problem(answer, 500)
        assert "secret" not in answer.text
        assert answer.headers["X-Frame-Options"] == "DENY"


def test_bodies_have_a_limit_with_and_without_a_length(running: Server, client: httpx.Client) -> None:
    def chunks(megabytes: float) -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n'
        for _ in range(int(megabytes * 10)):
            yield b"x" * 100_000

    large = {"files": {"image": b"x" * 3_100_000}}
    assert is_problem(client.post(f"/api/lines/{LINE}/inspections", **large), 413)  # type: ignore[arg-type]
    assert is_problem(client.post(f"/api/lines/{LINE}/inspections", files={"image": b"x" * 2_500_000}), 413)
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert is_problem(client.post(f"/api/lines/{LINE}/inspections", content=chunks(4), headers=kind), 413)
    assert is_problem(client.post("/api/login", content=chunks(2), headers={"Content-Type": "application/json"}), 413)
    with running.client("engineer") as engineer:
        assert is_problem(engineer.post(f"/api/lines/{LINE}/models", files={"model": b"x" * 5_100_000}), 413)
    with running.client("viewer") as viewer:  # refused before the body is read
        assert is_problem(viewer.post(f"/api/lines/{LINE}/inspections", **large), 413)  # type: ignore[arg-type]
        assert is_problem(viewer.post(f"/api/lines/{LINE}/inspections", files={"image": b"x" * 1_500_000}), 403)
    assert list((running.home.root / "incoming").iterdir()) == []


def test_many_and_large_fields_are_refused(client: httpx.Client) -> None:
    address = f"/api/lines/{LINE}/inspections"
    image = {"image": ("x.png", image_bytes(4))}
    assert is_problem(client.post(address, files=image, data={f"field {n}": "x" for n in range(3000)}), 400)
    assert is_problem(client.post(address, files=image, data={"serial": "x" * 20_000}), 400)
    several = [("image", ("x.png", image_bytes(4))) for _ in range(50)]
    assert is_problem(client.post(address, files=several), 400)
    assert is_problem(client.post(address, content=b"--x\r\n" * 1000, headers={"Content-Type": "multipart/form-data"}), 400)


def test_a_silent_client_holds_nobody_up(running: Server, client: httpx.Client) -> None:
    head = (
        f"POST /api/lines/{LINE}/inspections HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {running.home.tokens['operator']}\r\n"
    )
    form = "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000000\r\n\r\n--x\r\n"
    starts = [
        (head + form).encode(),
        head.encode(),
        b"",
        b"GET / HT",
        b"POST /api/login HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{",
    ]
    with ExitStack() as opened:
        for number in range(200):
            connection = opened.enter_context(socket.create_connection(("127.0.0.1", running.port)))
            connection.sendall(starts[number % len(starts)])
        begin = monotonic()
        assert post(client, LINE, image_bytes(5)).status_code == 201
        assert httpx.get(running.url + "/readyz", trust_env=False).status_code == 200
        assert monotonic() - begin < PATIENCE / 4


def test_a_body_that_stalls_is_given_up(station_folder: StationFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "SILENCE", 0.2)
    sent: list[Message] = []

    async def stalled() -> Message:
        await asyncio.sleep(PATIENCE)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    with Station(station_folder(model=None).root) as station:
        headers = [(b"host", b"x"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/api/login", "query_string": b"", "headers": headers}
        asyncio.run(create_app(station)(scope, stalled, send))
        assert sent[0]["status"] == 408
        assert waiting_files(station) == []
