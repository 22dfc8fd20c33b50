"""Real stations, real server processes and a real PostgreSQL, which the tests of the station share."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import urlsplit

import cv2
import httpx
import psycopg

from conftest import damaged, texture
from offnominal.station import accounts, setup

#: Line of a test station, and seconds that a server may take to start or to stop. The machine may be busy.
LINE, PATIENCE = "parts", 180.0
PASSWORD = "correct horse battery"


def image_bytes(seed: int = 100, *, bad: bool = False) -> bytes:
    """A PNG of a generated part; with `bad`, one with a blotch that the model of the tests finds."""
    done, content = cv2.imencode(".png", damaged(seed)[0] if bad else texture(seed))
    assert done
    return content.tobytes()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class StationHome:
    """The folder of a station with a token of each role."""

    root: Path
    database_url: str | None
    tokens: Mapping[str, str]

    def add_user(self, name: str, role: str, password: str = PASSWORD) -> None:
        """Add a user; the station may run."""
        with setup.Setup(self.root) as opened, opened.database.write() as session:
            accounts.add_user(session, name, role, password, setup.COMMAND)


def make_station(
    root: Path, model: Path | None, *, database: str | None = None, lines: Sequence[str] = (LINE,), config: str = ""
) -> StationHome:
    """Create a station whose lines use a model. `config` is added to its config.toml."""
    setup.create(root, database)
    with (root / "config.toml").open("a", encoding="utf-8") as file:
        file.write(config)
    with setup.Setup(root) as opened:
        for line in lines:
            opened.add_line(line, model)
        with opened.database.write() as session:
            tokens = {role: accounts.add_token(session, f"test-{role}", role, "test") for role in accounts.ROLES}
    return StationHome(root, database, tokens)


@dataclass
class Server:
    """A process that serves a station. Use as a context manager, or call `stop`."""

    home: StationHome
    port: int
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What the processes of this server have printed so far."""
        return self._log.read_text("utf-8", "replace")

    @property
    def pid(self) -> int:
        """The process."""
        assert self.process is not None
        return self.process.pid

    def client(self, role: str = "operator") -> httpx.Client:
        """An HTTP client with the token of a role."""
        headers = {"Authorization": f"Bearer {self.home.tokens[role]}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE, trust_env=False, verify=False)  # no TLS here

    def start(self, *, ready: bool = True) -> Server:
        """Start the process, and wait until it is ready, or with `ready=False` until it answers at all."""
        self.launch()
        self.wait("/readyz" if ready else "/healthz")
        return self

    def launch(self) -> None:
        """Start the process, without waiting for it."""
        command = [sys.executable, "-m", "offnominal.cli", "serve", "--station", str(self.home.root), "--port", str(self.port)]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **self.environment}
            )

    def wait(self, path: str = "/readyz") -> None:
        """Wait until a path answers 200."""
        assert self.process is not None
        end, answer = monotonic() + PATIENCE, "no answer"
        with httpx.Client(base_url=self.url, trust_env=False, timeout=10, verify=False) as client:
            while monotonic() < end:
                try:
                    response = client.get(path)
                    if response.status_code == 200:
                        return
                    answer = response.text
                except httpx.TransportError as error:
                    answer = repr(error)
                if self.process.poll() is not None:
                    raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log[-4000:]}")
                sleep(0.05)
        raise AssertionError(f"{path} does not answer 200 ({answer}):\n{self.log[-4000:]}")

    def stop(self) -> int:
        """Stop with SIGTERM; return the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """End without a chance to clean up, as a power cut does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(PATIENCE)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process is not None and self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
                raise

    @property
    def _log(self) -> Path:
        return self.home.root.with_name(f"{self.home.root.name}.log")


class Postgres:
    """A PostgreSQL cluster in a temporary folder, reached by a Unix socket only. It never runs as root."""

    def __init__(self, programs: Path) -> None:
        self._programs, self._count = programs, 0
        self.root = Path(tempfile.mkdtemp(prefix="offnominal-pg-"))  # short: paths of sockets are limited
        if os.geteuid() == 0:
            shutil.chown(self.root, "postgres", "postgres")
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--no-locale")

    @staticmethod
    def programs() -> Path | None:
        """Folder of the newest installed server programs; None if there are none that can be used."""
        if os.geteuid() == 0 and shutil.which("runuser") is None:
            return None
        installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
        found = installed[-1] if installed else shutil.which("initdb")
        return None if found is None else Path(found).resolve().parent

    def start(self) -> None:
        """Start the server and wait for it."""
        options = f"-k {self.root} -c listen_addresses='' -c fsync=off -c max_connections=100"
        self._run("pg_ctl", "-D", str(self._data), "-o", options, "-l", str(self.root / "log"), "-w", "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server: `immediate` as a crash, `fast` in order."""
        self._run("pg_ctl", "-D", str(self._data), "-m", mode, "-w", "stop")

    def new_database(self) -> str:
        """Create a database and return its URL for SQLAlchemy."""
        self._count += 1
        name = f"station_{self._count}"
        with psycopg.connect(f"host={self.root} user=postgres dbname=postgres", autocommit=True) as connection:
            connection.execute(f"create database {name}")
        return f"postgresql+psycopg://postgres@/{name}?host={self.root}"

    def copy_database(self, url: str) -> str:
        """Create a copy of a database that nobody uses now; return its URL."""
        other = self.new_database()
        source, copy = urlsplit(url).path[1:], urlsplit(other).path[1:]
        with psycopg.connect(f"host={self.root} user=postgres dbname=postgres", autocommit=True) as connection:
            connection.execute(f"drop database {copy}")
            connection.execute(f"create database {copy} template {source}")
        return other

    def remove(self) -> None:
        """Stop the server and remove its files."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.root, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self.root / "data"

    def _run(self, program: str, *arguments: str) -> None:
        prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        with tempfile.TemporaryFile() as output:  # a pipe would stay open in the server that pg_ctl starts
            command = [*prefix, str(self._programs / program), *arguments]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", check=False)
            output.seek(0)
            assert done.returncode == 0, f"{program}: {output.read().decode(errors='replace')}"
