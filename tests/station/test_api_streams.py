"""Server-sent events, limits, and an orderly stop, over real HTTP."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import count
from typing import Any

import httpx
import pytest

from offnominal.station.inspections import Filter, listed
from offnominal.station.setup import Setup
from station.calls import is_problem, post
from station.conftest import ServerFactory, StationFactory
from station.servers import LINE, PATIENCE, Server, image_bytes

pytestmark = pytest.mark.slow


def streamed(
    client: httpx.Client, *, last: int | None = None, after: int | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and data of the events of a stream, until it ends."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with client.stream(
        "GET", f"/api/lines/{LINE}/events", headers=headers, params={} if after is None else {"after": after}
    ) as s:
        assert s.status_code == 200
        assert s.headers["content-type"].startswith("text/event-stream")
        number = 0
        for line in s.iter_lines():
            if line.startswith("id: "):
                number = int(line[4:])
            elif line.startswith("data: "):
                yield number, json.loads(line[6:])


def test_a_stream_that_reconnects_misses_nothing(
    station_folder: StationFactory, server: ServerFactory, database_url: str | None
) -> None:
    home = station_folder(database=database_url)
    seen: list[tuple[int, dict[str, Any]]] = []
    sent: list[str] = []

    def watch(running: Server, most: int) -> None:
        """Follow until `most` inspections were seen, then hang up in the middle of whatever comes."""
        last = seen[-1][0] if seen else None
        with running.client("viewer") as client:
            for event in streamed(client, last=last, after=0):
                seen.append(event)
                if sum(data["kind"] == "inspection" for _, data in seen) >= most:
                    return

    with server(home) as running, running.client() as client, ThreadPoolExecutor(1) as pool:
        for most in (2, 5):
            watching = pool.submit(watch, running, most)
            sent += [post(client, LINE, image_bytes(seed)).json()["id"] for seed in range(4)]
            watching.result(PATIENCE)
        client.post(f"/api/inspections/{sent[0]}/reviews", json={"verdict": "ng"})
    with server(home) as running, running.client() as client:
        sent.append(post(client, LINE, image_bytes(9)).json()["id"])
        watch(running, len(sent))
    numbers = [number for number, _ in seen]
    assert numbers == sorted(set(numbers))
    inspections = [data["inspection"] for _, data in seen if data["kind"] == "inspection"]
    assert [one["id"] for one in inspections] == sent
    reviews = [data for _, data in seen if data["kind"] == "review"]
    assert [(data["subject"], data["inspection"]["review"], data["by"]) for data in reviews] == [
        (sent[0], "ng", "test-operator")
    ]


def test_a_stream_without_a_start_shows_only_what_is_new_and_ends_with_the_station(
    station_folder: StationFactory, server: ServerFactory
) -> None:
    with server(station_folder()) as running, running.client() as client, ThreadPoolExecutor(1) as pool:
        post(client, LINE, image_bytes(1))
        opened = threading.Event()

        def follow() -> list[str]:
            subjects = []
            with running.client("viewer") as own:
                for _, data in streamed(own):
                    opened.set()
                    subjects.append(data["subject"])
            return subjects

        following, sent = pool.submit(follow), list[str]()
        while not opened.wait(0.5):
            sent.append(post(client, LINE, image_bytes(2)).json()["id"])
        assert running.stop() in (0, 130)  # the stream does not hold it up
        assert following.result(PATIENCE)[-1] == sent[-1]


def test_a_full_queue_is_answered_and_not_kept(station_folder: StationFactory, server: ServerFactory) -> None:
    home = station_folder(config="[limits]\nwaiting = 1\n")
    with server(home) as running:

        def send(seed: int) -> httpx.Response:
            with running.client() as client:
                return post(client, LINE, image_bytes(seed))

        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(send, range(36)))
        taken = [answer for answer in answers if answer.status_code == 201]
        refused = [answer for answer in answers if answer.status_code != 201]
        assert all(is_problem(answer, 503) for answer in refused)
        assert taken
        assert refused
        with running.client() as client:
            ids = {item["id"] for item in client.get("/api/inspections").json()["items"]}
            assert ids == {answer.json()["id"] for answer in taken}
            assert list((home.root / "incoming").iterdir()) == []
            metrics = client.get("/metrics").text
        assert f'offnominal_inspections_total{{line="{LINE}",verdict="ok"}} {len(taken)}.0' in metrics


def test_a_client_that_asks_too_often_is_slowed_down(station_folder: StationFactory, server: ServerFactory) -> None:
    with server(station_folder(config="[limits]\nrequests_per_second = 5\n")) as running, running.client() as client:
        answers = [client.get("/api/lines") for _ in range(40)]
        assert {answer.status_code for answer in answers} == {200, 429}
        assert all(is_problem(answer, 429) for answer in answers if answer.status_code != 200)


def test_a_stop_answers_what_was_accepted(
    station_folder: StationFactory, server: ServerFactory, database_url: str | None
) -> None:
    home, serials = station_folder(database=database_url), count()
    with server(home) as running:
        answered: list[str] = []

        def send() -> None:
            with running.client() as client, suppress(httpx.TransportError):
                while True:
                    answer = post(client, LINE, image_bytes(150), serial=f"S-{next(serials)}")
                    if answer.status_code != 201:
                        assert is_problem(answer, 503)
                        return
                    answered.append(answer.json()["serial"])

        with ThreadPoolExecutor(8) as pool:
            sending = [pool.submit(send) for _ in range(8)]
            while len(answered) < 16:
                pass
            assert running.process is not None
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(PATIENCE) in (0, 130)
            for one in sending:
                one.result(PATIENCE)
    with Setup(home.root) as opened, opened.database.read() as session:
        stored, _ = listed(session, Filter(line=LINE), 500)
    assert sorted(one["serial"] for one in stored) == sorted(answered)
    assert "Traceback" not in running.log


def test_streams_and_pictures_have_a_bound(station_folder: StationFactory, server: ServerFactory) -> None:
    """They would take the threads and the memory that inspections need."""
    with server(station_folder()) as running, running.client() as client:
        parts = [post(client, LINE, image_bytes(seed, bad=True)).json() for seed in range(40)]

        def receipt(part: dict[str, Any]) -> int:
            with running.client("viewer") as own:
                answer = own.get(f"/api/inspections/{part['id']}/receipt")
                assert answer.status_code == 200 or is_problem(answer, 503)
                return answer.status_code

        with ThreadPoolExecutor(40) as pool:
            statuses = list(pool.map(receipt, parts))
        assert 200 in statuses
        assert {receipt(part) for part in parts} == {200}
        request = (
            f"GET /api/lines/{LINE}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {running.home.tokens['viewer']}\r\n\r\n"
        )
        with ExitStack() as opened:
            answers = []
            for _ in range(70):
                connection = opened.enter_context(socket.create_connection(("127.0.0.1", running.port), PATIENCE))
                connection.sendall(request.encode())
                answers.append(connection.recv(12))
            assert answers.count(b"HTTP/1.1 200") == 64
            assert answers.count(b"HTTP/1.1 503") == 6
            assert post(client, LINE, image_bytes(1)).status_code == 201
        assert next(streamed(client, after=0))[0] == 1
