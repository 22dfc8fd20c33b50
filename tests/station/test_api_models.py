"""Models over HTTP: upload, activation, rollback, and a swap under load."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from offnominal import Detector, load
from offnominal.station import lines
from offnominal.station.setup import Setup
from station.calls import is_problem, post
from station.conftest import ServerFactory, StationFactory
from station.servers import LINE, PATIENCE, Server, image_bytes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(parts: Path, model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The model of the stations of the tests, and two others."""
    folder, found = tmp_path_factory.mktemp("models"), [model_file]
    for bank in (200, 250):
        found.append(folder / f"{bank}.safetensors")
        Detector(image_size=128, bank=bank, false_alarm_rate=0.1).fit(parts).save(found[-1])
    return found


@pytest.fixture(scope="module")
def digests(models: list[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in models]


@pytest.fixture(scope="module")
def engineer(station_folder: StationFactory, server: ServerFactory) -> Iterator[httpx.Client]:
    with server(station_folder()) as running, running.client("engineer") as client:
        yield client


def line_with(client: httpx.Client, name: str, models: list[Path]) -> None:
    """Create a line and upload models; none is active."""
    assert client.post("/api/lines", json={"name": name}).status_code == 201
    for number, path in enumerate(models, 1):
        added = client.post(f"/api/lines/{name}/models", files={"model": path.read_bytes()}, data={"comment": path.stem})
        assert added.status_code == 201, added.text
        assert (added.json()["number"], added.json()["active"], added.json()["comment"]) == (number, False, path.stem)


def active(client: httpx.Client, line: str) -> str | None:
    """Digest of the active version; the list of versions and the line agree."""
    model = client.get(f"/api/lines/{line}").json()["model"]
    listed = [version["digest"] for version in client.get(f"/api/lines/{line}/models").json() if version["active"]]
    assert listed == ([] if model is None else [model["digest"]])
    return listed[0] if listed else None


def activate(client: httpx.Client, line: str, digest: str) -> None:
    answer = client.post(f"/api/lines/{line}/models/{digest}/activate")
    assert (answer.status_code, answer.json()["active"]) == (200, True)


def test_upload_activate_and_download(engineer: httpx.Client, models: list[Path], digests: list[str]) -> None:
    line_with(engineer, "upload", models[:2])
    assert active(engineer, "upload") is None
    assert is_problem(post(engineer, "upload", image_bytes()), 503)
    again = engineer.post("/api/lines/upload/models", files={"model": models[0].read_bytes()})
    assert (again.status_code, again.json()["number"]) == (201, 1)  # the same file is the same version
    assert [version["number"] for version in engineer.get("/api/lines/upload/models").json()] == [2, 1]
    for number in (1, 0):
        activate(engineer, "upload", digests[number])
        assert active(engineer, "upload") == digests[number]
        shown = post(engineer, "upload", image_bytes(150)).json()
        assert shown["model"] == digests[number]
    assert engineer.get(f"/api/lines/upload/models/{digests[1]}").content == models[1].read_bytes()
    assert is_problem(engineer.post(f"/api/lines/upload/models/{digests[2]}/activate"), 404)  # of no line yet
    assert is_problem(engineer.get("/api/lines/upload/models/nothing"), 404)


def test_rollback_goes_back_step_by_step(engineer: httpx.Client, models: list[Path], digests: list[str]) -> None:
    first, second, third = digests
    line_with(engineer, "rollback", models)

    def roll_back() -> str | None:
        answer = engineer.post("/api/lines/rollback/rollback")
        assert answer.status_code == 200, answer.text
        assert answer.json()["digest"] == active(engineer, "rollback")
        return active(engineer, "rollback")

    for digest in digests:
        activate(engineer, "rollback", digest)
    assert [roll_back(), roll_back()] == [second, first]
    assert is_problem(engineer.post("/api/lines/rollback/rollback"), 409)
    activate(engineer, "rollback", third)
    assert roll_back() == first  # not the version that was left by a rollback
    activate(engineer, "rollback", second)
    activate(engineer, "rollback", second)  # a second click
    assert roll_back() == first
    activate(engineer, "rollback", second)
    activate(engineer, "rollback", first)
    assert [roll_back(), roll_back()] == [second, first]
    kinds = [(version["number"], version["active"]) for version in engineer.get("/api/lines/rollback/models").json()]
    assert kinds == [(3, False), (2, False), (1, True)]
    assert post(engineer, "rollback", image_bytes(150)).json()["model"] == first


def test_the_active_version_survives_a_restart(
    station_folder: StationFactory, server: ServerFactory, models: list[Path], digests: list[str], database_url: str | None
) -> None:
    home = station_folder(database=database_url)
    with server(home) as running, running.client("engineer") as client:
        client.post(f"/api/lines/{LINE}/models", files={"model": models[1].read_bytes()})
        activate(client, LINE, digests[1])
    with server(home) as running, running.client("engineer") as client:
        assert post(client, LINE, image_bytes(150)).json()["model"] == digests[1]
        assert client.post(f"/api/lines/{LINE}/rollback").json()["digest"] == digests[0]


def test_a_broken_upload_changes_nothing(engineer: httpx.Client, models: list[Path], digests: list[str]) -> None:
    line_with(engineer, "broken", models[:1])
    activate(engineer, "broken", digests[0])
    content = models[1].read_bytes()
    flipped = bytearray(content)
    flipped[-1] ^= 1
    for wrong in (b"", b"x", content[:-1], content[: len(content) // 2], content + b"x", bytes(flipped), image_bytes()):
        answer = engineer.post("/api/lines/broken/models", files={"model": wrong})
        assert is_problem(answer, 422)
        assert "/" not in answer.json()["detail"]  # no path of the station
    assert active(engineer, "broken") == digests[0]
    assert len(engineer.get("/api/lines/broken/models").json()) == 1
    assert post(engineer, "broken", image_bytes(150)).status_code == 201


def test_a_model_is_swapped_under_load_without_a_failed_request(
    station_folder: StationFactory, server: ServerFactory, models: list[Path], digests: list[str]
) -> None:
    images = [image_bytes(seed, bad=bad) for seed in (150, 151) for bad in (False, True)]
    scores = {}
    for path, digest in zip(models[:2], digests[:2], strict=True):
        detector = load(path)
        for number, image in enumerate(images):
            (file := path.with_name(f"swap-{number}.png")).write_bytes(image)
            scores[digest, number] = detector.inspect(file).score
    stop, used = threading.Event(), list[str]()

    def send(running: Server) -> None:
        with running.client() as client:
            number = 0
            while not stop.is_set():
                answer = post(client, LINE, images[number % len(images)])
                assert answer.status_code == 201, answer.text
                shown = answer.json()
                assert shown["score"] == scores[shown["model"], number % len(images)]
                used.append(shown["model"])
                number += 1

    with server(station_folder()) as running, running.client("engineer") as client, ThreadPoolExecutor(3) as pool:
        client.post(f"/api/lines/{LINE}/models", files={"model": models[1].read_bytes()})
        sending = [pool.submit(send, running) for _ in range(3)]
        try:
            for turn in range(8):
                activate(client, LINE, digests[(turn + 1) % 2])
                before = len(used)
                while len(used) < before + 3 and not any(one.done() for one in sending):
                    pass
        finally:
            stop.set()
        for one in sending:
            one.result(PATIENCE)
    assert set(used) == set(digests[:2])
    with Setup(running.home.root) as opened, opened.database.read() as session:
        version = lines.active(session, lines.line_named(session, LINE))
        assert version is not None
        assert version.digest == digests[0]
