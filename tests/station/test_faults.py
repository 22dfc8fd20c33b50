"""What fails outside the station: clear in /readyz, nothing answered that is not kept, and it goes on by itself."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from station.calls import is_problem, post
from station.conftest import ServerFactory, StationFactory
from station.killing import broken
from station.servers import LINE, PATIENCE, Postgres, Server, image_bytes, make_station

pytestmark = pytest.mark.slow


def problems(running: Server) -> list[str]:
    """What /readyz says; the process answers in any case."""
    assert httpx.get(running.url + "/healthz", trust_env=False, timeout=PATIENCE).status_code == 200
    answer = httpx.get(running.url + "/readyz", trust_env=False, timeout=PATIENCE)
    shown: list[str] = answer.json()["problems"]
    assert answer.status_code == (503 if shown else 200)
    assert answer.json()["ready"] == (not shown)
    return shown


def until(condition: Callable[[], Any]) -> None:
    end = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < end
        sleep(0.1)


def serves(running: Server, seed: int = 150, **known: str) -> dict[str, Any]:
    """The answer to a good part."""
    with running.client() as client:
        answer = post(client, LINE, image_bytes(seed), **known)
        assert answer.status_code == 201, answer.text
        shown: dict[str, Any] = answer.json()
        return shown


def refused(running: Server, reason: str, image: bytes | None = None) -> None:
    """Assert that a part is refused with 503 and a reason, and that nothing of it is kept."""
    with running.client() as client:
        answer = post(client, LINE, image_bytes(151) if image is None else image)
        assert is_problem(answer, 503)
        assert reason in answer.json()["detail"]
    assert list((running.home.root / "incoming").iterdir()) == []


class Loaded:
    """Sends parts all the time, also while that fails; `answered` has the identifiers."""

    def __init__(self, running: Server) -> None:
        self.answered: list[str] = []
        self.statuses: set[int] = set()
        self._running, self._stop = running, threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(3)]

    def _send(self) -> None:
        with self._running.client() as client:
            while not self._stop.is_set():
                answer = post(client, LINE, image_bytes(152))
                self.statuses.add(answer.status_code)
                if answer.status_code == 201:
                    self.answered.append(answer.json()["id"])
                else:
                    assert is_problem(answer, 503)
                    sleep(0.1)

    def more(self, number: int = 4) -> None:
        """Wait for more answers."""
        before = len(self.answered)
        until(lambda: len(self.answered) >= before + number)

    def __enter__(self) -> Loaded:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str, int], Path]]:
    """Mounts small disks: `disk(name, megabytes)`. Only root may."""
    with ExitStack() as mounted:

        def mount(name: str, megabytes: int) -> Path:
            folder = tmp_path / name
            folder.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
            if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
                pytest.skip("only root may mount a small disk")
            mounted.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=True)
            return folder

        yield mount


def filled(folder: Path, left: int) -> Path:
    """Fill a disk up to some bytes; the file to remove."""
    status = os.statvfs(folder)
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - left)
    return ballast


def test_a_full_disk(disk: Callable[[str, int], Path], server: ServerFactory, model_file: Path) -> None:
    root = disk("station", 60) / "station"
    home = make_station(root, model_file, config="[keep]\nreserve_gigabytes = 0.0\n")
    with server(home, environment={"TMPDIR": str(disk("spool", 1))}) as running:
        kept = serves(running)["id"]
        ballast = filled(root.parent, 5_000_000)
        until(lambda: problems(running))
        assert "the disk is full" in problems(running)[0]
        refused(running, "the disk is full")
        ballast.unlink()
        assert problems(running) == []
        serves(running)
        # A disk that becomes full while an image is received, first where the station keeps it, then where it is received.
        noise = np.random.default_rng(0).integers(0, 255, (2048, 2048, 3), np.uint8)
        Image.fromarray(noise).save(large := root.parent / "large.bmp")
        content = large.read_bytes()
        large.unlink()
        refused(running, "the disk is full", content)
        assert serves(running)
    with server(home) as running:
        ballast = filled(root.parent, 11_000_000)
        assert problems(running) == []
        refused(running, "the disk is full", content)
        ballast.unlink()
        with running.client() as client:
            assert post(client, LINE, content, name="large.bmp").status_code == 201
    assert kept
    assert broken(home) == []


def test_a_disk_without_space_for_the_database(
    disk: Callable[[str, int], Path], server: ServerFactory, model_file: Path, tmp_path: Path
) -> None:
    """The images lie on a disk of their own, which has space."""
    root = disk("station", 60) / "station"
    home = make_station(root, model_file, config="[keep]\nreserve_gigabytes = 0.0\n")
    (root / "media").rmdir()
    (tmp_path / "media").mkdir()
    (root / "media").symlink_to(tmp_path / "media")
    with server(home) as running:
        serves(running)
        ballast = filled(root.parent, 0)
        assert "the disk is full" in problems(running)[0]
        with running.client() as client:
            assert is_problem(post(client, LINE, image_bytes(151)), 503)
            part = client.get("/api/inspections").json()["items"][0]
            assert is_problem(client.post(f"/api/inspections/{part['id']}/reviews", json={"verdict": "ng"}), 503)
        ballast.unlink()
        assert problems(running) == []
        serves(running)
    assert broken(home) == []


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A PostgreSQL of this test alone, which it may stop."""
    programs = Postgres.programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    cluster = Postgres(programs)
    try:
        cluster.start()
        yield cluster
    finally:
        with suppress(AssertionError):  # it may be stopped already
            cluster.remove()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_database_that_is_away_for_some_seconds(
    own_postgres: Postgres, station_folder: StationFactory, server: ServerFactory, mode: str
) -> None:
    home = station_folder(database=own_postgres.new_database())
    with server(home) as running, Loaded(running) as load:
        load.more()
        own_postgres.stop(mode)
        until(lambda: problems(running))
        assert "the database is not available" in problems(running)[0]
        with running.client() as client:
            for answer in (client.get("/api/lines"), post(client, LINE, image_bytes(1)), client.get("/v2")):
                assert is_problem(answer, 503)
        before = len(load.answered)
        sleep(3)
        assert len(load.answered) == before
        own_postgres.start()
        until(lambda: not problems(running))
        load.more()
        assert load.statuses == {201, 503}
    assert running.stop() in (0, 130)
    assert broken(home, load.answered) == []
    with server(home) as running:
        serves(running)
    assert broken(home, load.answered) == []


def test_a_database_that_is_away_at_the_start(
    own_postgres: Postgres, station_folder: StationFactory, server: ServerFactory
) -> None:
    home = station_folder(database=own_postgres.new_database())
    own_postgres.stop("fast")
    with server(home, ready=False) as running:
        assert "the database is not available" in problems(running)[0]
        refused(running, "the database is not available")
        own_postgres.start()
        running.wait("/readyz")
        serves(running)
    assert broken(home) == []


def test_a_database_that_hangs(own_postgres: Postgres, station_folder: StationFactory, server: ServerFactory) -> None:
    home = station_folder(database=own_postgres.new_database())
    group = int((own_postgres.root / "data" / "postmaster.pid").read_text().split()[0])
    with server(home) as running, Loaded(running) as load:
        load.more()
        found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(group)], capture_output=True, text=True, check=True)
        processes = [group, *map(int, found.stdout.split())]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            sleep(2)
            assert httpx.get(running.url + "/healthz", trust_env=False, timeout=PATIENCE).status_code == 200
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)
        load.more()
        assert problems(running) == []
    assert broken(home, load.answered) == []


LOCKED = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("begin exclusive")
print("locked", flush=True)
time.sleep(3)
connection.execute("commit")
"""


def test_a_database_that_another_program_locks(station_folder: StationFactory, server: ServerFactory) -> None:
    home = station_folder()
    with server(home) as running, Loaded(running) as load:
        load.more()
        command = [sys.executable, "-c", LOCKED, str(home.root / "station.sqlite")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"locked\n"
            before = len(load.answered)
            assert httpx.get(running.url + "/healthz", trust_env=False).status_code == 200
            sleep(1)
            assert len(load.answered) <= before + 3  # what was committed before
        load.more()
        assert load.statuses == {201}  # they waited
    assert broken(home, load.answered) == []
    with sqlite3.connect(home.root / "station.sqlite") as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]


def test_a_model_file_that_is_broken(station_folder: StationFactory, server: ServerFactory, model_file: Path) -> None:
    home = station_folder(lines=(LINE, "other"))
    (file,) = (home.root / "models").iterdir()
    good = file.read_bytes()
    bad = good[:-1] + bytes([good[-1] ^ 1])
    with server(home) as running, running.client("engineer") as client:
        client.post("/api/lines", json={"name": "third"})
        client.post("/api/lines/third/models", files={"model": good})
        for content in (bad, b"", None):  # broken, empty, missing
            file.unlink()
            if content is not None:
                file.write_bytes(content)
            answer = client.post(f"/api/lines/third/models/{file.stem}/activate")
            assert is_problem(answer, 422)
            assert str(home.root) not in answer.text
            assert client.get("/api/lines/third").json()["model"] is None
            if content is None:
                assert is_problem(client.get(f"/api/lines/third/models/{file.stem}"), 404)
                file.touch()
        serves(running)  # what is loaded goes on
        assert problems(running) == []
    with server(home, ready=False) as running, running.client("engineer") as client:
        until(lambda: len(problems(running)) == 2)
        shown = problems(running)
        assert [problem.split(":")[0] for problem in shown] == ["line other", f"line {LINE}"]
        assert all("the active model cannot be loaded" in problem for problem in shown)
        assert str(home.root) not in str(shown)
        refused(running, "the active model cannot be loaded")
        line = client.get(f"/api/lines/{LINE}").json()
        assert (line["ready"], line["problem"] is None) == (False, False)
        file.write_bytes(good)
        running.wait("/readyz")
        serves(running)
    assert broken(home) == []
