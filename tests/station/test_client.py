"""The client, against a real server and against what `/openapi.json` says."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest

from offnominal import client as package
from offnominal.client import ApiError, Client, Event, Inspection, UnreachableError
from offnominal.errors import InputError, OffnominalError
from station.conftest import ServerFactory, StationFactory
from station.servers import LINE, PATIENCE, Server, free_port, image_bytes

pytestmark = pytest.mark.slow

#: Dataclass of the client -> schema of the document. Events have none, since streams have no schema.
SCHEMAS = {
    "Region": "Region", "Review": "Review", "Inspection": "Inspection", "ReviewedInspection": "ReviewedInspection",
    "ModelVersion": "ModelVersion", "Drift": "Drift", "Line": "LineState",
}  # fmt: skip


@pytest.fixture(scope="module")
def running(station_folder: StationFactory, server: ServerFactory) -> Iterator[Server]:
    with server(station_folder()) as started:
        yield started


def client_of(server: Server, role: str = "engineer", **options: Any) -> Client:
    http = httpx.Client(trust_env=False, event_hooks=options.pop("event_hooks", {}))
    return Client(server.url, server.home.tokens[role], http=http, **({"timeout": PATIENCE} | options))


@pytest.fixture
def station(running: Server) -> Iterator[Client]:
    with client_of(running) as opened:
        yield opened


def test_parts_are_inspected_listed_and_reviewed(station: Client, tmp_path: Path) -> None:
    path, taken = tmp_path / "A-1.png", datetime(2026, 11, 30, 14, 5, tzinfo=UTC)
    path.write_bytes(image_bytes(150))
    good = station.inspect(LINE, path, serial="A-1", lot="client", taken_at=taken)
    assert (good.verdict, good.anomalous, good.serial, good.lot, good.taken_at) == ("ok", False, "A-1", "client", taken)
    assert (good.image_name, good.line, good.regions, good.by) == ("A-1.png", LINE, (), "test-engineer")
    bad = station.inspect(LINE, image_bytes(151, bad=True), lot="client", name="B.png")
    assert (bad.verdict, bad.image_name, bad.serial) == ("ng", "B.png", None)
    assert bad.score is not None
    assert bad.regions[0].peak == pytest.approx(bad.score)
    assert (datetime.now(UTC) - bad.judged_at).total_seconds() < PATIENCE
    review = station.review(bad.id, "ok", defect_class="hair", comment="no scratch")
    assert (review.verdict, review.defect_class, review.comment, review.by) == ("ok", "hair", "no scratch", "test-engineer")
    reviewed = station.inspection(bad.id)
    assert (reviewed.review, reviewed.reviews) == ("ok", (review,))
    assert list(station.inspections(LINE, lot="client", page=1)) == [dataclasses.replace(bad, review="ok"), good]
    assert [part.id for part in station.inspections(lot="client", order="oldest")] == [good.id, bad.id]
    assert [part.id for part in station.inspections(lot="client", verdict="ng", review="ok")] == [bad.id]
    assert list(station.inspections(serial="A-1", until=good.judged_at)) == []
    assert [part.id for part in station.inspections(serial="A-1", since=good.judged_at)] == [good.id]
    assert station.file(good.id) == path.read_bytes()
    assert station.file(good.id, "picture") == path.read_bytes()  # browsers show PNG
    for kind in ("heat", "thumbnail", "receipt"):
        assert station.file(bad.id, kind)[:3] == b"\xff\xd8\xff"


def test_the_same_key_is_one_part(station: Client) -> None:
    keyed = [station.inspect(LINE, image_bytes(152), lot="key", idempotency_key="key-1") for _ in range(2)]
    assert keyed[0] == keyed[1]
    assert station.inspect(LINE, image_bytes(152), lot="key") != station.inspect(LINE, image_bytes(152), lot="key")
    assert len(list(station.inspections(lot="key"))) == 3


def test_models_are_uploaded_activated_and_rolled_back(station: Client, other_model: Path) -> None:
    before = station.line(LINE)
    assert before.model is not None
    assert (before.ready, before.problem, before.sources) == (True, None, ())
    added = station.upload_model(LINE, other_model, comment="mine")
    assert (added.active, added.comment) == (False, "mine")
    assert station.activate(LINE, added.digest).active
    assert station.models(LINE)[0] == dataclasses.replace(added, active=True)
    assert station.roll_back(LINE) == before.model
    assert [line.name for line in station.lines()] == [LINE]


def test_errors_have_status_and_detail(running: Server, station: Client, tmp_path: Path) -> None:
    with client_of(running, "viewer") as viewer, pytest.raises(ApiError, match="this needs the role operator") as refused:
        viewer.inspect(LINE, image_bytes())
    assert refused.value.status == 403
    with pytest.raises(ApiError) as missing:
        station.inspection("no-part")
    assert missing.value.status == 404
    with pytest.raises(ApiError, match="is not a readable image") as unreadable:
        station.inspect(LINE, b"no image")
    assert unreadable.value.status == 422
    with pytest.raises(ApiError) as stranger, Client(running.url, "wrong", http=httpx.Client(trust_env=False)) as other:
        other.lines()
    assert stranger.value.status == 401
    with pytest.raises(ApiError) as gone:
        next(station.events("no-line", 0))
    assert gone.value.status == 404
    with pytest.raises(InputError, match="cannot be read"):
        station.inspect(LINE, tmp_path / "missing.png")
    with pytest.raises(InputError, match="give the address"):
        Client("127.0.0.1:8000", "token")


def test_a_station_that_is_away_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with Client(url, "token", patience=0.5, http=httpx.Client(trust_env=False)) as away:
        for call in (away.lines, lambda: next(away.events(LINE, 0)), lambda: away.roll_back(LINE)):
            with pytest.raises(UnreachableError, match=f"{url}: does not answer .*; is the station running"):
                call()


def test_every_part_is_inspected_once_while_the_station_is_full(station_folder: StationFactory, server: ServerFactory) -> None:
    """Eight clients, room for one part: many are refused, all are inspected in the end."""
    refused: list[int] = []

    def note(answer: httpx.Response) -> None:
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) > 0
            refused.append(answer.status_code)

    with server(station_folder(config="[limits]\nwaiting = 1\n")) as running:
        with client_of(running, event_hooks={"response": [note]}, patience=PATIENCE) as station, ThreadPoolExecutor(8) as pool:
            sent = list(pool.map(lambda seed: station.inspect(LINE, image_bytes(seed), serial=str(seed)), range(200, 216)))
            found = list(station.inspections(LINE))
        assert refused
        assert sorted(part.serial or "" for part in found) == sorted(part.serial or "" for part in sent)
        assert len(found) == 16


def test_a_part_is_inspected_once_although_answers_are_lost(running: Server, station: Client) -> None:
    """Something between client and station cuts the connection after the request, so nobody knows whether it arrived."""
    lost = 2

    def forward(listener: socket.socket) -> None:
        for number in range(lost + 1):
            incoming, _ = listener.accept()
            with incoming, socket.create_connection(("127.0.0.1", running.port)) as outgoing:
                incoming.settimeout(1)
                request = b""
                try:
                    while block := incoming.recv(65536):
                        request += block
                except TimeoutError:
                    pass
                outgoing.sendall(request.replace(b"Connection: keep-alive", b"Connection: close"))
                answer = b""
                while block := outgoing.recv(65536):
                    answer += block
                if number == lost:
                    incoming.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=forward, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Client(url, running.home.tokens["operator"], timeout=PATIENCE, http=httpx.Client(trust_env=False)) as behind:
            part = behind.inspect(LINE, image_bytes(153), lot="lost")
        thread.join()
    assert [found.id for found in station.inspections(lot="lost")] == [part.id]


def test_events_come_at_once_and_go_on_after_a_restart(station_folder: StationFactory, server: ServerFactory) -> None:
    with server(station_folder()) as running, client_of(running, patience=PATIENCE) as station:
        first = station.inspect(LINE, image_bytes(154), serial="1")
        received: list[Event] = []
        thread = threading.Thread(target=lambda: received.extend(islice(station.events(LINE, 0), 7)))
        thread.start()
        station.review(first.id, "ng")
        running.kill()
        running.start()
        second = station.inspect(LINE, image_bytes(155), serial="2")
        assert running.stop() in (0, 130)
        running.start()
        third = station.inspect(LINE, image_bytes(156), serial="3")
        thread.join(PATIENCE)
    kinds = ["line.created", "model.added", "model.activated", "inspection", "review", "inspection", "inspection"]
    assert [event.kind for event in received] == kinds
    assert [event.number for event in received] == sorted({event.number for event in received})
    assert [event.inspection.id for event in received if event.inspection] == [first.id, first.id, second.id, third.id]
    assert received[3].by == "test-engineer"


def test_events_without_a_start_are_the_new_ones(running: Server, station: Client) -> None:
    events = station.events(LINE)
    received: list[Event] = []
    thread = threading.Thread(target=lambda: received.append(next(events)))
    last = station.line(LINE).last_event
    thread.start()
    while not received:
        part = station.inspect(LINE, image_bytes(157), serial="new")
        thread.join(0.2)
    events.close()
    assert received[0].number > last
    assert received[0].inspection is not None
    assert received[0].inspection.serial == part.serial


def test_another_answer_than_expected_is_an_error_of_its_own() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=[{"name": 5}]) if "lines" in request.url.path else httpx.Response(200, text="<html>")

    with Client("http://station", "token", http=httpx.Client(transport=httpx.MockTransport(answer))) as other:
        with pytest.raises(OffnominalError, match="answers something else than this client expects"):
            other.lines()
        with pytest.raises(ApiError, match="does not answer JSON; is it a station"):
            other.inspection("1")


# The document


@pytest.fixture(scope="module")
def document(running: Server) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{running.url}/openapi.json", trust_env=False).json()
    return found


def operation_of(document: dict[str, Any], request: httpx.Request) -> dict[str, Any]:
    """The operation that a request asks for; fixed paths come before those with parameters."""
    for path in sorted(document["paths"], key=lambda path: path.count("{")):
        if re.fullmatch(re.sub(r"\{[a-z_]+\}", "[^/]+", path), request.url.path):
            operation: dict[str, Any] = document["paths"][path][request.method.lower()]
            return operation
    raise AssertionError(f"{request.method} {request.url.path}: is not in the document")


def body_fields(document: dict[str, Any], operation: dict[str, Any], media_type: str) -> set[str]:
    schema = operation["requestBody"]["content"][media_type]["schema"]
    return set(document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]]["properties"])


def test_all_that_the_client_sends_is_in_the_document(running: Server, document: dict[str, Any], other_model: Path) -> None:
    requests: list[httpx.Request] = []
    now = datetime.now(UTC)
    with client_of(running, event_hooks={"request": [requests.append]}) as station:
        part = station.inspect(LINE, image_bytes(158), serial="s", lot="l", taken_at=now)
        list(station.inspections(LINE, serial="s", lot="l", verdict="ok", review="none", since=now, until=now))
        list(islice(station.inspections(page=1), 2))  # with `after`
        station.inspection(part.id)
        station.file(part.id)
        station.review(part.id, "ng", defect_class="c", comment="c")
        station.lines()
        station.line(LINE)
        station.activate(LINE, station.upload_model(LINE, other_model, comment="c").digest)
        station.roll_back(LINE)
        station.models(LINE)
        next(station.events(LINE, 0))
    for request in requests:
        operation = operation_of(document, request)
        known = {(one["in"], one["name"].lower()) for one in operation.get("parameters", ())}
        assert {("query", name) for name in request.url.params} <= known, request.url
        assert ("idempotency-key" in request.headers) <= (("header", "idempotency-key") in known)
        content = request.read()
        media_type = request.headers.get("content-type", "").partition(";")[0]
        sent = set(re.findall(rb'form-data; name="([^"]+)"', content)) if media_type.startswith("multipart") else set()
        names = {name.decode() for name in sent} or set(json.loads(content) if content else ())
        assert names <= (body_fields(document, operation, media_type) if media_type else set())
    called = {operation_of(document, request)["operationId"] for request in requests}
    methods = {name for name, _ in inspect.getmembers(Client, inspect.isfunction) if not name.startswith("_")} - {"close"}
    assert len(called) == len(methods)  # each method was used, and each uses an operation of its own


def test_every_field_of_an_answer_is_in_the_document(document: dict[str, Any]) -> None:
    dataclass_names = {name for name in package.__all__ if dataclasses.is_dataclass(getattr(package, name))}
    assert dataclass_names == {*SCHEMAS, "Event"}
    for name, schema in SCHEMAS.items():
        fields = {field.name for field in dataclasses.fields(getattr(package, name))}
        fields = {"class" if field == "defect_class" else field for field in fields}
        described = document["components"]["schemas"][schema]
        assert fields <= set(described["properties"]), name
        left_out = set(described["properties"]) - fields
        assert left_out <= {"files"}, name  # `Client.file` fetches them
        assert fields <= set(described["required"]), name


def test_the_client_imports_nothing_heavy() -> None:
    code = (
        "import sys, offnominal.client; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'cv2', 'numpy', 'sqlalchemy', 'fastapi', 'PIL')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert Inspection.__module__ == "offnominal.client.answers"
